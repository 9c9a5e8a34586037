//! Refcount table and blocks, and what they say held against what was counted.

use super::{BATCH_LEN, BATCH_MAX, Check, FILE_END_MAX};
use crate::align;
use crate::image::Findings;
use crate::qcow2::refcount::unpack_all;
use crate::qcow2::wire::entry;
use crate::store::Budget;
use alloc::vec::Vec;
use instar_abi::check::{Finding, Qcow2Finding};
use instar_abi::error::Error;

/// Most clusters that [`Ones`] knows, 32 MiB of heap: 16 TiB of clusters of 64 KiB.
const ONES_MAX: u64 = 1 << 28;
/// Refcounts that are unpacked together.
const UNPACKED: usize = 512;

/// Which clusters of the file have a refcount of exactly 1, a bit each.
pub struct Ones {
    bits: Vec<u64>,
}

impl Ones {
    /// None so far, of `clusters` clusters.
    pub fn new(budget: &mut Budget, clusters: u64) -> Result<Self, Error> {
        let words = usize::try_from(clusters.min(ONES_MAX).div_ceil(64)).unwrap_or(0);
        budget.take_heap((words as u64).saturating_mul(8))?;
        Ok(Self { bits: alloc::vec![0; words] })
    }

    /// Whether a cluster has; `None`: it is past those that are known.
    #[inline]
    pub fn has(&self, cluster: u64) -> Option<bool> {
        let word = self.bits.get(usize::try_from(cluster.wrapping_shr(6)).ok()?)?;
        Some(word.wrapping_shr((cluster & 63) as u32) & 1 != 0)
    }

    fn set(&mut self, cluster: u64) {
        let word = usize::try_from(cluster.wrapping_shr(6)).ok().and_then(|index| self.bits.get_mut(index));
        if let Some(word) = word {
            *word |= 1u64.wrapping_shl((cluster & 63) as u32);
        }
    }
}

/// A refcount block, as an entry of the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// There is none: every refcount is 0.
    None,
    /// It is not at a cluster.
    Unusable(u64),
    /// No file has as many bytes.
    Unreadable,
    /// It is here.
    At(u64),
}

impl Check<'_> {
    /// Refcounts of a block, log2: 6 to 24 - 3.
    fn block_bits(&self) -> u32 {
        self.cluster_bits.saturating_add(3).saturating_sub(self.image.header().refcount_order)
    }

    /// Entries of the refcount table.
    fn table_len(&self) -> u64 {
        let clusters = u64::from(self.image.header().refcount_table().count);
        clusters.saturating_mul(self.cluster_size) / 8
    }

    /// Goes through the refcount table and counts the blocks.
    pub(super) fn blocks(&mut self, io: &mut dyn Findings) -> Result<(), Error> {
        let table = self.image.header().refcount_table().offset;
        let (mut at, mut left) = (table, self.table_len().saturating_mul(8));
        let mut index = 0u32;
        while left > 0 {
            let piece = left.min(BATCH_LEN as u64);
            self.tables.take(piece)?;
            let read = io.read_each(self.disk, &[at], usize::try_from(piece).unwrap_or(0))?;
            for raw in read.first().map_or(&[][..], |bytes| bytes.as_chunks().0) {
                let raw = u64::from_be_bytes(*raw);
                if raw != 0 {
                    self.block(io, index, raw)?;
                }
                index = index.saturating_add(1);
            }
            at = at.saturating_add(piece);
            left = left.saturating_sub(piece);
        }
        Ok(())
    }

    fn block(&mut self, io: &mut dyn Findings, index: u32, raw: u64) -> Result<(), Error> {
        let offset = raw & entry::REFCOUNT_BLOCK;
        let cluster = offset.wrapping_shr(self.cluster_bits);
        if raw & entry::REFCOUNT_RESERVED != 0 {
            return self.corrupt_once(io, Qcow2Finding::RefcountTableReserved { index });
        }
        if align::within(offset, self.cluster_size) != 0 {
            return self.corrupt_once(io, Qcow2Finding::RefcountBlockOffset { index });
        }
        if cluster >= self.clusters {
            return self.corrupt_once(io, Qcow2Finding::RefcountBlockPastEnd { index });
        }
        self.count(io, offset, self.cluster_size)?;
        let (start, end) = self.counts.window();
        let references = self.counts.of(cluster);
        if references != 1 && (start..end).contains(&cluster) {
            self.corrupt(io, Qcow2Finding::RefcountBlockShared { index, references })?;
        }
        Ok(())
    }

    /// Holds the refcounts of the window against what was counted, and notes those that are 1; the last cluster that is
    /// in use.
    pub(super) fn refcounts(&mut self, io: &mut dyn Findings, ones: &mut Ones) -> Result<u64, Error> {
        let (start, end) = self.counts.window();
        let end = end.min(self.clusters);
        let mut highest = 0;
        let block_bits = self.block_bits();
        let block_len = usize::try_from(self.cluster_size).unwrap_or(0);
        let batch = BATCH_LEN.checked_div(block_len).unwrap_or(1).clamp(1, BATCH_MAX);
        let mut index = start.wrapping_shr(block_bits);
        let last = end.saturating_sub(1).wrapping_shr(block_bits);
        while start < end && index <= last {
            let mut blocks = Vec::with_capacity(batch);
            while blocks.len() < batch && index <= last {
                blocks.push((index, self.block_at(io, index)?));
                index = index.saturating_add(1);
            }
            let places: Vec<u64> = blocks
                .iter()
                .filter_map(|(_, block)| match block {
                    Block::At(offset) => Some(*offset),
                    _ => None,
                })
                .collect();
            let mut read = io.read_each(self.disk, &places, block_len)?.into_iter();
            for (index, block) in blocks {
                let first = index.wrapping_shl(block_bits);
                let after = first.saturating_add(1u64.wrapping_shl(block_bits));
                let range = first.max(start)..after.min(end);
                let bytes = match block {
                    Block::At(_) => read.next(),
                    _ => None,
                };
                highest = match (block, bytes) {
                    (Block::Unusable(_) | Block::Unreadable, _) => self.unreadable(io, index, block, range)?,
                    (_, bytes) => {
                        let bytes = bytes.unwrap_or_default();
                        self.compare(io, ones, first, range, &bytes)?
                    }
                }
                .max(highest);
            }
        }
        Ok(highest)
    }

    /// Tells that refcounts can't be read; nothing is held against what was counted.
    fn unreadable(
        &mut self,
        io: &mut dyn Findings,
        index: u64,
        block: Block,
        clusters: core::ops::Range<u64>,
    ) -> Result<u64, Error> {
        if let Block::Unusable(offset) = block {
            self.met_unusable(io, index, offset)?;
        }
        for cluster in clusters {
            self.result.check_errors = self.result.check_errors.saturating_add(1);
            io.tell(Finding::Qcow2(Qcow2Finding::RefcountUnreadable { cluster }))?;
        }
        Ok(0)
    }

    fn met_unusable(&mut self, io: &mut dyn Findings, index: u64, offset: u64) -> Result<(), Error> {
        if self.has_met_unusable {
            return Ok(());
        }
        self.has_met_unusable = true;
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        io.tell(Finding::Qcow2(Qcow2Finding::RefcountBlockUnusable { index, offset }))
    }

    /// Holds the refcounts of one block, whose first cluster is `first`, against what was counted; the last cluster in use.
    fn compare(
        &mut self,
        io: &mut dyn Findings,
        ones: &mut Ones,
        first: u64,
        clusters: core::ops::Range<u64>,
        bytes: &[u8],
    ) -> Result<u64, Error> {
        let order = self.image.header().refcount_order;
        let (mut highest, mut has_shared) = (0, false);
        let mut unpacked = [0u64; UNPACKED];
        let mut cluster = clusters.start;
        while cluster < clusters.end {
            let left = clusters.end.saturating_sub(cluster);
            let count = usize::try_from(left).unwrap_or(UNPACKED).min(UNPACKED);
            let Some(refcounts) = unpacked.get_mut(..count) else { break };
            refcounts.fill(0);
            let index = usize::try_from(cluster.saturating_sub(first)).unwrap_or(usize::MAX);
            unpack_all(bytes, order, index, refcounts);
            for refcount in refcounts.iter().copied() {
                let references = self.counts.of(cluster);
                if refcount > 0 || references > 0 {
                    highest = cluster;
                }
                if refcount == 1 {
                    ones.set(cluster);
                }
                has_shared |= refcount > 1;
                if refcount != references {
                    self.differs(io, cluster, refcount, references)?;
                }
                cluster = cluster.wrapping_add(1);
            }
        }
        self.has_shared |= has_shared;
        Ok(highest)
    }

    fn differs(&mut self, io: &mut dyn Findings, cluster: u64, refcount: u64, references: u64) -> Result<(), Error> {
        let count = match refcount < references {
            true => &mut self.result.corruptions,
            false => &mut self.result.leaks,
        };
        *count = count.saturating_add(1);
        io.tell(Finding::Qcow2(Qcow2Finding::Refcount { cluster, refcount, references }))
    }

    /// The block with the refcounts of `index` times a block's number of clusters and on.
    fn block_at(&self, io: &mut dyn Findings, index: u64) -> Result<Block, Error> {
        if index >= self.table_len() {
            return Ok(Block::None);
        }
        let table = self.image.header().refcount_table().offset;
        let mut raw = [0; 8];
        let at = table.saturating_add(index.saturating_mul(8));
        (io as &mut dyn crate::store::ReadAt).read_padded(self.disk, at, &mut raw)?;
        let offset = u64::from_be_bytes(raw) & entry::REFCOUNT_BLOCK;
        Ok(match offset {
            0 => Block::None,
            _ if align::within(offset, self.cluster_size) != 0 => Block::Unusable(offset),
            _ if offset.saturating_add(self.cluster_size) > FILE_END_MAX => Block::Unreadable,
            _ => Block::At(offset),
        })
    }

    /// The refcount of any cluster; `None`: it can't be read.
    pub(super) fn refcount(&mut self, io: &mut dyn Findings, cluster: u64) -> Result<Option<u64>, Error> {
        let block_bits = self.block_bits();
        let index = cluster.wrapping_shr(block_bits);
        let block = match self.block_at(io, index)? {
            Block::None => return Ok(Some(0)),
            Block::Unusable(offset) => {
                self.met_unusable(io, index, offset)?;
                return Ok(None);
            }
            Block::Unreadable => return Ok(None),
            Block::At(offset) => offset,
        };
        let order = self.image.header().refcount_order;
        let within = align::within(cluster, 1u64.wrapping_shl(block_bits));
        // Eight bytes hold any refcount; those before it in its byte are passed over.
        let bit = within.wrapping_shl(order);
        let mut raw = [0; 8];
        let len = 1usize.wrapping_shl(order.saturating_sub(3));
        let bytes = raw.get_mut(..len).unwrap_or_default();
        (io as &mut dyn crate::store::ReadAt).read_padded(self.disk, block.saturating_add(bit / 8), bytes)?;
        let mut refcount = [0];
        let index = usize::try_from((bit & 7).wrapping_shr(order)).unwrap_or(0);
        unpack_all(bytes, order, if order < 3 { index } else { 0 }, &mut refcount);
        let [refcount] = refcount;
        Ok(Some(refcount))
    }
}
