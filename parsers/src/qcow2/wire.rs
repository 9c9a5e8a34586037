//! qcow2's bytes. All numbers are big-endian.
//!
//! # Source
//! QEMU, `docs/interop/qcow2.rst`; spec text is shortened.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First four bytes of an image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The file header. Version 2 has the first 72 bytes, version 3 says how many in `header_length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// 0–3: [`MAGIC`].
    pub magic: [u8; 4],
    /// 4–7: 2 or 3.
    pub version: U32,
    /// 8–15: offset of the backing file name, not terminated; 0: no backing file.
    pub backing_file_offset: U64,
    /// 16–19: bytes of the backing file name, at most 1023.
    pub backing_file_size: U32,
    /// 20–23: log2 of the cluster size, at least 9.
    pub cluster_bits: U32,
    /// 24–31: virtual size in bytes.
    pub size: U64,
    /// 32–35: 0 none, 1 AES, 2 LUKS.
    pub crypt_method: U32,
    /// 36–39: entries of the active L1 table.
    pub l1_size: U32,
    /// 40–47: offset of the active L1 table, cluster-aligned.
    pub l1_table_offset: U64,
    /// 48–55: offset of the refcount table, cluster-aligned.
    pub refcount_table_offset: U64,
    /// 56–59: clusters of the refcount table.
    pub refcount_table_clusters: U32,
    /// 60–63: snapshots in the image.
    pub nb_snapshots: U32,
    /// 64–71: offset of the snapshot table, cluster-aligned.
    pub snapshots_offset: U64,
    /// 72–79: version 3: bits that must be known to read the image, see [`incompatible`].
    pub incompatible_features: U64,
    /// 80–87: version 3: bits that may be ignored, see [`compatible`].
    pub compatible_features: U64,
    /// 88–95: version 3: bits a writer that does not know them must clear, see [`autoclear`].
    pub autoclear_features: U64,
    /// 96–99: version 3: log2 of the bits of a refcount, at most 6; 4 in version 2.
    pub refcount_order: U32,
    /// 100–103: version 3: bytes of the header, a multiple of 8, at least 104.
    pub header_length: U32,
    /// 104: 0 deflate, 1 Zstandard; 0 where the header is shorter.
    pub compression_type: u8,
    /// 105–111: zero.
    pub padding: [u8; 7],
}

const _: () = assert!(size_of::<Header>() == 112);
const _: () = assert!(core::mem::offset_of!(Header, incompatible_features) == HEADER_LEN_V2 as usize);
const _: () = assert!(core::mem::offset_of!(Header, compression_type) == HEADER_LEN_V3_MIN as usize);

/// Bytes of a version 2 header.
pub const HEADER_LEN_V2: u32 = 72;
/// Fewest bytes of a version 3 header.
pub const HEADER_LEN_V3_MIN: u32 = 104;

/// Bits of [`Header::incompatible_features`].
pub mod incompatible {
    /// Refcounts may be wrong: a writer with lazy refcounts did not finish.
    pub const DIRTY: u64 = 1 << 0;
    /// Something is known to be wrong; not to be written.
    pub const CORRUPT: u64 = 1 << 1;
    /// Data clusters are in an external file.
    pub const DATA_FILE: u64 = 1 << 2;
    /// The compression type is not deflate.
    pub const COMPRESSION: u64 = 1 << 3;
    /// L2 entries of 16 bytes, with 32 subclusters.
    pub const EXTENDED_L2: u64 = 1 << 4;
    /// All that are known.
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Bits of [`Header::compatible_features`].
pub mod compatible {
    /// Refcounts may be written late, with the dirty bit set meanwhile.
    pub const LAZY_REFCOUNTS: u64 = 1 << 0;
    /// All that are known.
    pub const KNOWN: u64 = LAZY_REFCOUNTS;
}

/// Bits of [`Header::autoclear_features`].
pub mod autoclear {
    /// The bitmaps extension is consistent with the data.
    pub const BITMAPS: u64 = 1 << 0;
    /// The external data file is the disk as it is.
    pub const DATA_FILE_RAW: u64 = 1 << 1;
    /// All that are known.
    pub const KNOWN: u64 = BITMAPS | DATA_FILE_RAW;
}

/// Types of header extensions.
pub mod extension {
    /// The last one.
    pub const END: u32 = 0;
    /// Name of the backing file's format.
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// [`super::FeatureName`]s.
    pub const FEATURE_NAMES: u32 = 0x6803_f857;
    /// [`super::BitmapsExtension`].
    pub const BITMAPS: u32 = 0x2385_2875;
    /// [`super::CryptoExtension`].
    pub const CRYPTO: u32 = 0x0537_be77;
    /// Name of the external data file.
    pub const DATA_FILE: u32 = 0x4441_5441;
}

/// What precedes each header extension's data, which is padded to 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtensionHeader {
    /// See [`extension`].
    pub kind: U32,
    /// Bytes of data, without padding.
    pub len: U32,
}

const _: () = assert!(size_of::<ExtensionHeader>() == 8);

/// An entry of the feature name table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FeatureName {
    /// 0 incompatible, 1 compatible, 2 autoclear.
    pub kind: u8,
    /// The bit, 0 to 63.
    pub bit: u8,
    /// Name, padded with zeros, unless it has all 46 bytes.
    pub name: [u8; 46],
}

const _: () = assert!(size_of::<FeatureName>() == 48);

/// Data of the bitmaps extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BitmapsExtension {
    /// Bitmaps in the image, 1 to 65535.
    pub nb_bitmaps: U32,
    /// Zero.
    pub reserved: U32,
    /// Bytes of the bitmap directory.
    pub bitmap_directory_size: U64,
    /// Offset of the bitmap directory, cluster-aligned.
    pub bitmap_directory_offset: U64,
}

const _: () = assert!(size_of::<BitmapsExtension>() == 24);

/// Data of the full disk encryption header pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CryptoExtension {
    /// Offset of the LUKS header, cluster-aligned.
    pub offset: U64,
    /// Bytes of LUKS header and key slots.
    pub length: U64,
}

const _: () = assert!(size_of::<CryptoExtension>() == 16);

/// The fixed part of a snapshot table entry; extra data, ID and name follow, and the next entry is 8-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SnapshotHeader {
    /// Offset of the snapshot's L1 table, cluster-aligned.
    pub l1_table_offset: U64,
    /// Entries of the snapshot's L1 table.
    pub l1_size: U32,
    /// Bytes of the ID.
    pub id_size: U16,
    /// Bytes of the name.
    pub name_size: U16,
    /// Creation time, seconds since 1970.
    pub date_seconds: U32,
    /// Nanoseconds of the creation time.
    pub date_nanoseconds: U32,
    /// Time the guest ran, in nanoseconds.
    pub vm_clock_nanoseconds: U64,
    /// Bytes of VM state; 0 where they don't fit, see [`SnapshotExtra`].
    pub vm_state_size: U32,
    /// Bytes of extra data.
    pub extra_data_size: U32,
}

const _: () = assert!(size_of::<SnapshotHeader>() == 40);

/// The known part of a snapshot's extra data; each field is there only where the size reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SnapshotExtra {
    /// Bytes of VM state.
    pub vm_state_size: U64,
    /// Virtual size of the snapshot.
    pub disk_size: U64,
    /// Instruction count; all ones: none.
    pub icount: U64,
}

const _: () = assert!(size_of::<SnapshotExtra>() == 24);

/// The fixed part of a bitmap directory entry; extra data and name follow, and the next entry is 8-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BitmapEntry {
    /// Offset of the bitmap table, cluster-aligned.
    pub table_offset: U64,
    /// Entries of the bitmap table.
    pub table_size: U32,
    /// Bit 0: in use, bit 1: auto; others zero.
    pub flags: U32,
    /// 1: dirty tracking bitmap.
    pub kind: u8,
    /// log2 of the bytes that a bit stands for, 9 to 31.
    pub granularity_bits: u8,
    /// Bytes of the name, at most 1023.
    pub name_size: U16,
    /// Bytes of extra data: zero.
    pub extra_data_size: U32,
}

const _: () = assert!(size_of::<BitmapEntry>() == 24);

/// Flags of tables' entries.
pub mod entry {
    /// L1, L2: bits 9 to 55 are an offset.
    pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    /// L1, L2: the table or cluster has a refcount of exactly 1.
    pub const COPIED: u64 = 1 << 63;
    /// L2: a compressed cluster; the other bits mean something else then.
    pub const COMPRESSED: u64 = 1 << 62;
    /// L2 of 8 bytes, version 3: reads as zeros whatever the offset says.
    pub const ZERO: u64 = 1 << 0;
    /// L1: bits 0 to 8 and 56 to 62 are zero.
    pub const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
    /// L2, not compressed: bits 1 to 8 and 56 to 61 are zero.
    pub const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
    /// Refcount table: bits 9 to 63 are an offset.
    pub const REFCOUNT_BLOCK: u64 = !REFCOUNT_RESERVED;
    /// Refcount table: bits 0 to 8 are zero.
    pub const REFCOUNT_RESERVED: u64 = 0x1ff;
    /// Bitmap table: bits 1 to 8 and 56 to 63 are zero.
    pub const BITMAP_RESERVED: u64 = 0xff00_0000_0000_01fe;
    /// Bitmap table without offset: all ones instead of all zeros.
    pub const BITMAP_ONES: u64 = 1 << 0;
}
