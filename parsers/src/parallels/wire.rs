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
