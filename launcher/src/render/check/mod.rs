//! What a check found, in qemu-img's words.
#![forbid(unsafe_code)]

mod blocks;

use super::escape::shown;
use super::json::{Layout, to_text};
use super::qdict::{QDict, Value};
use instar_abi::check::{CheckFailure, Checked, Finding, Qcow2Finding};
use nix::errno::Errno;

/// The line of a finding, or its lines; qemu-img signs some with its name.
#[must_use]
pub fn line(finding: &Finding, program: &str) -> String {
    match finding {
        Finding::Qcow2(finding) => qcow2(finding, program) + "\n",
        Finding::Vdi(finding) => blocks::vdi(*finding) + "\n",
        Finding::Parallels(finding) => blocks::parallels(*finding) + "\n",
        Finding::Vmdk(finding) => blocks::vmdk(*finding) + "\n",
        Finding::Vhdx(finding) => blocks::vhdx(*finding, program) + "\n",
        Finding::Vpc(finding) => blocks::vpc(*finding) + "\n",
        Finding::Luks(finding) => blocks::luks(*finding) + "\n",
    }
}

fn qcow2(finding: &Qcow2Finding, program: &str) -> String {
    use Qcow2Finding as F;
    match finding {
        // The snapshot table.
        F::TooManySnapshots { overhanging } => format!(
            "{program}: ERROR snapshot table too large\n\
             You can force-remove all {overhanging} overhanging snapshots with qemu-img check -r all"
        ),
        F::SnapshotTableOffset => format!("{program}: ERROR snapshot table offset invalid"),
        F::SnapshotExtraData { index } => format!(
            "{program}: ERROR failed to read the snapshot table: Too much extra metadata in snapshot table entry {index}\n\
             You can force-remove this extra metadata with qemu-img check -r all"
        ),
        F::SnapshotTableLen { overhanging } => format!(
            "{program}: ERROR failed to read the snapshot table: Snapshot table is too big\n\
             You can force-remove all {overhanging} overhanging snapshots with qemu-img check -r all"
        ),
        F::SnapshotIncomplete { index } => format!("ERROR snapshot table entry {index} is incomplete"),
        F::SnapshotsWithDataFile { count } => format!("ERROR {count} snapshots in image with data file"),
        F::SnapshotL1Offset { id, name, offset } => format!(
            "ERROR snapshot {} ({}) l1_offset={offset:#x}: L1 table is not cluster aligned; snapshot table entry corrupted",
            shown(id),
            shown(name)
        ),
        F::SnapshotL1Size { id, name, count } => format!(
            "ERROR snapshot {} ({}) l1_size={count:#x}: L1 table is too large; snapshot table entry corrupted",
            shown(id),
            shown(name)
        ),
        // References.
        F::PastEnd { offset, len } => format!(
            "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
             offset {offset:#x} size {len:#x}"
        ),
        F::Overflow { offset } => format!(
            "ERROR: overflow cluster offset={offset:#x}\n\
             Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the \
             image cannot be opened for writing"
        ),
        // Tables.
        F::L1Unreadable => "ERROR: I/O error in check_refcounts_l1".to_owned(),
        F::L1Reserved { entry } => format!("ERROR found L1 entry with reserved bits set: {entry:x}"),
        F::L2Offset { offset } => {
            format!("ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted")
        }
        F::L2Reserved { entry } => format!("ERROR found l2 entry with reserved bits set: {entry:x}"),
        F::CompressedCopied { offset } => {
            format!("ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters")
        }
        F::CompressedWithDataFile { index, entry } => {
            format!("ERROR compressed cluster {index} with data file, entry={entry:#x}")
        }
        F::CompressedSubclusters { index, entry } => {
            format!("ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, entry={entry:#x}")
        }
        F::Subclusters { offset } => {
            format!("ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation bitmap")
        }
        F::ReservedOffset { offset } => {
            format!("ERROR offset={offset:x}: Preallocated cluster is not properly aligned; L2 entry corrupted.")
        }
        F::DataOffset { offset } => {
            format!("ERROR offset={offset:x}: Data cluster is not properly aligned; L2 entry corrupted.")
        }
        F::UnallocatedSubclusters => "ERROR: Unallocated cluster has non-zero subcluster allocation map".to_owned(),
        // Refcounts.
        F::RefcountTableReserved { index } => format!("ERROR refcount table entry {index} has reserved bits set"),
        F::RefcountBlockOffset { index } => {
            format!("ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted")
        }
        F::RefcountBlockPastEnd { index } => format!("ERROR refcount block {index} is outside image"),
        F::RefcountBlockShared { index, references } => format!("ERROR refcount block {index} refcount={references}"),
        F::RefcountBlockUnusable { index, offset } => format!(
            "qcow2: Image is corrupt: Refblock offset {offset:#x} unaligned (reftable index: {}); \
             further non-fatal corruption events will be suppressed",
            // As C's %#x has it.
            if *index == 0 { "0".to_owned() } else { format!("{index:#x}") }
        ),
        F::RefcountUnreadable { cluster } => format!("Can't get refcount for cluster {cluster}: Input/output error"),
        F::Refcount { cluster, refcount, references } => {
            let what = if refcount < references { "ERROR" } else { "Leaked" };
            format!("{what} cluster {cluster} refcount={refcount} reference={references}")
        }
        F::CopiedL2 { l1_index, entry, refcount } => {
            format!("ERROR OFLAG_COPIED L2 cluster: l1_index={l1_index} l1_entry={entry:x} refcount={refcount}")
        }
        F::CopiedData { entry, refcount } => {
            format!("ERROR OFLAG_COPIED data cluster: l2_entry={entry:x} refcount={refcount}")
        }
    }
}

/// What was found in the layers below an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// Layers that were reached.
    pub layers: u64,
    /// Errors of all of them; one for a layer that could not be reached or checked.
    pub errors: u64,
    /// Leaked clusters of all of them.
    pub leaks: u64,
}

impl Below {
    /// Counts a layer's.
    pub fn add(&mut self, checked: &Checked) {
        let failed = u64::from(checked.failure.is_some() && checked.check_errors == 0);
        let errors = checked.corruptions.saturating_add(checked.check_errors).saturating_add(failed);
        self.errors = self.errors.saturating_add(errors);
        self.leaks = self.leaks.saturating_add(checked.leaks);
    }

    fn lines(&self) -> String {
        let layers = match self.layers {
            1 => "the layer".to_owned(),
            count => format!("the {count} layers"),
        };
        let mut text = match (self.layers, self.errors) {
            (0, 0) => "There is no layer below the image.\n".to_owned(),
            (_, 0) => format!("No errors were found in {layers} below the image.\n"),
            (_, errors) => format!("{errors} errors were found below the image.\n"),
        };
        if self.leaks > 0 {
            text += &format!("{} leaked clusters were found below the image.\n", self.leaks);
        }
        text
    }
}

/// The lines of a result, and of what is below.
#[must_use]
pub fn human(checked: &Checked, below: Option<&Below>) -> String {
    let Checked { check_errors, corruptions, leaks, .. } = *checked;
    let mut text = String::new();
    if (check_errors, corruptions, leaks) == (0, 0, 0) {
        text += "No errors were found on the image.\n";
    }
    if corruptions > 0 {
        text += &format!(
            "\n{corruptions} errors were found on the image.\n\
             Data may be corrupted, or further writes to the image may corrupt it.\n"
        );
    }
    if leaks > 0 {
        text += &format!(
            "\n{leaks} leaked clusters were found on the image.\n\
             This means waste of disk space, but no harm to data.\n"
        );
    }
    if check_errors > 0 {
        text += &format!("\n{check_errors} internal errors have occurred during the check.\n");
    }
    let (total, allocated) = (checked.total_clusters, checked.allocated_clusters);
    if total > 0 && allocated > 0 {
        text += &format!(
            "{allocated}/{total} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            percent(allocated, total),
            percent(checked.fragmented_clusters, allocated),
            percent(checked.compressed_clusters, allocated)
        );
    }
    if checked.image_end_offset > 0 {
        text += &format!("Image end offset: {}\n", checked.image_end_offset);
    }
    text + &below.map(Below::lines).unwrap_or_default()
}

/// The result as JSON, with what is below. Counts that are zero are left out, but for the errors of the check and of the chain.
#[must_use]
pub fn json(checked: &Checked, below: Option<&Below>, name: &[u8]) -> String {
    let mut dict = QDict::new();
    let counts = [
        ("image-end-offset", checked.image_end_offset),
        ("corruptions", checked.corruptions),
        ("leaks", checked.leaks),
        ("total-clusters", checked.total_clusters),
        ("allocated-clusters", checked.allocated_clusters),
        ("fragmented-clusters", checked.fragmented_clusters),
        ("compressed-clusters", checked.compressed_clusters),
    ];
    dict.put("filename", Value::text(name));
    dict.put("format", Value::text(checked.format.name()));
    dict.put("check-errors", checked.check_errors.into());
    for (key, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        dict.put(key, count.into());
    }
    if let Some(below) = below {
        dict.put("chain-errors", below.errors.into());
        if below.leaks > 0 {
            dict.put("chain-leaks", below.leaks.into());
        }
    }
    to_text(&Value::Object(dict), Layout::Pretty) + "\n"
}

/// Why the check came to no end; qemu-img gives C's words for an errno.
#[must_use]
pub fn failure(checked: &Checked) -> Option<String> {
    let errno = match checked.failure {
        None if checked.check_errors == 0 => return None,
        None => return Some("Check failed".to_owned()),
        Some(CheckFailure::TooLarge) => Errno::EFBIG,
        Some(CheckFailure::Invalid) => Errno::EINVAL,
        Some(CheckFailure::Unreadable) => Errno::EIO,
        Some(CheckFailure::NotPermitted) => Errno::EPERM,
    };
    Some(format!("Check failed: {}", super::errors::errno_text(errno as i32)))
}

#[expect(clippy::cast_precision_loss, reason = "qemu-img computes it so")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}
