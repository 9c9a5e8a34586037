//! What completes a new image: refcounts, L1 table, and the header that makes it one.

use super::pack::set_refcount;
use super::{Layout, Writer, put};
use crate::align;
use crate::plan::{Epoch, Plan};
use alloc::vec;
use alloc::vec::Vec;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;

/// Bytes of refcount blocks in one plan, or one block.
const PLAN_LEN: u64 = 1 << 20;

impl Writer {
    /// The plans that complete the image, in order, and its length. The content must have been written and flushed
    /// before the last one is applied. Tables that have not been settled are part of it.
    ///
    /// # Errors
    /// [`WriteError::Capacity`](instar_abi::error::WriteError::Capacity).
    pub fn finish(mut self) -> Result<Finish, Error> {
        let last_writes = Some(self.tables.take_before(u64::MAX).chain(self.packing.rest()).collect());
        let cluster_size = self.layout.cluster_size();
        let content_clusters = align::units(self.end, cluster_size);
        // Blocks and table count themselves: a few rounds, each of which can only grow.
        let (mut blocks, mut table_clusters) = (1u64, 1u64);
        loop {
            let clusters = content_clusters.saturating_add(blocks).saturating_add(table_clusters);
            let more_blocks = clusters.div_ceil(self.layout.refcounts_of_block());
            let more_table = more_blocks.saturating_mul(8).div_ceil(cluster_size);
            if more_blocks <= blocks && more_table <= table_clusters {
                break;
            }
            (blocks, table_clusters) = (more_blocks.max(blocks), more_table.max(table_clusters));
        }
        let blocks_at = self.take(blocks.saturating_mul(cluster_size))?;
        let table_at = self.take(table_clusters.saturating_mul(cluster_size))?;
        Ok(Finish { writer: self, last_writes, blocks, next_block: 0, blocks_at, table_at, table_clusters })
    }
}

/// What completes an image.
pub struct Finish {
    writer: Writer,
    /// What goes with the header; `None`: it has gone.
    last_writes: Option<Vec<(u64, Vec<u8>)>>,
    blocks: u64,
    next_block: u64,
    blocks_at: u64,
    table_at: u64,
    table_clusters: u64,
}

impl Finish {
    /// Bytes of the complete file: it ends with the used sectors of the refcount table, whose last cluster reads as
    /// zeros from there on. qemu-img's files end like this too, with the L1 table.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.table_at.saturating_add(self.table_len())
    }

    /// Bytes of the refcount table in use, in whole sectors.
    fn table_len(&self) -> u64 {
        self.blocks.saturating_mul(8).next_multiple_of(SECTOR_LEN)
    }

    /// The next plan; the last one has the commit point, and `None` follows it.
    #[must_use]
    pub fn next_plan(&mut self) -> Option<Plan> {
        if self.blocks.saturating_sub(self.next_block) > self.blocks_of_plan() {
            let (at, bytes) = self.some_blocks();
            let mut plan = Plan::new(at, at.saturating_add(bytes.len() as u64));
            plan.push(Epoch::new("refcount blocks").write(at, bytes));
            return Some(plan);
        }
        let last_writes = self.last_writes.take()?;
        Some(self.last_plan(last_writes))
    }

    fn blocks_of_plan(&self) -> u64 {
        align::units(PLAN_LEN, self.writer.layout.cluster_size()).max(1)
    }

    /// The next refcount blocks, and where they go: ones up to the end of the file, then zeros.
    fn some_blocks(&mut self) -> (u64, Vec<u8>) {
        let layout = self.writer.layout;
        let cluster_size = layout.cluster_size();
        let count = self.blocks.saturating_sub(self.next_block).min(self.blocks_of_plan());
        let at = self.blocks_at.saturating_add(self.next_block.saturating_mul(cluster_size));
        let first_cluster = self.next_block.saturating_mul(layout.refcounts_of_block());
        let used = align::units(self.writer.end, cluster_size).saturating_sub(first_cluster);
        let mut bytes = vec![0; usize::try_from(count.saturating_mul(cluster_size)).unwrap_or(0)];
        let used = used.min(count.saturating_mul(layout.refcounts_of_block()));
        fill_with_ones(&mut bytes, layout, usize::try_from(used).unwrap_or(usize::MAX));
        for index in 0..used {
            let count = self.writer.count(first_cluster.saturating_add(index));
            if count != 1 {
                set_refcount(&mut bytes, layout.refcount_order, index, count);
            }
        }
        self.next_block = self.next_block.saturating_add(count);
        (at, bytes)
    }

    fn last_plan(&mut self, last_writes: Vec<(u64, Vec<u8>)>) -> Plan {
        let l1 = core::mem::take(&mut self.writer.l1);
        let cluster_size = self.writer.layout.cluster_size();
        let (blocks_at, blocks) = self.some_blocks();
        let mut table = vec![0; usize::try_from(self.table_len()).unwrap_or(0)];
        for index in 0..self.blocks {
            let block = self.blocks_at.saturating_add(index.saturating_mul(cluster_size));
            put(&mut table, index, block.to_be_bytes());
        }
        // Nothing leads to any of these before the header does: a crash leaves a file without a format, or the old image.
        let l1_at = self.writer.l1_at;
        let mut epoch = Epoch::new("tables");
        if !l1.is_empty() {
            epoch = epoch.write(l1_at, l1);
        }
        epoch = epoch.write(blocks_at, blocks).write(self.table_at, table);
        let mut header = self.writer.header.bytes(&self.writer, self.table_at, self.table_clusters);
        let rest = header.split_off(header.len().min(SECTOR_LEN as usize));
        if !rest.is_empty() {
            epoch = epoch.write(SECTOR_LEN, rest);
        }
        for (at, bytes) in last_writes {
            epoch = epoch.write(at, bytes);
        }
        let mut plan = Plan::new(blocks_at, self.file_len());
        plan.push(epoch);
        plan.commit("header", 0, header);
        plan
    }
}

/// Makes the first `count` refcounts 1. Refcounts of less than a byte have their first one in the low bits.
fn fill_with_ones(blocks: &mut [u8], layout: Layout, count: usize) {
    match layout.refcount_order {
        order @ 0..=2 => {
            let (bits, per_byte) = (1usize << order, 8usize >> order);
            let ones = (0..per_byte).fold(0u8, |ones, index| ones | 1 << index.saturating_mul(bits));
            let whole = count.checked_div(per_byte).unwrap_or(0);
            let rest = count.saturating_sub(whole.saturating_mul(per_byte)).saturating_mul(bits);
            let mask = (1u16 << rest).wrapping_sub(1) as u8;
            for (index, byte) in blocks.iter_mut().enumerate().take(whole.saturating_add(1)) {
                *byte = if index < whole { ones } else { ones & mask };
            }
        }
        order => {
            let len = 1usize << order.saturating_sub(3);
            for refcount in blocks.chunks_exact_mut(len).take(count) {
                if let Some(byte) = refcount.last_mut() {
                    *byte = 1;
                }
            }
        }
    }
}
