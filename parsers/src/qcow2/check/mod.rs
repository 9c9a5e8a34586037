//! What is wrong with an image's metadata.
//!
//! ```text
//! snapshot table ─▸ references of every table, counted ─▸ refcount blocks ─▸ refcounts held against them ─▸ COPIED flags
//! ```
//!
//! References are counted for a window of the file's clusters. A file of more clusters than a window has is gone through
//! again for each window; what concerns no count is told the first time.
//!
//! # Source
//! `qcow2_co_check` of QEMU 10.0: what is looked at, in which order, and what counts as what.

mod copied;
mod counts;
mod refcounts;
mod tables;

use super::header::snapshot_table;
use super::limits;
use super::map::Qcow2;
use super::snapshot::{Snapshot, Snapshots};
use super::wire::entry;
use crate::align;
use crate::image::{Findings, Tables};
use crate::store::ReadAt;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use counts::Counts;
use instar_abi::check::{CheckFailure, Checked, Finding, Qcow2Finding};
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{Error, Qcow2Error};
use instar_abi::format::Format;
use instar_abi::request::DiskId;
use refcounts::Ones;
use tables::Table;

/// Clusters of a window, a byte each: with clusters of 64 KiB it covers 2 TiB of a file.
const WINDOW: u64 = 32 << 20;
/// Bytes of tables that are read in one batch.
const BATCH_LEN: usize = 1 << 20;
/// Most tables of a batch: as many requests as a queue takes.
const BATCH_MAX: usize = 64;

/// Past this byte QEMU reads nothing of any file.
const FILE_END_MAX: u64 = 0x7fff_ffff_c000_0000;

/// Checks an image that was opened with [`Qcow2::open_for_check`].
///
/// # Errors
/// Those of the reads and of the listener; a budget that is used up.
pub fn check(io: &mut dyn Findings, image: &Qcow2) -> Result<Checked, Error> {
    let mut check = Check::new(io, image);
    if !check.snapshot_table(io)? {
        return Ok(check.result);
    }
    if check.clusters > i32::MAX as u64 {
        check.result.check_errors = check.result.check_errors.saturating_add(1);
        check.result.failure = Some(CheckFailure::TooLarge);
        return Ok(check.result);
    }
    let mut ones = Ones::new(io.budget(), check.clusters)?;
    // One cluster more than the file has may be referenced: the last one may be there in part.
    let end = check.clusters.saturating_add(1);
    let len = usize::try_from(end.min(WINDOW)).unwrap_or(0);
    check.counts = Counts::new(io.budget(), 0, len, check.refcount_max())?;
    let mut highest = 0;
    let mut start = 0;
    while start < end {
        check.is_first = start == 0;
        if !check.references(io)? {
            return Ok(check.result);
        }
        check.blocks(io)?;
        highest = check.refcounts(io, &mut ones)?.max(highest);
        (_, start) = check.counts.window();
        check.counts.restart(io.budget(), start);
    }
    io.budget().give_heap(check.counts.heap_len());
    check.counts = Counts::empty();
    if !check.flags_are_sound() {
        check.copied(io, &ones)?;
    }
    check.result.image_end_offset = highest.saturating_add(1).saturating_mul(check.cluster_size);
    Ok(check.result)
}

/// A check as it goes on.
struct Check<'a> {
    image: &'a Qcow2,
    disk: DiskId,
    cluster_bits: u32,
    cluster_size: u64,
    /// Bytes of the file, in whole sectors as QEMU counts them.
    file_len: u64,
    /// Clusters of the file, with one that is referenced and there in part.
    clusters: u64,
    counts: Counts,
    /// This is the first window: what concerns no count is told.
    is_first: bool,
    /// Corruptions that have nothing to do with counts, in every window again.
    unsound: u64,
    /// A refcount was looked for in a block that is not at a cluster.
    has_met_unusable: bool,
    /// An entry of the active tables does not say that its cluster's refcount is 1.
    has_unflagged: bool,
    /// A cluster has a refcount above 1.
    has_shared: bool,
    tables: Tables,
    /// Tables without a finding that have been read, by their place, once many tables have been.
    known: BTreeMap<u64, Table>,
    result: Checked,
}

impl<'a> Check<'a> {
    fn new(io: &dyn Findings, image: &'a Qcow2) -> Self {
        let header = image.header();
        let cluster_size = u64::from(header.cluster_size());
        let file_len = align::up(io.len(image.disk()), SECTOR_LEN).unwrap_or(u64::MAX);
        Self {
            image,
            disk: image.disk(),
            cluster_bits: header.cluster_bits,
            cluster_size,
            file_len,
            clusters: file_len.div_ceil(cluster_size),
            counts: Counts::empty(),
            is_first: true,
            unsound: 0,
            has_met_unusable: false,
            has_unflagged: false,
            has_shared: false,
            tables: Tables::of(file_len),
            known: BTreeMap::new(),
            result: Checked {
                total_clusters: header.virtual_size().div_ceil(cluster_size),
                ..Checked::new(Format::Qcow2)
            },
        }
    }

    fn refcount_max(&self) -> u64 {
        let bits = self.image.header().refcount_bits();
        1u64.checked_shl(bits).map_or(u64::MAX, |beyond| beyond.wrapping_sub(1))
    }

    /// Tells of a corruption.
    fn corrupt(&mut self, io: &mut dyn Findings, finding: Qcow2Finding) -> Result<(), Error> {
        self.result.corruptions = self.result.corruptions.saturating_add(1);
        io.tell(Finding::Qcow2(finding))
    }

    /// Tells of a corruption that has nothing to do with counts.
    fn corrupt_once(&mut self, io: &mut dyn Findings, finding: Qcow2Finding) -> Result<(), Error> {
        self.unsound = self.unsound.saturating_add(1);
        if self.is_first { self.corrupt(io, finding) } else { Ok(()) }
    }

    /// Looks through the snapshot table; whether the check can go on.
    fn snapshot_table(&mut self, io: &mut dyn Findings) -> Result<bool, Error> {
        let header = self.image.header();
        let (offset, count) = (header.snapshots().offset, header.snapshots().count);
        let overhanging = count.saturating_sub(limits::SNAPSHOTS_MAX);
        let (finding, failure) = match snapshot_table(offset, count, header.cluster_size()) {
            Err(_) if overhanging > 0 => (Qcow2Finding::TooManySnapshots { overhanging }, CheckFailure::TooLarge),
            Err(_) => (Qcow2Finding::SnapshotTableOffset, CheckFailure::Invalid),
            Ok(_) => match self.incomplete_snapshots(io) {
                Ok(incomplete) => {
                    for index in incomplete {
                        self.corrupt(io, Qcow2Finding::SnapshotIncomplete { index })?;
                    }
                    return Ok(true);
                }
                Err(Error::Qcow2 { error: Qcow2Error::SnapshotExtraData { index, .. }, .. }) => {
                    (Qcow2Finding::SnapshotExtraData { index }, CheckFailure::TooLarge)
                }
                Err(Error::Qcow2 { error: Qcow2Error::SnapshotTableLen { index }, .. }) => {
                    let overhanging = count.saturating_sub(index);
                    (Qcow2Finding::SnapshotTableLen { overhanging }, CheckFailure::TooLarge)
                }
                Err(error) => return Err(error),
            },
        };
        io.tell(Finding::Qcow2(finding))?;
        self.result.check_errors = 1;
        self.result.failure = Some(failure);
        Ok(false)
    }

    /// Entries of the snapshot table that lack what version 3 wants: size of VM state and disk.
    fn incomplete_snapshots(&self, io: &mut dyn ReadAt) -> Result<Vec<u32>, Error> {
        const EXTRA_LEN_MIN: u32 = 16;
        let mut snapshots = self.snapshots();
        let mut incomplete = Vec::new();
        let mut index = 0u32;
        while let Some(snapshot) = snapshots.next(io)? {
            if self.image.header().version() >= 3 && snapshot.extra_len < EXTRA_LEN_MIN {
                incomplete.push(index);
            }
            index = index.saturating_add(1);
        }
        Ok(incomplete)
    }

    fn snapshots(&self) -> Snapshots {
        Snapshots::new(self.image.layer(), self.disk, self.image.header())
    }

    /// Counts the references of everything but the refcount blocks; whether the check can go on.
    fn references(&mut self, io: &mut dyn Findings) -> Result<bool, Error> {
        self.count(io, 0, self.cluster_size)?;
        let header = self.image.header();
        let l1 = header.l1();
        self.l1_table(io, l1.offset, l1.count, true)?;
        let Some(snapshots_len) = self.all_snapshots(io)? else { return Ok(false) };
        self.known_again(io)?;
        self.count(io, header.snapshots().offset, snapshots_len)?;
        let table = header.refcount_table();
        self.count(io, table.offset, u64::from(table.count).saturating_mul(self.cluster_size))?;
        if let Some(crypto) = &self.image.extensions().crypto {
            self.count(io, crypto.offset, crypto.len)?;
        }
        self.bitmaps(io)
    }

    /// Counts what the snapshots reference; the bytes of their table. `None`: the check can't go on.
    fn all_snapshots(&mut self, io: &mut dyn Findings) -> Result<Option<u64>, Error> {
        let header = self.image.header();
        let count = header.snapshots().count;
        if header.has_data_file() && count > 0 {
            self.corrupt_once(io, Qcow2Finding::SnapshotsWithDataFile { count })?;
        }
        let mut snapshots = self.snapshots();
        while let Some(snapshot) = snapshots.next(io)? {
            let Snapshot { id, name, l1_offset, l1_count, .. } = snapshot;
            if align::within(l1_offset, self.cluster_size) != 0 {
                self.corrupt_once(io, Qcow2Finding::SnapshotL1Offset { id, name, offset: l1_offset })?;
            } else if u64::from(l1_count) > limits::L1_LEN_MAX / 8 {
                self.corrupt_once(io, Qcow2Finding::SnapshotL1Size { id, name, count: l1_count })?;
            } else if l1_count > 0 {
                let len = u64::from(l1_count).saturating_mul(8);
                if l1_offset.saturating_add(len) > FILE_END_MAX {
                    self.count(io, l1_offset, len)?;
                    io.tell(Finding::Qcow2(Qcow2Finding::L1Unreadable))?;
                    self.result.check_errors = self.result.check_errors.saturating_add(1);
                    self.result.failure = Some(CheckFailure::Unreadable);
                    return Ok(None);
                }
                self.l1_table(io, l1_offset, l1_count, false)?;
            }
        }
        Ok(Some(snapshots.walked_len()))
    }

    /// Counts what the bitmaps reference; whether the check can go on.
    fn bitmaps(&mut self, io: &mut dyn Findings) -> Result<bool, Error> {
        let Some(place) = &self.image.extensions().bitmaps else { return Ok(true) };
        self.count(io, place.offset, place.len)?;
        for bitmap in self.image.bitmaps() {
            let len = u64::from(bitmap.table_count).saturating_mul(8);
            self.count(io, bitmap.table_offset, len)?;
            let (mut at, mut left) = (bitmap.table_offset, len);
            while left > 0 {
                let piece = left.min(BATCH_LEN as u64);
                self.tables.take(piece)?;
                let table = io.read_each(self.disk, &[at], usize::try_from(piece).unwrap_or(0))?;
                for raw in table.first().map_or(&[][..], |bytes| bytes.as_chunks().0) {
                    let raw = u64::from_be_bytes(*raw);
                    let offset = raw & entry::OFFSET;
                    let ones = offset != 0 && raw & entry::BITMAP_ONES != 0;
                    if raw & entry::BITMAP_RESERVED != 0 || ones || align::within(offset, self.cluster_size) != 0 {
                        // QEMU does not load such a table, and gives up.
                        self.result.corruptions = self.result.corruptions.saturating_add(1);
                        self.result.failure = Some(CheckFailure::Invalid);
                        return Ok(false);
                    }
                    if offset != 0 {
                        self.count(io, offset, self.cluster_size)?;
                    }
                }
                at = at.saturating_add(piece);
                left = left.saturating_sub(piece);
            }
        }
        Ok(true)
    }

    /// Counts one reference to each cluster of a range of the file.
    fn count(&mut self, io: &mut dyn Findings, offset: u64, len: u64) -> Result<(), Error> {
        let Some(last) = len.checked_sub(1).map(|len| offset.saturating_add(len)) else { return Ok(()) };
        if self.is_past_end(offset, len) {
            return self.corrupt_once(io, Qcow2Finding::PastEnd { offset, len });
        }
        let (first, last) = (offset.wrapping_shr(self.cluster_bits), last.wrapping_shr(self.cluster_bits));
        self.clusters = self.clusters.max(last.saturating_add(1));
        let (start, end) = self.counts.window();
        let mut cluster = first.max(start);
        while cluster <= last && cluster < end {
            if !self.counts.add_one(cluster) {
                self.add(io, cluster, 1)?;
            }
            cluster = cluster.saturating_add(1);
        }
        Ok(())
    }

    /// Whether a range is not in the file; of its last cluster some may be missing.
    const fn is_past_end(&self, offset: u64, len: u64) -> bool {
        offset.saturating_add(len).saturating_sub(self.file_len) >= self.cluster_size
    }

    /// Counts references that may be too many.
    fn add(&mut self, io: &mut dyn Findings, cluster: u64, references: u64) -> Result<(), Error> {
        let lost = self.counts.add(io.budget(), cluster, references)?;
        if lost == 0 {
            return Ok(());
        }
        self.result.corruptions = self.result.corruptions.saturating_add(lost);
        let offset = cluster.wrapping_shl(self.cluster_bits);
        io.tell_often(Finding::Qcow2(Qcow2Finding::Overflow { offset }), lost)
    }
}
