//! What check finds, as numbers. The launcher words it once, in qemu-img's words.

mod blocks;

pub use blocks::{LuksFinding, ParallelsFinding, VdiFinding, VhdxFinding, VmdkFinding, VpcFinding};

use crate::format::Format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Most findings of one frame.
pub const FINDINGS_MAX: usize = 4096;

/// Most findings that a check tells; it goes on counting.
pub const TOLD_MAX: u64 = 1 << 20;

/// How a check came out. Counts are QEMU's, of clusters unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// What was checked.
    pub format: Format,
    /// Things that could not be looked at.
    pub check_errors: u64,
    /// Errors of the metadata.
    pub corruptions: u64,
    /// Clusters that are taken and not used.
    pub leaks: u64,
    /// Clusters of the disk; 0: not counted.
    pub total_clusters: u64,
    /// Clusters of the disk that have a place in the file.
    pub allocated_clusters: u64,
    /// Of these, the ones that are not behind the one before.
    pub fragmented_clusters: u64,
    /// Of these, the ones that are compressed.
    pub compressed_clusters: u64,
    /// The first byte after the last cluster in use; 0: not known.
    pub image_end_offset: u64,
    /// Findings past [`TOLD_MAX`], which were counted and not told.
    pub untold: u64,
    /// Why the check came to no end; the counts are not to be told then.
    pub failure: Option<CheckFailure>,
}

impl Checked {
    /// Nothing found so far.
    #[must_use]
    pub const fn new(format: Format) -> Self {
        Self {
            format,
            check_errors: 0,
            corruptions: 0,
            leaks: 0,
            total_clusters: 0,
            allocated_clusters: 0,
            fragmented_clusters: 0,
            compressed_clusters: 0,
            image_end_offset: 0,
            untold: 0,
            failure: None,
        }
    }
}

/// Why a check came to no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckFailure {
    /// Something is larger than QEMU can count.
    TooLarge,
    /// Something makes no sense.
    Invalid,
    /// Something is where no file has bytes.
    Unreadable,
    /// A table's entry leads nowhere: QEMU's -1, which happens to be an errno.
    NotPermitted,
}

/// What a check found, in the order in which it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// In a qcow2 image.
    Qcow2(Qcow2Finding),
    /// In a VDI.
    Vdi(VdiFinding),
    /// In a Parallels image.
    Parallels(ParallelsFinding),
    /// In a VMDK.
    Vmdk(VmdkFinding),
    /// In a VHDX.
    Vhdx(VhdxFinding),
    /// In a VHD.
    Vpc(VpcFinding),
    /// In a LUKS volume.
    Luks(LuksFinding),
}

/// What is wrong with a qcow2 image. Offsets and lengths are bytes of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qcow2Finding {
    /// More snapshots than there can be.
    TooManySnapshots {
        /// How many more.
        overhanging: u32,
    },
    /// The snapshot table is not at a cluster, or past all files.
    SnapshotTableOffset,
    /// More than 1024 bytes of extra data in an entry of the snapshot table.
    SnapshotExtraData {
        /// The entry.
        index: u32,
    },
    /// The snapshot table is longer than 64 MiB.
    SnapshotTableLen {
        /// Snapshots from there on.
        overhanging: u32,
    },
    /// An entry of the snapshot table lacks what version 3 wants.
    SnapshotIncomplete {
        /// The entry.
        index: u32,
    },
    /// Snapshots, whose content could not be kept in an external data file.
    SnapshotsWithDataFile {
        /// How many.
        count: u32,
    },
    /// A snapshot's L1 table is not at a cluster.
    SnapshotL1Offset {
        /// Its identifier, the image's own bytes.
        id: Vec<u8>,
        /// Its name, the image's own bytes.
        name: Vec<u8>,
        /// What the table says.
        offset: u64,
    },
    /// A snapshot's L1 table has more entries than is allowed.
    SnapshotL1Size {
        /// Its identifier, the image's own bytes.
        id: Vec<u8>,
        /// Its name, the image's own bytes.
        name: Vec<u8>,
        /// What the table says.
        count: u32,
    },
    /// Something is past the end of the file.
    PastEnd {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A cluster with more references than a refcount can count.
    Overflow {
        /// First byte.
        offset: u64,
    },
    /// A snapshot's L1 table is where no file has bytes.
    L1Unreadable,
    /// Reserved bits of an L1 entry.
    L1Reserved {
        /// The entry.
        entry: u64,
    },
    /// An L2 table that is not at a cluster.
    L2Offset {
        /// What the L1 entry says.
        offset: u64,
    },
    /// Reserved bits of an L2 entry.
    L2Reserved {
        /// The entry.
        entry: u64,
    },
    /// A compressed cluster that says its refcount is 1.
    CompressedCopied {
        /// What the L2 entry says.
        offset: u64,
    },
    /// A compressed cluster in an image with an external data file.
    CompressedWithDataFile {
        /// Number of the L2 entry.
        index: u32,
        /// The entry.
        entry: u64,
    },
    /// A compressed cluster with subclusters.
    CompressedSubclusters {
        /// Number of the L2 entry.
        index: u32,
        /// The entry.
        entry: u64,
    },
    /// A subcluster that is allocated and zero.
    Subclusters {
        /// Offset of the cluster.
        offset: u64,
    },
    /// A reserved cluster that is not at a cluster.
    ReservedOffset {
        /// What the L2 entry says.
        offset: u64,
    },
    /// A data cluster that is not at a cluster.
    DataOffset {
        /// What the L2 entry says.
        offset: u64,
    },
    /// Subclusters that are allocated nowhere.
    UnallocatedSubclusters,
    /// Reserved bits of an entry of the refcount table.
    RefcountTableReserved {
        /// Number of the entry.
        index: u32,
    },
    /// A refcount block that is not at a cluster.
    RefcountBlockOffset {
        /// Number of the table's entry.
        index: u32,
    },
    /// A refcount block past the end of the file.
    RefcountBlockPastEnd {
        /// Number of the table's entry.
        index: u32,
    },
    /// A refcount block that something else uses, too.
    RefcountBlockShared {
        /// Number of the table's entry.
        index: u32,
        /// References to it.
        references: u64,
    },
    /// A refcount was looked for in a block that is not at a cluster; said once.
    RefcountBlockUnusable {
        /// Number of the table's entry.
        index: u32,
        /// What it says.
        offset: u64,
    },
    /// A cluster whose refcount can't be read.
    RefcountUnreadable {
        /// The cluster.
        cluster: u64,
    },
    /// A cluster with another refcount than references: leaked where it has more.
    Refcount {
        /// The cluster.
        cluster: u64,
        /// Its refcount.
        refcount: u64,
        /// References to it.
        references: u64,
    },
    /// An L1 entry that is wrong on whether its table's refcount is 1.
    CopiedL2 {
        /// Number of the entry.
        l1_index: u32,
        /// The entry.
        entry: u64,
        /// The refcount.
        refcount: u64,
    },
    /// An L2 entry that is wrong on whether its cluster's refcount is 1.
    CopiedData {
        /// The entry.
        entry: u64,
        /// The refcount.
        refcount: u64,
    },
}
