//! Parallels' bytes. All numbers are little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The only version.
pub const VERSION: u32 = 2;

/// The header; the table follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// `WithoutFreeSpace`, or `WithouFreSpacExt`.
    pub magic: [u8; 16],
    /// [`VERSION`].
    pub version: U32,
    /// Geometry: heads and cylinders.
    pub geometry: [U32; 2],
    /// Sectors of a block.
    pub block_sectors: U32,
    /// Entries of the table.
    pub entries: U32,
    /// Sectors of the disk.
    pub sectors: U64,
    /// `YnotT` backwards while it is open.
    pub in_use: U32,
    /// Sector where blocks start.
    pub data_offset: U32,
    /// Flags.
    pub flags: U32,
    /// Sector of the extension; 0: none.
    pub extension_offset: U64,
}

const _: () = assert!(size_of::<Header>() == 64);

/// The start of a format extension.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtensionHeader {
    /// Tells that it is one.
    pub magic: U64,
    /// MD5 of the rest of its cluster.
    pub checksum: [u8; 16],
}

/// The start of a feature.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Feature {
    /// What it is.
    pub kind: U64,
    /// None is known.
    pub flags: U64,
    /// Bytes that follow, without what fills them up to a multiple of 8.
    pub len: U32,
    /// Unused.
    pub unused: U32,
}

/// A dirty bitmap; its table follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BitmapFeature {
    /// Sectors of the disk.
    pub sectors: U64,
    /// Its UUID.
    pub id: [u8; 16],
    /// Sectors that a bit stands for.
    pub granularity: U32,
    /// Entries of its table.
    pub entries: U32,
}

const _: () =
    assert!(size_of::<ExtensionHeader>() == 24 && size_of::<Feature>() == 24 && size_of::<BitmapFeature>() == 32);
