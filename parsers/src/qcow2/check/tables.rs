//! L1 and L2 tables: what they reference, and what is wrong with their entries.

use super::{BATCH_LEN, BATCH_MAX, Check};
use crate::align;
use crate::image::Findings;
use crate::qcow2::l2::{L2Entry, L2Mapping};
use crate::qcow2::wire::entry;
use alloc::vec::Vec;
use instar_abi::check::Qcow2Finding;
use instar_abi::error::Error;

/// L2 tables are remembered once this many bytes of them have been read: no small image has as many, but for one whose
/// L1 entries name the same tables again and again.
const KNOWN_FROM: u64 = 64 << 20;
/// Most L2 tables that are remembered.
const KNOWN_MAX: usize = 64 << 10;
/// What an L1 entry is charged for, beside the table: the search for it.
const L1_ENTRY_COST: u64 = 128;

/// What an L2 table without findings holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Table {
    allocated: u64,
    fragmented: u64,
    compressed: u64,
    /// An entry with a cluster does not say that its refcount is 1.
    has_unflagged: bool,
    /// How often it has been met again; its clusters are counted at the end.
    again: u64,
}

/// What is done with an L1 entry, its number, and its L2 table.
pub type EachTable<'a, C> = dyn FnMut(&mut C, &mut dyn Findings, (u32, u64), Option<&[u8]>) -> Result<(), Error> + 'a;

impl Check<'_> {
    /// Counts an L1 table, its L2 tables, and what they reference.
    pub(super) fn l1_table(
        &mut self,
        io: &mut dyn Findings,
        offset: u64,
        count: u32,
        is_active: bool,
    ) -> Result<(), Error> {
        self.count(io, offset, u64::from(count).saturating_mul(8))?;
        self.each_l2_table(io, offset, count, &mut |check, io, (_, raw), table| {
            if raw & entry::L1_RESERVED != 0 {
                check.corrupt_once(io, Qcow2Finding::L1Reserved { entry: raw })?;
            }
            let offset = raw & entry::OFFSET;
            check.count(io, offset, check.cluster_size)?;
            if align::within(offset, check.cluster_size) != 0 {
                check.corrupt_once(io, Qcow2Finding::L2Offset { offset })?;
            }
            let found = match (check.known.get_mut(&offset), table) {
                (Some(known), _) => {
                    known.again = known.again.saturating_add(1);
                    *known
                }
                (None, Some(table)) => {
                    let before = check.unsound;
                    let found = check.l2_table(io, table)?;
                    if before == check.unsound && check.remembers() {
                        check.known.insert(offset, found);
                    }
                    found
                }
                // Past the end of the file there is nothing.
                (None, None) => Table::default(),
            };
            if is_active {
                let is_unflagged = offset != 0 && raw & entry::COPIED == 0;
                check.has_unflagged |= is_unflagged || found.has_unflagged;
            }
            if is_active && check.is_first {
                let result = &mut check.result;
                result.allocated_clusters = result.allocated_clusters.saturating_add(found.allocated);
                result.fragmented_clusters = result.fragmented_clusters.saturating_add(found.fragmented);
                result.compressed_clusters = result.compressed_clusters.saturating_add(found.compressed);
            }
            Ok(())
        })
    }

    /// Whether tables are remembered from now on.
    pub(super) fn remembers(&self) -> bool {
        self.tables.taken() >= KNOWN_FROM && self.known.len() < KNOWN_MAX
    }

    /// Calls `work` with each L1 entry that is not zero, its number, and the table that it names; without one where the
    /// table is known, or past the end of the file.
    pub(super) fn each_l2_table(
        &mut self,
        io: &mut dyn Findings,
        offset: u64,
        count: u32,
        work: &mut EachTable<'_, Self>,
    ) -> Result<(), Error> {
        let table_len = usize::try_from(self.cluster_size).unwrap_or(0);
        let batch = BATCH_LEN.checked_div(table_len).unwrap_or(1).clamp(1, BATCH_MAX);
        let (mut at, mut left) = (offset, u64::from(count).saturating_mul(8));
        let mut index = 0u32;
        while left > 0 {
            let piece = left.min(BATCH_LEN as u64);
            self.tables.take(piece)?;
            let read = io.read_each(self.disk, &[at], usize::try_from(piece).unwrap_or(0))?;
            let entries = read.first().map_or(&[][..], |bytes| bytes.as_chunks().0);
            for entries in entries.chunks(batch) {
                let first = index;
                index = index.saturating_add(u32::try_from(entries.len()).unwrap_or(u32::MAX));
                let entries = (first..).zip(entries.iter().map(|raw| u64::from_be_bytes(*raw)));
                let entries: Vec<(u32, u64)> = entries.filter(|(_, raw)| *raw != 0).collect();
                let is_read = |check: &Self, raw: u64| {
                    let offset = raw & entry::OFFSET;
                    offset < check.file_len && !check.known.contains_key(&offset)
                };
                let places: Vec<u64> =
                    entries.iter().filter(|(_, raw)| is_read(self, *raw)).map(|(_, raw)| raw & entry::OFFSET).collect();
                let cost = (entries.len() as u64).saturating_mul(L1_ENTRY_COST);
                self.tables.take(cost.saturating_add((places.len() as u64).saturating_mul(self.cluster_size)))?;
                let mut tables = places.iter().zip(io.read_each(self.disk, &places, table_len)?).peekable();
                for (index, raw) in entries {
                    let is_next = |next: &(&u64, Vec<u8>)| *next.0 == raw & entry::OFFSET;
                    let table = tables.next_if(is_next);
                    work(self, io, (index, raw), table.as_ref().map(|(_, bytes)| bytes.as_slice()))?;
                }
            }
            at = at.saturating_add(piece);
            left = left.saturating_sub(piece);
        }
        Ok(())
    }

    /// Counts what an L2 table references.
    fn l2_table(&mut self, io: &mut dyn Findings, table: &[u8]) -> Result<Table, Error> {
        let mut found = Table::default();
        // Where a cluster would be that is behind the one before.
        let mut next = 0;
        let header = self.image.header();
        if header.has_extended_l2() {
            for (index, raw) in (0u32..).zip(table.as_chunks::<16>().0) {
                self.l2_entry(io, &mut found, &mut next, index, raw)?;
            }
            return Ok(found);
        }
        let plain_mask = entry::OFFSET & !self.cluster_size.wrapping_sub(1);
        // With an external data file nothing is plain: its clusters are not counted.
        let plain_end = if header.has_data_file() { 0 } else { self.file_len };
        let mut flags = entry::COPIED;
        for (index, raw) in (0u32..).zip(table.as_chunks::<8>().0) {
            let word = u64::from_be_bytes(*raw);
            let offset = word & !entry::COPIED;
            if word == 0 {
                continue;
            }
            if offset & !plain_mask != 0 || offset >= plain_end || offset == 0 {
                self.l2_entry(io, &mut found, &mut next, index, raw)?;
                continue;
            }
            found.allocated = found.allocated.wrapping_add(1);
            found.fragmented = found.fragmented.wrapping_add(u64::from(next != 0 && next != offset));
            next = offset.wrapping_add(self.cluster_size);
            flags &= word;
            let cluster = offset.wrapping_shr(self.cluster_bits);
            if !self.counts.add_one(cluster) {
                self.add(io, cluster, 1)?;
            }
        }
        found.has_unflagged |= flags == 0;
        Ok(found)
    }

    /// Counts what one entry references, whatever it is.
    fn l2_entry(
        &mut self,
        io: &mut dyn Findings,
        found: &mut Table,
        next: &mut u64,
        index: u32,
        raw: &[u8],
    ) -> Result<(), Error> {
        let header = self.image.header();
        let Some(parsed) = L2Entry::parse(header, raw) else { return Ok(()) };
        let (word, bitmap) = (parsed.word(), parsed.bitmap());
        let mapping = parsed.mapping(header);
        if !matches!(mapping, L2Mapping::Compressed { .. }) && word & entry::L2_RESERVED != 0 {
            self.corrupt_once(io, Qcow2Finding::L2Reserved { entry: word })?;
        }
        match mapping {
            L2Mapping::Compressed { offset, len } => {
                self.compressed(io, found, index, parsed, (offset, len))?;
            }
            L2Mapping::Zero { reserved: 0 } => {}
            L2Mapping::Zero { reserved: offset } | L2Mapping::Allocated { offset } => {
                if bitmap.wrapping_shr(32) & bitmap != 0 {
                    self.corrupt_once(io, Qcow2Finding::Subclusters { offset })?;
                }
                if align::within(offset, self.cluster_size) != 0 {
                    let has_content = match header.has_extended_l2() {
                        true => bitmap & u64::from(u32::MAX) != 0,
                        false => word & entry::ZERO == 0,
                    };
                    let finding = match has_content {
                        true => Qcow2Finding::DataOffset { offset },
                        false => Qcow2Finding::ReservedOffset { offset },
                    };
                    self.corrupt_once(io, finding)?;
                }
                found.has_unflagged |= word & entry::COPIED == 0;
                found.allocated = found.allocated.saturating_add(1);
                let is_fragmented = *next != 0 && *next != offset;
                found.fragmented = found.fragmented.saturating_add(u64::from(is_fragmented));
                *next = offset.saturating_add(self.cluster_size);
                if !header.has_data_file() {
                    self.count(io, offset, self.cluster_size)?;
                }
            }
            L2Mapping::Unallocated if bitmap & u64::from(u32::MAX) != 0 => {
                self.corrupt_once(io, Qcow2Finding::UnallocatedSubclusters)?;
            }
            L2Mapping::Unallocated => {}
        }
        Ok(())
    }

    fn compressed(
        &mut self,
        io: &mut dyn Findings,
        found: &mut Table,
        index: u32,
        parsed: L2Entry,
        (offset, len): (u64, u32),
    ) -> Result<(), Error> {
        let word = parsed.word();
        let entry = word & !entry::COPIED;
        if word != entry {
            self.corrupt_once(io, Qcow2Finding::CompressedCopied { offset })?;
        }
        if self.image.header().has_data_file() {
            return self.corrupt_once(io, Qcow2Finding::CompressedWithDataFile { index, entry });
        }
        if parsed.bitmap() != 0 {
            return self.corrupt_once(io, Qcow2Finding::CompressedSubclusters { index, entry });
        }
        self.count(io, offset, len.into())?;
        found.allocated = found.allocated.saturating_add(1);
        found.compressed = found.compressed.saturating_add(1);
        // By its nature, in QEMU's view.
        found.fragmented = found.fragmented.saturating_add(1);
        Ok(())
    }

    /// Counts what known tables reference, as often as they have been met again.
    pub(super) fn known_again(&mut self, io: &mut dyn Findings) -> Result<(), Error> {
        let known = core::mem::take(&mut self.known);
        let len = usize::try_from(self.cluster_size).unwrap_or(0);
        for (offset, table) in known.iter().filter(|(_, table)| table.again > 0) {
            self.tables.take(self.cluster_size)?;
            let read = io.read_each(self.disk, &[*offset], len)?;
            let entry_len = L2Entry::len(self.image.header());
            for raw in read.first().map_or(&[][..], Vec::as_slice).chunks_exact(entry_len) {
                self.entry_again(io, raw, table.again)?;
            }
        }
        Ok(())
    }

    fn entry_again(&mut self, io: &mut dyn Findings, raw: &[u8], times: u64) -> Result<(), Error> {
        let header = self.image.header();
        let Some(parsed) = L2Entry::parse(header, raw) else { return Ok(()) };
        let (offset, len) = match parsed.mapping(header) {
            L2Mapping::Zero { reserved: 0 } | L2Mapping::Unallocated => return Ok(()),
            _ if header.has_data_file() => return Ok(()),
            L2Mapping::Compressed { .. } if parsed.bitmap() != 0 => return Ok(()),
            L2Mapping::Compressed { offset, len } => (offset, u64::from(len)),
            L2Mapping::Zero { reserved: offset } | L2Mapping::Allocated { offset } => (offset, self.cluster_size),
        };
        if self.is_past_end(offset, len) {
            return Ok(());
        }
        let last = offset.saturating_add(len.saturating_sub(1)).wrapping_shr(self.cluster_bits);
        let mut cluster = offset.wrapping_shr(self.cluster_bits);
        while cluster <= last {
            self.add(io, cluster, times)?;
            cluster = cluster.saturating_add(1);
        }
        Ok(())
    }
}
