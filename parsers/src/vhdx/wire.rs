//! VHDX's bytes. All numbers are little-endian; identifiers are GUIDs as they lie on disk.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of the file.
pub const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";
/// Where the two headers are, and their length.
pub const HEADER_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
/// Bytes of a header that its checksum covers.
pub const HEADER_LEN: usize = 4 << 10;
/// First bytes of a header.
pub const HEADER_SIGNATURE: [u8; 4] = *b"head";
/// Where the two region tables are.
pub const REGION_OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a region table or metadata table that its checksum or entries cover.
pub const TABLE_LEN: usize = 64 << 10;
/// First bytes of a region table.
pub const REGION_SIGNATURE: [u8; 4] = *b"regi";
/// Most entries of a region table.
pub const REGIONS_MAX: u32 = 2047;
/// First bytes of the metadata table.
pub const METADATA_SIGNATURE: [u8; 8] = *b"metadata";
/// First bytes of an entry of the log.
pub const LOG_SIGNATURE: [u8; 4] = *b"loge";

/// Region of the block allocation table.
pub const REGION_BAT: [u8; 16] = guid(0x2dc2_7766, 0xf623, 0x4200, *b"\x9d\x64\x11\x5e\x9b\xfd\x4a\x08");
/// Region of the metadata.
pub const REGION_METADATA: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, *b"\xb8\xfe\x57\x5f\x05\x0f\x88\x6e");

/// Item: block size and flags.
pub const ITEM_FILE: [u8; 16] = guid(0xcaa1_6737, 0xfa36, 0x4d43, *b"\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b");
/// Item: virtual size.
pub const ITEM_SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, *b"\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8");
/// Item: identifier of the disk.
pub const ITEM_PAGE_83: [u8; 16] = guid(0xbeca_12ab, 0xb2e6, 0x4523, *b"\x93\xef\xc3\x09\xe0\x00\xc7\x46");
/// Item: bytes of a sector that the machine sees.
pub const ITEM_LOGICAL_SECTOR: [u8; 16] = guid(0x8141_bf1d, 0xa96f, 0x4709, *b"\xba\x47\xf2\x33\xa8\xfa\xab\x5f");
/// Item: bytes of a sector of the medium.
pub const ITEM_PHYSICAL_SECTOR: [u8; 16] = guid(0xcda3_48c7, 0x445d, 0x4471, *b"\x9c\xc9\xe9\x88\x52\x51\xc5\x56");
/// Item: where the parent is.
pub const ITEM_PARENT: [u8; 16] = guid(0xa8d3_5f2d, 0xb30b, 0x454d, *b"\xab\xf7\xd3\xd8\x48\x34\xab\x0c");

/// A GUID as it lies on disk: three little-endian fields, and eight bytes.
const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
    [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7]
}

/// A header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`HEADER_SIGNATURE`].
    pub signature: [u8; 4],
    /// CRC-32C of [`HEADER_LEN`] bytes, itself as zero.
    pub checksum: U32,
    /// The header with the larger one is current.
    pub sequence: U64,
    /// Changed when the file is opened for writing.
    pub file_write_id: [u8; 16],
    /// Changed when content is written.
    pub data_write_id: [u8; 16],
    /// What entries of the log must have to count; zero: the log is empty.
    pub log_id: [u8; 16],
    /// 0.
    pub log_version: U16,
    /// 1.
    pub version: U16,
    /// Bytes of the log.
    pub log_len: U32,
    /// Where the log is.
    pub log_offset: U64,
}

/// The front of a region table.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionTable {
    /// [`REGION_SIGNATURE`].
    pub signature: [u8; 4],
    /// CRC-32C of [`TABLE_LEN`] bytes, itself as zero.
    pub checksum: U32,
    /// Entries, at most 2047.
    pub count: U32,
    /// Zero.
    pub reserved: U32,
}

/// An entry of a region table.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Region {
    /// What it is.
    pub id: [u8; 16],
    /// Where, a multiple of 1 MiB.
    pub offset: U64,
    /// Bytes, a multiple of 1 MiB.
    pub len: U32,
    /// Bit 0: who does not know it may not open the file.
    pub flags: U32,
}

/// The front of the metadata table; entries follow at byte 32.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MetadataTable {
    /// [`METADATA_SIGNATURE`].
    pub signature: [u8; 8],
    /// Zero.
    pub reserved: U16,
    /// Entries, at most 2047.
    pub count: U16,
    /// Zero.
    pub reserved_2: [u8; 20],
}

/// An entry of the metadata table.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Item {
    /// What it is.
    pub id: [u8; 16],
    /// Where, from the metadata region's start.
    pub offset: U32,
    /// Bytes.
    pub len: U32,
    /// Bit 2: who does not know it may not open the file.
    pub flags: U32,
    /// Zero.
    pub reserved: U32,
}

/// The front of an entry of the log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LogEntry {
    /// [`LOG_SIGNATURE`].
    pub signature: [u8; 4],
    /// CRC-32C of the entry, itself as zero.
    pub checksum: U32,
    /// Bytes of the entry, a multiple of 4 KiB.
    pub len: U32,
    /// Offset of the oldest entry that counts with this one.
    pub tail: U32,
    /// Ascending.
    pub sequence: U64,
    /// Descriptors.
    pub count: U32,
    /// Zero.
    pub reserved: U32,
    /// The header's `log_id`.
    pub log_id: [u8; 16],
    /// Length of the file that the entry needs.
    pub flushed_len: U64,
    /// Length of the file after.
    pub last_len: U64,
}

/// First bytes of a descriptor of zeros.
pub const ZERO_SIGNATURE: [u8; 4] = *b"zero";
/// First bytes of a descriptor of data.
pub const DATA_SIGNATURE: [u8; 4] = *b"desc";
/// First bytes of a sector of data.
pub const SECTOR_SIGNATURE: [u8; 4] = *b"data";

/// A descriptor of an entry of the log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LogDescriptor {
    /// [`ZERO_SIGNATURE`] or [`DATA_SIGNATURE`].
    pub signature: [u8; 4],
    /// Of data: the last four bytes of the sector. Else zero.
    pub trailing: U32,
    /// Of data: the first eight bytes of the sector. Of zeros: how many bytes, a multiple of 4 KiB.
    pub leading: U64,
    /// Where in the file, a multiple of 4 KiB.
    pub offset: U64,
    /// The entry's.
    pub sequence: U64,
}

/// Kind of a locator: the parent is a VHDX.
pub const LOCATOR_KIND: [u8; 16] = guid(0xb04a_efb7, 0xd19e, 0x4a81, *b"\xb7\x89\x25\xb8\xe9\x44\x59\x13");

/// The front of a parent locator; pairs follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ParentLocator {
    /// [`LOCATOR_KIND`].
    pub kind: [u8; 16],
    /// Zero.
    pub reserved: U16,
    /// Pairs.
    pub count: U16,
}

/// A key and its value, UTF-16. Offsets count from the locator's start.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Pair {
    /// Where the key is.
    pub key_offset: U32,
    /// Where the value is.
    pub value_offset: U32,
    /// Bytes of the key.
    pub key_len: U16,
    /// Bytes of the value.
    pub value_len: U16,
}

const _: () = assert!(size_of::<LogDescriptor>() == 32 && size_of::<ParentLocator>() == 20 && size_of::<Pair>() == 12);
const _: () = assert!(size_of::<Header>() == 80 && size_of::<Region>() == 32 && size_of::<MetadataTable>() == 32);
const _: () = assert!(size_of::<Item>() == 32 && size_of::<LogEntry>() == 64);
