//! Failures as numbers. The launcher makes prose of them, once, in `render`.
//!
//! One enum a room of the guest; each variant says what was found and, where that is not obvious,
//! what is allowed.

mod block;
mod luks;
mod qcow2;

pub use block::{BlockError, Field, Identity, Structure};
pub use luks::LuksError;
pub use qcow2::{CodecError, FeatureName, Qcow2Error, Table};

use crate::format::Format;
use crate::request::{DiskId, LayerId, NeedKind};
use alloc::boxed::Box;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Error {
    /// A disk could not be read.
    Read(ReadError),
    /// A disk could not be written or flushed.
    Write(WriteError),
    /// A budget ran out: the image asks for more than any honest one.
    OutOfBudget(Resource),
    /// A layer's format could not be told, or is not what the user said.
    Detect {
        /// The layer.
        layer: LayerId,
        /// Why.
        error: DetectError,
    },
    /// A layer is of a format that this operation can't read.
    UnsupportedFormat {
        /// The layer.
        layer: LayerId,
        /// Its format.
        format: Format,
    },
    /// A raw layer's window does not fit its disk.
    Raw {
        /// The layer.
        layer: LayerId,
        /// Why.
        error: RawError,
    },
    /// A qcow2 layer is broken or uses something unknown.
    Qcow2 {
        /// The layer.
        layer: LayerId,
        /// Why.
        error: Qcow2Error,
    },
    /// A layer of a format whose disk is in blocks is broken or uses something unknown.
    Block {
        /// The layer.
        layer: LayerId,
        /// Its format.
        format: Format,
        /// Why.
        error: BlockError,
    },
    /// A LUKS volume is broken or uses something unknown.
    Luks {
        /// The layer.
        layer: LayerId,
        /// Why.
        error: LuksError,
    },
    /// A layer's content is encrypted, and this operation has no key for it.
    Encrypted {
        /// The layer.
        layer: LayerId,
    },
    /// A layer has no internal snapshot of the name, or its format has none.
    Snapshot {
        /// Its format.
        format: Format,
    },
    /// Layers don't fit together.
    Chain(ChainError),
    /// An image could be opened and not be compared.
    Compare {
        /// The image, with what is below it.
        image: LayerId,
        /// First byte of the disk that could not be looked at.
        offset: u64,
        /// It was known what is there; else not even that.
        is_content: bool,
        /// Why.
        error: Box<Self>,
    },
    /// An image of a format that has nothing to check.
    NoCheck {
        /// Its format.
        format: Format,
    },
    /// The target can't be made.
    Target(TargetError),
    /// The request asks for what this op image can't do.
    WrongOp,
}

/// A disk that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadError {
    /// The range does not lie within the disk.
    OutOfRange {
        /// The disk.
        disk: DiskId,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes the disk has.
        disk_len: u64,
    },
    /// The host reported an I/O error.
    Io {
        /// The disk.
        disk: DiskId,
        /// First byte asked for.
        offset: u64,
    },
    /// The device broke its contract or refused the request.
    Device {
        /// The disk.
        disk: DiskId,
        /// First byte asked for.
        offset: u64,
    },
}

/// A disk that could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteError {
    /// The host reported an I/O error; the launcher knows which.
    Io {
        /// The disk.
        disk: DiskId,
        /// First byte of the request.
        offset: u64,
    },
    /// The device broke its contract or refused the request.
    Device {
        /// The disk.
        disk: DiskId,
        /// First byte of the request.
        offset: u64,
    },
    /// The output would grow past its capacity.
    Capacity {
        /// The disk.
        disk: DiskId,
        /// End of the write, in bytes.
        end: u64,
    },
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// Bytes of heap.
    Heap,
    /// Bytes of metadata read.
    ReadBytes,
    /// Steps of loops over image structures.
    Steps,
    /// Layers of a chain.
    Depth,
    /// Bytes of reply.
    Reply,
}

/// Why a format could not be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DetectError {
    /// No known header and no valid partition table; `-f raw` is the way out.
    RawGate,
    /// The user said one format, the content is another.
    Mismatch {
        /// What the user said.
        given: Format,
        /// What the content is; `None`: nothing known.
        found: Option<Format>,
    },
}

/// Why a raw image can't be opened. A window is the `offset` and `size` of the raw driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RawError {
    /// The window runs past the disk.
    Window {
        /// First byte of the window.
        offset: u64,
        /// Bytes of the window, where given.
        len: Option<u64>,
        /// Bytes of the disk.
        disk_len: u64,
    },
}

/// Why layers don't fit together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainError {
    /// An image names something else than it did when the launcher opened it.
    NameChanged {
        /// The layer that names it.
        layer: LayerId,
        /// What the name is to it.
        kind: NeedKind,
        /// The name now.
        found: Vec<u8>,
    },
}

/// Why an image that exists can't be given a new state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExistingError {
    /// It has internal snapshots.
    Snapshots {
        /// How many.
        count: u32,
    },
    /// It has bitmaps, which would not tell of the change.
    Bitmaps,
    /// Its content is encrypted.
    Encrypted,
    /// Its content is in an external data file.
    DataFile,
    /// Something is known to be wrong with it.
    Corrupt,
    /// A writer did not finish.
    Dirty,
}

/// Why a target can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetError {
    /// The request asks for something that this op image can't make.
    Unsupported,
    /// The virtual size is too large for the target format and its options.
    TooLarge {
        /// Virtual size in bytes.
        virtual_size: u64,
        /// Largest possible.
        max: u64,
    },
    /// The version of a qcow2 target is neither 2 nor 3.
    Version {
        /// What was asked for.
        found: u32,
    },
    /// The cluster size of a qcow2 target is out of bounds; all are log2 of bytes.
    ClusterBits {
        /// What was asked for.
        found: u32,
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// The refcounts of a qcow2 target are too wide; both are log2 of bits.
    RefcountOrder {
        /// What was asked for.
        found: u32,
        /// Largest.
        max: u32,
    },
    /// Version 2 has refcounts of 16 bits only.
    RefcountOrderBeforeVersion3 {
        /// What was asked for, log2 of bits.
        found: u32,
    },
    /// Version 2 has no lazy refcounts.
    LazyRefcountsBeforeVersion3,
    /// Version 2 has no extended L2 entries.
    ExtendedL2BeforeVersion3,
    /// Version 2 has zlib only.
    CompressionBeforeVersion3,
    /// Extended L2 entries need larger clusters; both are log2 of bytes.
    ExtendedL2ClusterBits {
        /// What was asked for.
        found: u32,
        /// Smallest.
        min: u32,
    },
    /// The name of the backing file is too long.
    BackingNameLen {
        /// Its bytes.
        found: u32,
        /// Most possible.
        max: u32,
    },
    /// The header with its names does not fit into a cluster.
    HeaderLen {
        /// Its bytes.
        found: u64,
        /// Bytes of a cluster.
        max: u64,
    },
    /// Version 2 has no external data files.
    DataFileBeforeVersion3,
    /// A data file that stays valid as a raw image can't leave anything to a backing file.
    RawDataFileWithBacking,
    /// An external data file has no compressed clusters.
    CompressionWithDataFile,
    /// Clusters that are mapped hide the backing file, but for subclusters.
    PreallocationWithBacking,
    /// A compressed cluster has no place before it is compressed.
    CompressionWithPreallocation,
    /// A target that exists can't be given a new state.
    Existing(ExistingError),
    /// A target that exists is smaller than what is to be written.
    TooSmall {
        /// Its length in bytes.
        len: u64,
        /// Bytes needed.
        needed: u64,
    },
}
