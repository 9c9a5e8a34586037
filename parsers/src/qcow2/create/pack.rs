//! Compressed clusters: streams packed byte to byte, several in a cluster of the file.

use super::Writer;
use crate::align;
use crate::qcow2::wire::entry;
use crate::store::Budget;
use alloc::vec::Vec;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{Error, Resource};

/// Where the next stream goes, and what has been packed and not been written yet.
pub struct Packing {
    /// What the counts may use up.
    budget: Budget,
    /// First free byte of a cluster that has room; 0: none has.
    free: u64,
    /// Where `bytes` go, a whole sector.
    at: u64,
    bytes: Vec<u8>,
    /// Streams in each cluster of the file, as far as there are any; 1 for every other use. In pages, so that nothing
    /// is copied as it grows.
    counts: Vec<Vec<u16>>,
    /// Clusters that are counted.
    counted: u64,
}

/// Counts of a page: 32 KiB of heap.
const PAGE_COUNT: u64 = 16 << 10;

impl Packing {
    /// Nothing packed; the counts are paid for from `budget`.
    pub const fn new(budget: Budget) -> Self {
        Self { budget, free: 0, at: 0, bytes: Vec::new(), counts: Vec::new(), counted: 0 }
    }

    /// How often cluster `index` of the file is in use.
    pub fn count(&self, index: u64) -> u16 {
        let page = usize::try_from(align::units(index, PAGE_COUNT)).ok().and_then(|page| self.counts.get(page));
        let within = usize::try_from(align::within(index, PAGE_COUNT)).unwrap_or(usize::MAX);
        page.and_then(|page| page.get(within)).copied().unwrap_or(1)
    }

    fn count_mut(&mut self, index: u64) -> Option<&mut u16> {
        let page = self.counts.get_mut(usize::try_from(align::units(index, PAGE_COUNT)).ok()?)?;
        page.get_mut(usize::try_from(align::within(index, PAGE_COUNT)).ok()?)
    }

    /// Counts this many clusters of the file.
    fn grow(&mut self, clusters: u64) -> Result<(), Error> {
        while (self.counts.len() as u64).saturating_mul(PAGE_COUNT) < clusters {
            self.budget.take_heap(PAGE_COUNT.saturating_mul(2))?;
            let no_heap = Error::OutOfBudget(Resource::Heap);
            let mut page = Vec::new();
            page.try_reserve_exact(PAGE_COUNT as usize).map_err(|_| no_heap.clone())?;
            page.resize(PAGE_COUNT as usize, 1);
            self.counts.try_reserve(1).map_err(|_| no_heap)?;
            self.counts.push(page);
        }
        self.counted = clusters;
        Ok(())
    }

    /// Takes out what has been packed up to the last whole sector.
    pub fn whole_sectors(&mut self) -> Option<(u64, Vec<u8>)> {
        let len = align::down(self.bytes.len() as u64, SECTOR_LEN);
        let rest = self.bytes.split_off(usize::try_from(len).unwrap_or(0));
        let whole = core::mem::replace(&mut self.bytes, rest);
        let at = self.at;
        self.at = at.saturating_add(len);
        (!whole.is_empty()).then_some((at, whole))
    }

    /// Takes out all that has been packed, with zeros up to the end of its sector.
    pub fn rest(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut bytes = core::mem::take(&mut self.bytes);
        bytes.resize(bytes.len().next_multiple_of(SECTOR_LEN as usize), 0);
        (!bytes.is_empty()).then_some((self.at, bytes))
    }
}

impl Writer {
    /// Places the stream of the cluster at `start` of the disk, of which nothing has been placed before; bytes that are
    /// complete go to `complete`.
    ///
    /// # Errors
    /// [`WriteError::Capacity`](instar_abi::error::WriteError::Capacity); no heap for the refcounts.
    ///
    /// # Source
    /// As QEMU 10.0's `qcow2_alloc_bytes`: a stream goes on where the last one ended if its cluster has room or the
    /// next cluster of the file follows. The entry is the specification's "Compressed Clusters Descriptor".
    pub fn pack(&mut self, start: u64, stream: &[u8], complete: &mut Vec<(u64, Vec<u8>)>) -> Result<(), Error> {
        let cluster_size = self.layout.cluster_size();
        let table = self.table(start)?;
        let len = stream.len() as u64;
        let mut offset = self.packing.free;
        let used = self.packing.count(align::units(offset, cluster_size));
        if u64::from(used) >= self.layout.refcount_max() {
            offset = 0;
        }
        let room = cluster_size.saturating_sub(align::within(offset, cluster_size));
        if offset == 0 || room < len {
            let new = self.take(cluster_size)?;
            if offset == 0 || align::up(offset, cluster_size) != Some(new) {
                offset = new;
            }
        }
        let end = offset.saturating_add(len);
        self.count_streams(align::units(offset, cluster_size), align::units(end.saturating_sub(1), cluster_size))?;
        self.packing.free = if align::within(end, cluster_size) == 0 { 0 } else { end };
        let packing = &mut self.packing;
        if packing.at.saturating_add(packing.bytes.len() as u64) != offset {
            complete.extend(packing.rest());
            packing.at = offset;
        }
        packing.bytes.extend_from_slice(stream);
        self.tables.set(table, self.word(start), self.compressed_entry(offset, end));
        Ok(())
    }

    /// Counts one more stream in these clusters of the file.
    fn count_streams(&mut self, first: u64, last: u64) -> Result<(), Error> {
        let old_count = self.packing.counted;
        self.packing.grow(align::units(self.end, self.layout.cluster_size()))?;
        // A cluster that has just been taken has no stream yet: its 1 is this one.
        for index in first..(last.saturating_add(1)).min(old_count) {
            if let Some(count) = self.packing.count_mut(index) {
                *count = count.saturating_add(1);
            }
        }
        Ok(())
    }

    const fn compressed_entry(&self, offset: u64, end: u64) -> u64 {
        let more_sectors =
            align::units(end.saturating_sub(1), SECTOR_LEN).saturating_sub(align::units(offset, SECTOR_LEN));
        // 62 − (cluster bits − 8) is 49 to 61.
        let offset_bits = 70u32.saturating_sub(self.layout.cluster_bits);
        entry::COMPRESSED | more_sectors << offset_bits | offset
    }
}

/// Sets refcount `index` of blocks whose refcounts have 2^`order` bits.
pub fn set_refcount(blocks: &mut [u8], order: u32, index: u64, count: u16) {
    if order >= 3 {
        let len = 1usize << order.saturating_sub(3);
        let at = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(len);
        let Some(refcount) = blocks.get_mut(at..at.saturating_add(len)) else { return };
        for (byte, value) in refcount.iter_mut().rev().zip(count.to_le_bytes()) {
            *byte = value;
        }
        return;
    }
    let bits = 1u64 << order;
    let bit = index.saturating_mul(bits);
    let (Ok(at), Ok(shift)) = (usize::try_from(bit / 8), u32::try_from(bit % 8)) else { return };
    let [value, _] = count.to_le_bytes();
    let mask = (1u8 << bits).wrapping_sub(1);
    if let Some(byte) = blocks.get_mut(at) {
        *byte = *byte & !(mask << shift) | (value & mask) << shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width_are_set_alone() {
        for order in 0..=6 {
            let max = if order >= 4 { u16::MAX } else { (1u16 << (1 << order)) - 1 };
            for index in [0, 1, 7, 8, 31] {
                let mut blocks = vec![0xff; 512];
                set_refcount(&mut blocks, order, index, 0);
                let zeros: u32 = blocks.iter().map(|byte| byte.count_zeros()).sum();
                assert_eq!(zeros, (1u32 << order).min(16), "{order} {index}");
                let mut blocks = vec![0; 512];
                set_refcount(&mut blocks, order, index, max);
                assert_eq!(blocks.iter().map(|byte| byte.count_ones()).sum::<u32>(), (1u32 << order).min(16));
            }
        }
    }
}
