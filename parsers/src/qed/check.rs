//! What is wrong with the tables of an image. QEMU counts it and tells nothing.

use super::{ENTRY_LEN, Qed, UNALLOCATED, ZERO};
use crate::align;
use crate::image::Findings;
use alloc::vec::Vec;
use instar_abi::check::Checked;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::request::DiskId;

/// Bytes of a table that are looked at together.
const CHUNK_LEN: u64 = 1 << 20;

impl Qed {
    /// Checks that every table and cluster is used once and within the file, and that every cluster of the file is used.
    ///
    /// # Errors
    /// Those of the reads; the heap's budget is used up.
    ///
    /// # Source
    /// `qed_check` of QEMU 10.0.
    pub fn check(&self, io: &mut dyn Findings) -> Result<Checked, Error> {
        let file_len = align::up(io.len(self.disk), SECTOR_LEN).unwrap_or(u64::MAX);
        // A cluster that is there in part counts where it is used, not where it is leaked.
        let bits = file_len.div_ceil(self.cluster_size);
        let used = io.budget().zeroed(usize::try_from(bits.div_ceil(8)).unwrap_or(usize::MAX))?;
        let mut check = Check { image: self, used, checked: Checked::new(Format::Qed) };
        check.checked.total_clusters = self.facts.virtual_size.div_ceil(self.cluster_size);
        let table_clusters = align::units(self.table_len, self.cluster_size);
        check.set_used(self.l1_offset, table_clusters);
        for table in entries(io, self.disk, self.l1_offset, self.table_len, &mut |offset| offset != UNALLOCATED)? {
            if !self.is_table(io, table) {
                check.corrupt(1);
            } else if check.set_used(table, table_clusters) {
                check.l2_table(io, table)?;
            }
        }
        let clusters = align::units(file_len, self.cluster_size);
        let header_clusters = align::units(self.header_len, self.cluster_size);
        for cluster in header_clusters..clusters {
            if !check.is_used(cluster) {
                check.checked.leaks = check.checked.leaks.saturating_add(1);
            }
        }
        io.budget().give_heap(check.used.len() as u64);
        Ok(check.checked)
    }
}

/// A check as it goes on.
struct Check<'a> {
    image: &'a Qed,
    /// Clusters of the file that are in use, a bit each.
    used: Vec<u8>,
    checked: Checked,
}

impl Check<'_> {
    fn corrupt(&mut self, times: u64) {
        self.checked.corruptions = self.checked.corruptions.saturating_add(times);
    }

    /// Counts what an L2 table holds.
    fn l2_table(&mut self, io: &mut dyn Findings, table: u64) -> Result<(), Error> {
        let image = self.image;
        let mut last = 0u64;
        let has_cluster = &mut |offset| offset != UNALLOCATED && offset != ZERO;
        for offset in entries(io, image.disk, table, image.table_len, has_cluster)? {
            let checked = &mut self.checked;
            checked.allocated_clusters = checked.allocated_clusters.saturating_add(1);
            if last != 0 && last.wrapping_add(image.cluster_size) != offset {
                checked.fragmented_clusters = checked.fragmented_clusters.saturating_add(1);
            }
            last = offset;
            if image.is_cluster(io, offset) {
                self.set_used(offset, 1);
            } else {
                self.corrupt(1);
            }
        }
        Ok(())
    }

    fn is_used(&self, cluster: u64) -> bool {
        let byte = usize::try_from(cluster / 8).ok().and_then(|index| self.used.get(index));
        byte.is_some_and(|byte| byte.wrapping_shr((cluster & 7) as u32) & 1 != 0)
    }

    /// Notes that clusters are in use; whether none of them was.
    fn set_used(&mut self, offset: u64, count: u64) -> bool {
        let first = align::units(offset, self.image.cluster_size);
        let mut twice = 0u64;
        for cluster in first..first.saturating_add(count) {
            if self.is_used(cluster) {
                twice = twice.saturating_add(1);
            }
            if let Some(byte) = usize::try_from(cluster / 8).ok().and_then(|index| self.used.get_mut(index)) {
                *byte |= 1u8.wrapping_shl((cluster & 7) as u32);
            }
        }
        self.corrupt(twice);
        twice == 0
    }
}

/// The entries of a table that are wanted.
fn entries(
    io: &mut dyn Findings,
    disk: DiskId,
    table: u64,
    len: u64,
    is_wanted: &mut dyn FnMut(u64) -> bool,
) -> Result<Vec<u64>, Error> {
    let mut all = Vec::new();
    let mut at = 0;
    while at < len {
        let piece = len.saturating_sub(at).min(CHUNK_LEN);
        let read = io.read_each(disk, &[table.saturating_add(at)], usize::try_from(piece).unwrap_or(0))?;
        for raw in read.first().map_or(&[][..], |bytes| bytes.as_chunks::<8>().0) {
            let entry = u64::from_le_bytes(*raw);
            if is_wanted(entry) {
                io.budget().take_heap(ENTRY_LEN)?;
                all.push(entry);
            }
        }
        at = at.saturating_add(piece);
    }
    io.budget().give_heap(ENTRY_LEN.saturating_mul(all.len() as u64));
    Ok(all)
}
