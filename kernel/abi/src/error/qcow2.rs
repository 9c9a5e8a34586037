//! qcow2 images: what can be wrong with them.

use super::LuksError;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A table of a qcow2 image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// The reference count table.
    Refcount,
    /// The snapshot table.
    Snapshot,
    /// The active L1 table.
    ActiveL1,
    /// A snapshot's L1 table.
    SnapshotL1,
}

/// The name of a feature bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeatureName {
    /// As the image's own feature name table has it, at most 46 bytes.
    Named(Vec<u8>),
    /// Bits that the table does not name, as a mask.
    Unnamed(u64),
}

/// Why a compressed cluster can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodecError {
    /// The stream is no valid stream of its kind, or is cut short.
    Stream,
    /// The stream holds less than a cluster.
    Short {
        /// Bytes decoded.
        found: u64,
        /// Bytes of a cluster.
        expected: u64,
    },
    /// The stream asks for a window of more memory than a cluster can need.
    Window,
}

/// Why a qcow2 image can't be opened or read. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qcow2Error {
    /// The version is neither 2 nor 3.
    Version {
        /// What the header says.
        found: u32,
    },
    /// The file ends within the header.
    FileTooShort {
        /// Bytes of the file.
        len: u64,
    },
    /// The cluster size is not 2^9 to 2^21.
    ClusterBits {
        /// What the header says.
        found: u32,
    },
    /// A version 3 header of less than 104 bytes.
    HeaderTooShort {
        /// What the header says.
        found: u32,
    },
    /// The header is longer than a cluster.
    HeaderExceedsCluster {
        /// What the header says.
        found: u32,
        /// Bytes of a cluster.
        cluster_size: u32,
    },
    /// The backing file name is not in the first cluster.
    BackingOffset {
        /// What the header says.
        found: u64,
    },
    /// The backing file name is longer than 1023 bytes or leaves the first cluster.
    BackingNameLen {
        /// What the header says.
        found: u32,
        /// What is possible at its offset.
        max: u32,
    },
    /// An unknown compression type.
    CompressionType {
        /// What the header says.
        found: u8,
    },
    /// The compression type's feature bit must be set, and is not.
    CompressionBitMissing,
    /// The compression type is zlib, and its feature bit is set.
    CompressionBitSet,
    /// Incompatible feature bits that nobody here knows.
    IncompatibleFeatures {
        /// Their names.
        names: Vec<FeatureName>,
    },
    /// Subclusters of less than 512 bytes.
    SubclusterSize {
        /// What the header says.
        found: u32,
    },
    /// Reference counts of more than 64 bits.
    RefcountOrder {
        /// What the header says.
        found: u32,
    },
    /// An unknown encryption method.
    CryptMethod {
        /// What the header says.
        found: u32,
    },
    /// No reference count table.
    NoRefcountTable,
    /// A table has more entries than is allowed.
    TableTooLarge {
        /// The table.
        table: Table,
        /// Entries that the header says it has; clusters for the reference count table.
        found: u32,
        /// Most that are allowed.
        max: u32,
    },
    /// A table's offset is not at a cluster, or past all files.
    TableOffset {
        /// The table.
        table: Table,
        /// What the header says.
        found: u64,
    },
    /// A virtual size that needs more than 2^31 L1 entries.
    TooBig {
        /// What the header says.
        virtual_size: u64,
    },
    /// The L1 table does not cover the virtual size.
    L1TooSmall {
        /// Entries it has.
        found: u32,
        /// Entries it needs.
        needed: u32,
    },
    /// A header extension runs past the header area.
    ExtensionTooLarge {
        /// Offset of the extension's data.
        offset: u64,
        /// Length it claims.
        len: u32,
    },
    /// The backing format extension is longer than 15 bytes.
    BackingFormatLen {
        /// Length it claims.
        found: u32,
    },
    /// A LUKS header extension in an image that does not use LUKS.
    CryptoExtensionUnexpected,
    /// The LUKS header extension has not 16 bytes.
    CryptoExtensionLen {
        /// Length it claims.
        found: u32,
    },
    /// The LUKS header does not start at a cluster.
    CryptoHeaderOffset {
        /// What the extension says.
        found: u64,
    },
    /// The LUKS header is longer than the space reserved for it.
    CryptoHeaderLen {
        /// What the extension says.
        found: u64,
    },
    /// LUKS is used, and there is no LUKS header.
    CryptoHeaderMissing,
    /// The LUKS header is broken.
    Luks(LuksError),
    /// The bitmaps extension has not 24 bytes.
    BitmapsExtensionLen {
        /// Length it claims.
        found: u32,
    },
    /// The bitmaps extension's reserved field is not zero.
    BitmapsExtensionReserved,
    /// Not 1 to 65535 bitmaps.
    BitmapCount {
        /// What the extension says.
        found: u32,
    },
    /// The bitmap directory does not start at a cluster.
    BitmapDirectoryOffset {
        /// What the extension says.
        found: u64,
    },
    /// The bitmap directory is empty or longer than 64 MiB.
    BitmapDirectoryLen {
        /// What the extension says.
        found: u64,
    },
    /// A directory entry runs past the bitmap directory, or the directory holds more or fewer entries
    /// than bitmaps.
    BitmapDirectory {
        /// Number of the entry.
        index: u32,
    },
    /// A bitmap with extra data.
    BitmapExtraData {
        /// Number of the bitmap.
        index: u32,
    },
    /// A bitmap whose table, granularity, flags, name or type is not allowed.
    BitmapConstraint {
        /// Number of the bitmap.
        index: u32,
    },
    /// A bitmap table's size does not fit the disk, or an entry is not allowed.
    BitmapTable {
        /// Number of the bitmap.
        index: u32,
    },
    /// Two bitmaps of one name.
    BitmapNameTwice {
        /// Number of the second.
        index: u32,
    },
    /// More than 1024 bytes of extra data in a snapshot.
    SnapshotExtraData {
        /// Number of the snapshot.
        index: u32,
        /// What the table says.
        found: u32,
    },
    /// The snapshot table is longer than 64 MiB.
    SnapshotTableLen {
        /// Number of the snapshot that passes the limit.
        index: u32,
    },
    /// The image needs an external data file and does not name one.
    DataFileMissing,
    /// The data file is said to be raw, and there is none.
    DataFileRawAlone,
    /// An L2 table does not start at a cluster.
    L2TableOffset {
        /// Number of the L1 entry.
        l1_index: u32,
        /// What it says.
        found: u64,
    },
    /// An L2 table is past the end of the file.
    L2TablePastEnd {
        /// Number of the L1 entry.
        l1_index: u32,
        /// What it says.
        offset: u64,
        /// Bytes of the file.
        file_len: u64,
    },
    /// A data cluster does not start at a cluster.
    ClusterOffset {
        /// Its place in the disk.
        virtual_offset: u64,
        /// What the L2 entry says.
        found: u64,
    },
    /// A data cluster is past the end of the file that holds it.
    ClusterPastEnd {
        /// Its place in the disk.
        virtual_offset: u64,
        /// Its place in the file.
        offset: u64,
        /// Bytes of the file.
        file_len: u64,
    },
    /// A cluster in an external data file that is not at its place in the disk.
    DataFileOffset {
        /// The cluster's place in the disk.
        virtual_offset: u64,
        /// What the L2 entry says.
        found: u64,
    },
    /// A zero flag in a version 2 image.
    ZeroFlagBeforeVersion3 {
        /// The cluster's place in the disk.
        virtual_offset: u64,
    },
    /// A subcluster that is both allocated and zero, or allocated nowhere.
    Subclusters {
        /// The cluster's place in the disk.
        virtual_offset: u64,
        /// The bitmap of the L2 entry.
        bitmap: u64,
    },
    /// A compressed cluster in an image with an external data file.
    CompressedWithDataFile {
        /// The cluster's place in the disk.
        virtual_offset: u64,
    },
    /// A compressed cluster that can't be decoded.
    Compressed {
        /// The cluster's place in the disk.
        virtual_offset: u64,
        /// Its place in the file.
        offset: u64,
        /// Why.
        error: CodecError,
    },
}
