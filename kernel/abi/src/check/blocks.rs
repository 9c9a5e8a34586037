//! What check finds in the formats whose disk is in blocks, and in LUKS volumes.

use serde::{Deserialize, Serialize};

/// What is wrong with a VDI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VdiFinding {
    /// An entry's block is one that another entry has.
    BlockTwice {
        /// The block of the file.
        block: u32,
    },
    /// An entry's block is none of the image's.
    BlockTooLarge {
        /// Number of the entry.
        index: u32,
        /// The block of the file.
        block: u32,
    },
    /// The header has another number of blocks in use.
    Allocated {
        /// Blocks in use.
        found: u32,
        /// What the header says.
        expected: u32,
    },
}

/// What is wrong with a Parallels image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParallelsFinding {
    /// It was not closed.
    Unclean,
    /// Where blocks start is within the table, or past the end of the file.
    DataOffset,
    /// A block is not wholly in the file.
    PastEnd {
        /// Number of the entry.
        index: u32,
    },
    /// What follows the last block.
    Leaked {
        /// Bytes.
        len: u64,
    },
    /// An entry's block is one that an entry before it has.
    Twice {
        /// Number of the entry.
        index: u32,
    },
}

/// What is wrong with a VMDK. Sectors are of the disk unless said otherwise; extents count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmdkFinding {
    /// An entry on the way to a grain makes no sense.
    GrainUnreadable {
        /// First sector that it concerns.
        sector: u64,
    },
    /// A grain is past the end of its file.
    GrainPastEnd {
        /// Its first sector.
        sector: u64,
    },
    /// A grain is where something else is.
    GrainShared {
        /// Its first sector.
        sector: u64,
        /// The first sector of the file that both have.
        at: u64,
    },
    /// A grain table is past the end of its file.
    TablePastEnd {
        /// The extent.
        extent: u32,
        /// Number of the table.
        index: u64,
    },
    /// A grain table is where something else is.
    TableShared {
        /// The extent.
        extent: u32,
        /// Number of the table.
        index: u64,
        /// The first sector of the file that both have.
        at: u64,
    },
    /// Header, descriptor and directories are in each other's place.
    MetadataShared {
        /// The extent.
        extent: u32,
        /// The first sector of the file that two have.
        at: u64,
    },
    /// The redundant grain directory is past the end of its file.
    RedundantDirectory {
        /// The extent.
        extent: u32,
    },
    /// A grain table is another one than the redundant directory's.
    RedundantTable {
        /// The extent.
        extent: u32,
        /// Number of the table.
        index: u64,
    },
    /// The marker before a grain's stream is another grain's.
    MarkerPlace {
        /// First sector of the grain.
        sector: u64,
        /// What the marker says, in the extent.
        found: u64,
    },
    /// The marker before a grain's stream says of no length that can be.
    MarkerLen {
        /// First sector of the grain.
        sector: u64,
        /// What the marker says, in bytes.
        len: u32,
    },
    /// The header in front says something else than the one in the footer.
    Footer {
        /// The extent.
        extent: u32,
    },
    /// An extent was not closed.
    Unclean {
        /// The extent.
        extent: u32,
    },
    /// A transfer as text has changed the file.
    LineEnds {
        /// The extent.
        extent: u32,
    },
    /// The descriptor has another length than the extent's own header.
    ExtentLen {
        /// The extent.
        extent: u32,
        /// Sectors by its header.
        found: u64,
        /// Sectors by the descriptor.
        expected: u64,
    },
    /// A flat extent's file ends within the extent.
    FlatShort {
        /// The extent.
        extent: u32,
        /// Bytes of the file.
        found: u64,
        /// Bytes that it must have.
        expected: u64,
    },
}

/// What is wrong with a VHDX. An index is one of the block allocation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VhdxFinding {
    /// A block would end past all files.
    Overflow {
        /// Number of the entry.
        index: u64,
    },
    /// A block starts past the end of the file.
    StartPastEnd {
        /// Number of the entry.
        index: u64,
        /// Where it starts.
        offset: u64,
        /// Bytes of the file.
        file_len: u64,
    },
    /// A block ends past the end of the file.
    EndPastEnd {
        /// Number of the entry.
        index: u64,
        /// Its last byte.
        last: u64,
        /// Bytes of the file.
        file_len: u64,
    },
    /// A block is where something else is.
    RegionOverlap {
        /// First byte of the block.
        start: u64,
        /// The byte after its last.
        end: u64,
        /// First byte of the other.
        region_start: u64,
        /// The byte after the other's last.
        region_end: u64,
    },
    /// One of the two headers is broken, and the other is in use.
    Header {
        /// Which, from 1.
        number: u8,
    },
    /// One of the two region tables is broken.
    RegionTable {
        /// Which, from 1.
        number: u8,
    },
    /// The two region tables differ.
    RegionTablesDiffer,
    /// The log holds changes that were not made.
    Log,
    /// A state that no block of such a disk has.
    State {
        /// Number of the entry.
        index: u64,
        /// The state.
        state: u8,
    },
    /// Reserved bits of an entry.
    Reserved {
        /// Number of the entry.
        index: u64,
        /// The entry.
        entry: u64,
    },
    /// A block is where another one is.
    Shared {
        /// Number of the entry.
        index: u64,
        /// The first byte that both have.
        offset: u64,
    },
    /// A block that is there in part, without the bitmap that tells which.
    NoBitmap {
        /// Number of the entry.
        index: u64,
    },
}

/// What is wrong with a VHD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VpcFinding {
    /// The footer at the end is not the one at the front.
    FooterCopy,
    /// The dynamic header's checksum is wrong.
    HeaderChecksum,
    /// A version that nobody knows, of the footer or of the dynamic header.
    Version {
        /// What it says.
        found: u32,
    },
    /// A type of disk that nobody knows.
    Kind {
        /// What the footer says.
        found: u32,
    },
    /// The header of a fixed disk says of more bytes than the file has.
    FixedShort {
        /// Bytes before the footer.
        found: u64,
        /// Bytes that it must have.
        expected: u64,
    },
    /// A block is past the end of the file.
    PastEnd {
        /// Number of the entry.
        index: u64,
    },
    /// A block is where something else is.
    Shared {
        /// Number of the entry.
        index: u64,
        /// The first sector of the file that both have.
        at: u64,
    },
    /// Headers and table are in each other's place.
    MetadataShared {
        /// The first sector of the file that two have.
        at: u64,
    },
}

/// What is wrong with a LUKS volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LuksFinding {
    /// No key slot is in use: nothing opens it.
    NoSlot,
    /// The key material of a slot in use is past the end of the file.
    SlotPastEnd {
        /// The slot.
        slot: u8,
    },
    /// The payload is past the end of the file.
    PayloadPastEnd {
        /// Where it starts.
        offset: u64,
        /// Bytes of the file.
        file_len: u64,
    },
}
