//! VMDK's bytes. All numbers are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a sparse extent.
pub const MAGIC: [u8; 4] = *b"KDMV";
/// [`Header::gd_offset`]: the header that counts is in the footer.
pub const GD_AT_END: u64 = u64::MAX;
/// [`Header::compression`]: grains are zlib streams.
pub const DEFLATE: u16 = 1;
/// Kind of the marker before a footer.
pub const MARKER_FOOTER: u32 = 3;
/// Where the descriptor of a sparse extent is, and as much of it as QEMU reads.
pub const DESCRIPTOR_OFFSET: u64 = 512;
/// Bytes of it that identifiers and the parent's name are looked for in.
pub const DESCRIPTOR_LEN: usize = 20 * 512;

/// What [`Header::line_ends`] are in a file that was never taken for text.
pub const LINE_ENDS: [u8; 4] = *b"\n \r\n";

/// Bits of [`Header::flags`].
pub mod flag {
    /// [`Header::line_ends`](super::Header::line_ends) are set.
    pub const LINE_ENDS: u32 = 1;
    /// There is a redundant grain directory.
    pub const REDUNDANT: u32 = 1 << 1;
    /// An entry of 1 is a grain of zeros.
    pub const ZERO_GRAIN: u32 = 1 << 2;
    /// Grains are behind markers.
    pub const MARKER: u32 = 1 << 17;
}

/// The header of a sparse extent, a sector.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// 1 to 3.
    pub version: U32,
    /// Flags.
    pub flags: U32,
    /// Sectors of the disk.
    pub capacity: U64,
    /// Sectors of a grain.
    pub grain_sectors: U64,
    /// Sector of the descriptor; 0: it is in a file of its own.
    pub descriptor_offset: U64,
    /// Sectors of the descriptor.
    pub descriptor_len: U64,
    /// Entries of a grain table.
    pub table_entries: U32,
    /// Sector of the redundant grain directory.
    pub redundant_gd_offset: U64,
    /// Sector of the grain directory.
    pub gd_offset: U64,
    /// Sectors before the first grain.
    pub grain_offset: U64,
    /// It was not closed.
    pub unclean: u8,
    /// Line ends, against transfers as text.
    pub line_ends: [u8; 4],
    /// How grains are compressed.
    pub compression: U16,
    /// Zero.
    pub reserved: [u8; 433],
}

/// A marker, with its kind where it is none of a grain.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Marker {
    /// Sector of a grain; sectors that follow.
    pub value: U64,
    /// Bytes of a grain's stream; 0: it is no grain's.
    pub len: U32,
    /// What follows.
    pub kind: U32,
    /// Zero.
    pub reserved: [u8; 496],
}

/// The end of a stream-optimized extent.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Footer {
    /// Of kind [`MARKER_FOOTER`].
    pub marker: Marker,
    /// The header that counts.
    pub header: Header,
    /// All zero.
    pub end: Marker,
}

/// First bytes of a sparse extent of ESX, which QEMU calls `VMDK3`.
pub const COWD_MAGIC: [u8; 4] = *b"COWD";

/// The header of a sparse extent of ESX, as far as it is read.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CowdHeader {
    /// [`COWD_MAGIC`].
    pub magic: [u8; 4],
    /// 1.
    pub version: U32,
    /// 3; nobody goes by it.
    pub flags: U32,
    /// Sectors of the disk.
    pub sectors: U32,
    /// Sectors of a grain.
    pub grain_sectors: U32,
    /// Sector of the grain directory.
    pub gd_offset: U32,
    /// Entries of the grain directory.
    pub gd_entries: U32,
    /// The next free sector.
    pub free_sector: U32,
}

/// [`SeHeader::magic`].
pub const SE_MAGIC: u64 = 0xcafe_babe;
/// [`SeVolatile::magic`].
pub const SE_VOLATILE_MAGIC: u64 = 0xcafe_cafe;
/// [`SeHeader::version`]: 2.1.
pub const SE_VERSION: u64 = 0x2_0000_0001;
/// [`SeHeader::grain_sectors`].
pub const SE_GRAIN_SECTORS: u64 = 8;
/// [`SeHeader::table_sectors`].
pub const SE_TABLE_SECTORS: u64 = 64;

/// The header of a space-efficient sparse extent, a sector that never changes. Places and lengths are in sectors.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SeHeader {
    /// [`SE_MAGIC`].
    pub magic: U64,
    /// [`SE_VERSION`].
    pub version: U64,
    /// Sectors of the disk.
    pub capacity: U64,
    /// [`SE_GRAIN_SECTORS`].
    pub grain_sectors: U64,
    /// [`SE_TABLE_SECTORS`].
    pub table_sectors: U64,
    /// Zero: flags, and four numbers.
    pub reserved: [U64; 5],
    /// The header that changes.
    pub volatile: SePlace,
    /// Journal header.
    pub journal_header: SePlace,
    /// Journal.
    pub journal: SePlace,
    /// Grain directory.
    pub directory: SePlace,
    /// Grain tables.
    pub tables: SePlace,
    /// Bitmap of free grains.
    pub free_bitmap: SePlace,
    /// From grains back to entries.
    pub backmap: SePlace,
    /// Grains.
    pub grains: SePlace,
    /// Zero.
    pub padding: [u8; 304],
}

/// Where something is in a space-efficient sparse extent.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SePlace {
    /// First sector.
    pub offset: U64,
    /// Sectors.
    pub len: U64,
}

/// The header of a space-efficient sparse extent that changes, a sector.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SeVolatile {
    /// [`SE_VOLATILE_MAGIC`].
    pub magic: U64,
    /// The next free grain table.
    pub free_table: U64,
    /// Sequence number of the next transaction.
    pub sequence: U64,
    /// Not zero: the journal has changes that were not made.
    pub replay_journal: U64,
    /// Zero.
    pub padding: [u8; 480],
}

const _: () = assert!(size_of::<Header>() == 512 && size_of::<Footer>() == 1536);
const _: () = assert!(core::mem::offset_of!(Header, compression) == 77);
const _: () = assert!(size_of::<CowdHeader>() == 32 && size_of::<SeHeader>() == 512 && size_of::<SeVolatile>() == 512);
const _: () =
    assert!(core::mem::offset_of!(SeHeader, directory) == 128 && core::mem::offset_of!(SeHeader, grains) == 192);
