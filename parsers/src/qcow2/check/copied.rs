//! The flag of an entry that says: what it names has a refcount of exactly 1.

use super::Check;
use super::refcounts::Ones;
use super::tables::Table;
use crate::image::Findings;
use crate::qcow2::l2::{L2Entry, L2Mapping};
use crate::qcow2::wire::entry;
use instar_abi::check::Qcow2Finding;
use instar_abi::error::Error;

impl Check<'_> {
    /// Whether every flag is known to be right without looking: all entries have it, and every cluster that one of them
    /// names has a refcount of at least one, by what was counted, and of at most one.
    pub(super) fn flags_are_sound(&self) -> bool {
        let is_counted = self.result.corruptions == 0 && self.result.check_errors == 0;
        is_counted && !self.has_unflagged && !self.has_shared && !self.image.header().has_data_file()
    }

    /// Checks the flags of the active L1 table and its L2 tables. What refcounts are not told here, where they can't be
    /// read: that has been told.
    pub(super) fn copied(&mut self, io: &mut dyn Findings, ones: &Ones) -> Result<(), Error> {
        let l1 = self.image.header().l1();
        self.each_l2_table(io, l1.offset, l1.count, &mut |check, io, (l1_index, raw), table| {
            let offset = raw & entry::OFFSET;
            if offset == 0 {
                return Ok(());
            }
            let Some(refcount) = check.refcount(io, offset.wrapping_shr(check.cluster_bits))? else { return Ok(()) };
            if (refcount == 1) != (raw & entry::COPIED != 0) {
                check.corrupt(io, Qcow2Finding::CopiedL2 { l1_index, entry: raw, refcount })?;
            }
            let Some(table) = table.filter(|_| !check.known.contains_key(&offset)) else { return Ok(()) };
            let before = check.result.corruptions;
            for raw in table.chunks_exact(L2Entry::len(check.image.header())) {
                check.copied_entry(io, ones, raw)?;
            }
            if before == check.result.corruptions && check.remembers() {
                check.known.insert(offset, Table::default());
            }
            Ok(())
        })
    }

    #[inline]
    fn copied_entry(&mut self, io: &mut dyn Findings, ones: &Ones, raw: &[u8]) -> Result<(), Error> {
        let header = self.image.header();
        let Some(parsed) = L2Entry::parse(header, raw) else { return Ok(()) };
        let word = parsed.word();
        if word == 0 {
            return Ok(());
        }
        let is_copied = word & entry::COPIED != 0;
        let offset = match parsed.mapping(header) {
            L2Mapping::Compressed { .. } | L2Mapping::Unallocated | L2Mapping::Zero { reserved: 0 } => return Ok(()),
            L2Mapping::Zero { reserved: offset } | L2Mapping::Allocated { offset } => offset,
        };
        let cluster = offset.wrapping_shr(self.cluster_bits);
        let is_one = if header.has_data_file() { Some(true) } else { ones.has(cluster) };
        if is_one == Some(is_copied) {
            return Ok(());
        }
        // The clusters of an external data file have no refcounts.
        let refcount = if header.has_data_file() { Some(1) } else { self.refcount(io, cluster)? };
        match refcount {
            Some(refcount) if (refcount == 1) != is_copied => {
                self.corrupt(io, Qcow2Finding::CopiedData { entry: word, refcount })
            }
            _ => Ok(()),
        }
    }
}
