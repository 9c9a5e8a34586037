//! A new image, written front to back.
//!
//! ```text
//! cluster 0        header, its first sector the commit point
//! cluster 1 …      L1 table
//! …                L2 tables, data clusters and packed streams, as the disk is passed
//! …                refcount blocks, then the refcount table
//! ```
//!
//! Every cluster up to the end is in use exactly once, but for those with several compressed streams, so refcounts are
//! known when the end is. Content may be placed in any order; an L2 table is in memory until the writer is told that
//! nothing more will come before its end. With an external data file, content is there, each byte where it is in the
//! disk, and has no refcounts.
//!
//! An image that exists gets a new state behind its end: everything but its header is in use no more then, and the
//! first sector of the header is the commit point again.

mod behind;
mod empty;
mod finish;
mod header;
mod layout;
mod measure;
mod pack;
mod tables;

pub use finish::Finish;
pub use header::Names;
pub use layout::Layout;
pub use measure::{bitmaps_len, full_len};

use empty::clusters;
use header::Header;
use tables::Tables;

use super::limits;
use super::wire::entry;
use crate::align;
use crate::store::Budget;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{Error, TargetError, WriteError};
use instar_abi::request::DiskId;

/// Adds a part to consecutive ones: place in the file, and bytes.
fn add_part(parts: &mut Vec<(u64, u64)>, offset: u64, len: u64) {
    match parts.last_mut() {
        Some((last, last_len)) if last.checked_add(*last_len) == Some(offset) => {
            *last_len = last_len.saturating_add(len);
        }
        _ => parts.push((offset, len)),
    }
}

/// Hands out the clusters of a new image.
pub struct Writer {
    layout: Layout,
    virtual_size: u64,
    disk: DiskId,
    capacity: u64,
    /// L1 entries, as they will be on disk.
    l1: Vec<u8>,
    /// First free byte of the file.
    end: u64,
    tables: Tables,
    packing: pack::Packing,
    header: Header,
    /// Where the L1 table goes.
    l1_at: u64,
    /// Where the clusters of an older state end, all unused but the first one; a cluster for a new image.
    unused_end: u64,
    /// Every cluster has its place, whether or not it has content.
    is_preallocated: bool,
    /// Content goes to a file of its own.
    has_data_file: bool,
}

impl Writer {
    /// An empty image of `virtual_size` bytes, a multiple of 512.
    ///
    /// # Errors
    /// [`TargetError::TooLarge`]; the heap budget; [`WriteError::Capacity`].
    pub fn new(
        budget: &mut Budget,
        layout: Layout,
        virtual_size: u64,
        disk: DiskId,
        capacity: u64,
    ) -> Result<Self, Error> {
        let max = layout.virtual_size_max();
        if virtual_size > max {
            return Err(Error::Target(TargetError::TooLarge { virtual_size, max }));
        }
        // At most 32 MiB.
        let l1_len = layout.l1_count(virtual_size).saturating_mul(8);
        let l1_space = align::up(l1_len, layout.cluster_size()).unwrap_or(u64::MAX);
        let l1 = budget.zeroed(usize::try_from(align::up(l1_len, 512).unwrap_or(l1_len)).unwrap_or(usize::MAX))?;
        let capacity = capacity.min(layout.file_len_max());
        let end = layout.cluster_size();
        let mut writer = Self {
            layout,
            virtual_size,
            disk,
            capacity,
            l1,
            end,
            tables: Tables::default(),
            packing: pack::Packing::new(budget.half_of_heap()),
            header: Header::New(Names::default()),
            l1_at: end,
            unused_end: end,
            is_preallocated: false,
            has_data_file: false,
        };
        writer.take(l1_space)?;
        Ok(writer)
    }

    /// With files that the header names.
    ///
    /// # Errors
    /// [`TargetError::BackingNameLen`]; [`TargetError::HeaderLen`].
    pub fn with_names(mut self, names: Names) -> Result<Self, TargetError> {
        names.check(&self.layout)?;
        self.has_data_file = names.data_file.is_some();
        self.header = Header::New(names);
        Ok(self)
    }

    /// With a place for every cluster, whether or not it has content: all of the disk is then placed or reserved.
    #[must_use]
    pub fn preallocated(mut self) -> Self {
        self.is_preallocated = true;
        self
    }

    /// A place for the content of `range`, of which nothing has been placed before: consecutive parts of it, each by its
    /// place in the file and its bytes. What else there is of its clusters is zero.
    ///
    /// # Errors
    /// [`WriteError::Capacity`].
    pub fn place(&mut self, range: Range<u64>) -> Result<Vec<(u64, u64)>, Error> {
        let mut parts = Vec::new();
        for (start, part) in clusters(range, self.layout.cluster_size()) {
            let offset = self.cluster(start)?;
            let len = part.end.saturating_sub(part.start);
            add_part(&mut parts, offset.saturating_add(part.start), len);
            self.set_subclusters(start, part, 0);
        }
        Ok(parts)
    }

    /// Takes out the L2 tables that are complete when nothing more comes before `below`: place and bytes.
    pub fn settle(&mut self, below: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
        self.tables.take_before(align::units(below, self.layout.l2_span()))
    }

    /// Bytes of the L2 tables that have not been taken out.
    #[must_use]
    pub fn tables_len(&self) -> u64 {
        self.tables.count().saturating_mul(self.layout.cluster_size())
    }

    /// The cluster in the file for the one at `start` of the disk.
    fn cluster(&mut self, start: u64) -> Result<u64, Error> {
        let table = self.table(start)?;
        if let Some(offset) = self.tables.cluster(table, self.word(start)) {
            return Ok(offset);
        }
        let offset = if self.has_data_file { start } else { self.take(self.layout.cluster_size())? };
        self.tables.set(table, self.word(start), offset | entry::COPIED);
        Ok(offset)
    }

    /// The index of the table for `start`, which is there then.
    fn table(&mut self, start: u64) -> Result<u64, Error> {
        let index = align::units(start, self.layout.l2_span());
        if !self.tables.has(index) {
            let offset = self.take(self.layout.cluster_size())?;
            put(&mut self.l1, index, (offset | entry::COPIED).to_be_bytes());
            // At most 2 MiB.
            self.tables.add(index, offset, usize::try_from(self.layout.cluster_size()).unwrap_or(0));
        }
        Ok(index)
    }

    /// Index of the 8-byte word in its table that `start`'s entry begins with.
    fn word(&self, start: u64) -> u64 {
        let index = align::units(align::within(start, self.layout.l2_span()), self.layout.cluster_size());
        if self.layout.extended_l2 { index.saturating_mul(2) } else { index }
    }

    /// Marks the subclusters of a part of a cluster, by the bits from `shift` on: allocated, or zero.
    fn set_subclusters(&mut self, start: u64, part: Range<u64>, shift: u32) {
        if !self.layout.extended_l2 {
            return;
        }
        let granule = self.layout.granule();
        let first = align::units(part.start, granule);
        let end = part.end.div_ceil(granule).min(limits::SUBCLUSTERS.into());
        let below = |index: u64| 1u64.checked_shl(u32::try_from(index).unwrap_or(64)).unwrap_or(0).wrapping_sub(1);
        let mask = (below(end) & !below(first)) << shift;
        let table = align::units(start, self.layout.l2_span());
        self.tables.add_bits(table, self.word(start).saturating_add(1), mask);
    }

    /// How often cluster `index` of the file is in use.
    fn count(&self, index: u64) -> u16 {
        let at = index.saturating_mul(self.layout.cluster_size());
        if index != 0 && at < self.unused_end { 0 } else { self.packing.count(index) }
    }

    /// What has been packed, up to the last whole sector.
    pub fn whole_sectors(&mut self) -> Option<(u64, Vec<u8>)> {
        self.packing.whole_sectors()
    }

    fn take(&mut self, len: u64) -> Result<u64, Error> {
        let offset = self.end;
        let end = offset.saturating_add(len);
        if end > self.capacity {
            return Err(Error::Write(WriteError::Capacity { disk: self.disk, end }));
        }
        self.end = end;
        Ok(offset)
    }
}

/// Sets entry `index` of a table.
fn put(table: &mut [u8], index: u64, entry: [u8; 8]) {
    let slot = usize::try_from(index).ok().and_then(|index| table.as_chunks_mut().0.get_mut(index));
    if let Some(slot) = slot {
        *slot = entry;
    }
}
