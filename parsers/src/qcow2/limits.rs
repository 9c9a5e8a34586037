//! QEMU's limits for qcow2 images (`block/qcow2.h`, 10.0). What is past them, qemu-img does not open.

/// Smallest cluster: 512 bytes.
pub const CLUSTER_BITS_MIN: u32 = 9;
/// Largest cluster: 2 MiB.
pub const CLUSTER_BITS_MAX: u32 = 21;
/// Refcounts of at most 64 bits.
pub const REFCOUNT_ORDER_MAX: u32 = 6;
/// Bytes of the L1 table: 32 MiB.
pub const L1_LEN_MAX: u64 = 32 << 20;
/// Bytes of the refcount table: 8 MiB.
pub const REFCOUNT_TABLE_LEN_MAX: u64 = 8 << 20;
/// Snapshots of an image.
pub const SNAPSHOTS_MAX: u32 = 65536;
/// Bytes of the snapshot table: 1 KiB a snapshot.
pub const SNAPSHOT_TABLE_LEN_MAX: u64 = 64 << 20;
/// Bytes of a snapshot's extra data.
pub const SNAPSHOT_EXTRA_LEN_MAX: u32 = 1024;
/// Bytes of the backing file name.
pub const BACKING_NAME_LEN_MAX: u32 = 1023;
/// Bytes of the backing format's name.
pub const BACKING_FORMAT_LEN_MAX: u32 = 15;
/// Bitmaps of an image.
pub const BITMAPS_MAX: u32 = 65535;
/// Bytes of the bitmap directory: 1 KiB a bitmap.
pub const BITMAP_DIRECTORY_LEN_MAX: u64 = 1024 * 65535;
/// Entries of a bitmap table.
pub const BITMAP_TABLE_SIZE_MAX: u32 = 0x800_0000;
/// Bytes of a bitmap: 512 MiB.
pub const BITMAP_LEN_MAX: u64 = 512 << 20;
/// Bytes of a bitmap's name.
pub const BITMAP_NAME_LEN_MAX: u16 = 1023;
/// Smallest granularity of a bitmap: 512 bytes.
pub const BITMAP_GRANULARITY_BITS_MIN: u8 = 9;
/// Largest granularity of a bitmap: 2 GiB.
pub const BITMAP_GRANULARITY_BITS_MAX: u8 = 31;
/// Subclusters of a cluster with extended L2 entries.
pub const SUBCLUSTERS: u32 = 32;
/// `info` shows this many bytes of a snapshot's ID (`QEMUSnapshotInfo`, 128 with its NUL).
pub const SNAPSHOT_ID_SHOWN: usize = 127;
/// `info` shows this many bytes of a snapshot's name (256 with its NUL).
pub const SNAPSHOT_NAME_SHOWN: usize = 255;
