//! VHD's bytes. All numbers are big-endian.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a footer.
pub const FOOTER_COOKIE: [u8; 8] = *b"conectix";
/// First bytes of a dynamic header.
pub const DYNAMIC_COOKIE: [u8; 8] = *b"cxsparse";
/// Disk type: content and a footer.
pub const FIXED: u32 = 2;
/// Disk type: blocks.
pub const DYNAMIC: u32 = 3;
/// Version of footer and dynamic header.
pub const VERSION: u32 = 0x0001_0000;
/// Disk type: blocks over a parent.
pub const DIFFERENCING: u32 = 4;
/// Sectors of the largest disk, as in QEMU: 2040 GiB.
pub const SECTORS_MAX: u64 = 0xff00_0000;
/// Most entries of a table, as in QEMU.
pub const TABLE_ENTRIES_MAX: u64 = (i32::MAX / 4) as u64;

/// The footer, a sector; a copy is at the front of a dynamic disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Footer {
    /// [`FOOTER_COOKIE`].
    pub cookie: [u8; 8],
    /// Features; nobody goes by them.
    pub features: U32,
    /// Version of the format, 0x0001_0000.
    pub version: U32,
    /// Where the dynamic header is.
    pub data_offset: U64,
    /// Seconds since 2000.
    pub timestamp: U32,
    /// The program that made it.
    pub creator_application: [u8; 4],
    /// Its version.
    pub creator_version: U32,
    /// Its system.
    pub creator_os: [u8; 4],
    /// Size in bytes when it was made.
    pub original_size: U64,
    /// Size in bytes.
    pub current_size: U64,
    /// Geometry.
    pub cylinders: U16,
    /// Geometry.
    pub heads: u8,
    /// Geometry: sectors a track.
    pub sectors: u8,
    /// Disk type.
    pub kind: U32,
    /// The complement of the sum of all other bytes.
    pub checksum: U32,
    /// Identifier.
    pub id: [u8; 16],
    /// Whether a virtual machine's state was saved with it.
    pub saved_state: u8,
    /// Zero.
    pub reserved: [u8; 427],
}

/// What follows the front footer of a dynamic disk.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DynamicHeader {
    /// [`DYNAMIC_COOKIE`].
    pub cookie: [u8; 8],
    /// Unused.
    pub data_offset: U64,
    /// Where the table is.
    pub table_offset: U64,
    /// Version, 0x0001_0000.
    pub version: U32,
    /// Entries of the table.
    pub max_table_entries: U32,
    /// Bytes of a block.
    pub block_size: U32,
    /// The complement of the sum of all other bytes.
    pub checksum: U32,
    /// Identifier of the parent, of a differencing disk.
    pub parent_id: [u8; 16],
    /// When the parent's file was changed last. Copies do not keep it, and nobody goes by it.
    pub parent_timestamp: U32,
    /// Zero.
    pub reserved: U32,
    /// The parent's name, UTF-16.
    pub parent_name: [u8; 512],
    /// Where the parent is, in the words of several systems.
    pub locators: [Locator; 8],
    /// Zero.
    pub reserved_2: [u8; 256],
}

/// Where a parent is, in the words of a system.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Locator {
    /// The system.
    pub platform: [u8; 4],
    /// Room for the words: in sectors, or in bytes.
    pub space: U32,
    /// Bytes of the words.
    pub len: U32,
    /// Zero.
    pub reserved: U32,
    /// Where the words are.
    pub offset: U64,
}

/// A relative path of Windows, UTF-16, its low bytes first.
pub const WINDOWS_RELATIVE: [u8; 4] = *b"W2ru";
/// An absolute path of Windows, in the same way.
pub const WINDOWS_ABSOLUTE: [u8; 4] = *b"W2ku";
/// A URL of a file, UTF-8.
pub const MAC_URL: [u8; 4] = *b"MacX";
/// Most bytes of a locator's words that are read: a path of Windows has at most 32,767 units.
pub const LOCATOR_LEN_MAX: u32 = 64 << 10;

const _: () = assert!(size_of::<Footer>() == 512 && core::mem::offset_of!(Footer, kind) == 60);
const _: () = assert!(size_of::<DynamicHeader>() == 1024 && core::mem::offset_of!(DynamicHeader, locators) == 576);
