//! VDI's bytes. All numbers are little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What stands at byte 64.
pub const SIGNATURE: u32 = 0xbeda_107f;
/// Version 1.1, the only one.
pub const VERSION: u32 = 0x0001_0001;

/// [`Header::kind`] of an image whose blocks were all given their places when it was made.
pub const STATIC: u32 = 2;

/// The header, a sector.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// The program that made it.
    pub text: [u8; 64],
    /// [`SIGNATURE`].
    pub signature: U32,
    /// [`VERSION`].
    pub version: U32,
    /// Bytes of the header.
    pub header_size: U32,
    /// 1 dynamic, or [`STATIC`].
    pub kind: U32,
    /// Flags.
    pub flags: U32,
    /// Anything.
    pub description: [u8; 256],
    /// Where the table is.
    pub table_offset: U32,
    /// Where the blocks are.
    pub data_offset: U32,
    /// Geometry: cylinders, heads, sectors a track.
    pub geometry: [U32; 3],
    /// Bytes of a sector: 512.
    pub sector_size: U32,
    /// Unused.
    pub unused: U32,
    /// Virtual size in bytes.
    pub disk_size: U64,
    /// Bytes of a block.
    pub block_size: U32,
    /// Bytes before each block.
    pub block_extra: U32,
    /// Entries of the table.
    pub blocks_in_image: U32,
    /// Entries with a block.
    pub blocks_allocated: U32,
    /// Identifier.
    pub id: [u8; 16],
    /// Identifier of the last snapshot.
    pub snapshot_id: [u8; 16],
    /// Identifier of an image that this one is a difference to.
    pub link_id: [u8; 16],
    /// Identifier of its parent.
    pub parent_id: [u8; 16],
    /// Zero.
    pub reserved: [u8; 56],
}

const _: () = assert!(size_of::<Header>() == 512 && core::mem::offset_of!(Header, disk_size) == 0x170);
