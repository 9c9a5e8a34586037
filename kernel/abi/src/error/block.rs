//! Failures of the formats whose disk is in blocks of one size.

use serde::{Deserialize, Serialize};

/// Why such an image can't be opened or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockError {
    /// The file ends within a structure.
    Truncated {
        /// The structure.
        structure: Structure,
    },
    /// A structure does not begin as it must.
    Magic {
        /// The structure.
        structure: Structure,
    },
    /// A structure's checksum is wrong.
    Checksum {
        /// The structure.
        structure: Structure,
    },
    /// A version that nobody knows.
    Version {
        /// What the header says.
        found: u64,
    },
    /// Features that nobody knows.
    Features {
        /// Their bits.
        unknown: u64,
    },
    /// A field is out of bounds.
    Field {
        /// Which.
        field: Field,
        /// Its value.
        found: u64,
    },
    /// The table has fewer entries than the disk has blocks.
    TableShort {
        /// Entries.
        entries: u64,
        /// Blocks.
        needed: u64,
    },
    /// A table's entry leads nowhere.
    Entry {
        /// The table.
        structure: Structure,
        /// Index in it.
        index: u64,
        /// The entry.
        found: u64,
    },
    /// The text that describes the image says of no kind of image that is known what it is.
    CreateType,
    /// A line of the text that describes the image is no extent, and looks like one.
    ExtentLine {
        /// Its number, from 1.
        line: u32,
    },
    /// A part of the content is in a file that was not opened.
    NoExtent {
        /// Its index among the parts.
        index: u32,
    },
    /// The layer below is not the one that the image was made on.
    ParentChanged {
        /// The identifier that it had.
        expected: Identity,
        /// The identifier that it has.
        found: Identity,
    },
    /// The log has changes that can't be made in memory: it is damaged, or needs a file that is longer.
    Log,
    /// What the image does not hold is in a parent, by an identifier and not by a name that could be opened.
    Differencing,
}

/// What tells the content of one image from that of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// A VMDK's content identifier.
    Cid(u32),
    /// A GUID or UUID, as it lies in the file.
    Id([u8; 16]),
}

/// A structure of such an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Structure {
    /// The header, at the start.
    Header,
    /// The footer of a VHD.
    Footer,
    /// The second header of a dynamic VHD.
    DynamicHeader,
    /// The only table, or the upper one of two.
    Table,
    /// A lower table.
    LowerTable,
    /// The footer of a stream-optimized VMDK.
    StreamFooter,
    /// The text that describes a VMDK.
    Descriptor,
    /// The region table of a VHDX.
    RegionTable,
    /// The metadata of a VHDX.
    Metadata,
    /// What names a parent.
    Locator,
    /// Which sectors of a block are there.
    Bitmap,
    /// The second header of a VMDK of ESX, which changes.
    VolatileHeader,
    /// The log of a VHDX.
    Log,
    /// The format extension of a Parallels image.
    Extension,
}

/// A field of such an image's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    /// Virtual size.
    VirtualSize,
    /// Bytes of a block.
    BlockSize,
    /// Bytes of a sector.
    SectorSize,
    /// Where the table is.
    TableOffset,
    /// Size or number of entries of the table.
    TableSize,
    /// Size of a lower table.
    LowerTableSize,
    /// Where the blocks are.
    DataOffset,
    /// Where the log is.
    LogOffset,
    /// Bytes of the log.
    LogSize,
    /// How content is encrypted.
    Encryption,
    /// Where the name of the layer below is.
    BackingNameOffset,
    /// Length of the name of the layer below.
    BackingNameLen,
    /// Flags, or bytes that must be zero.
    Reserved,
    /// A journal that would have to be replayed.
    Journal,
    /// Who may read a part of the content.
    Access,
    /// How many files hold parts of the content.
    Extents,
}
