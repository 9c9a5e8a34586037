//! A new image, written front to back.
//!
//! ```text
//! cluster 0        header, one sector: the commit point
//! cluster 1 …      L1 table
//! …                L2 tables and data clusters, as the disk is passed
//! …                refcount blocks, then the refcount table
//! ```
//!
//! Every cluster up to the end is in use exactly once, so refcounts are known when the end is. One L2 table is in
//! memory at a time: the disk is passed in order.

use super::wire::{self, entry, extension};
use crate::align;
use crate::plan::{Epoch, Plan};
use crate::store::Budget;
use alloc::vec;
use alloc::vec::Vec;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{Error, TargetError, WriteError};
use instar_abi::request::DiskId;
use zerocopy::IntoBytes;

/// log2 of the cluster size: 64 KiB, qemu-img's default.
pub const CLUSTER_BITS: u32 = 16;
/// Bytes of a cluster.
pub const CLUSTER_SIZE: u64 = 1 << CLUSTER_BITS;
/// Entries of an L2 table.
const L2_ENTRIES: u64 = CLUSTER_SIZE / 8;
/// Bytes that an L2 table maps: 512 MiB.
const L2_SPAN: u64 = CLUSTER_SIZE * L2_ENTRIES;
/// log2 of the bits of a refcount.
const REFCOUNT_ORDER: u32 = 4;
/// Refcounts of a block.
const REFCOUNTS_OF_BLOCK: u64 = CLUSTER_SIZE / 2;
/// Largest virtual size: an L1 table of 32 MiB maps 2 PiB.
const VIRTUAL_SIZE_MAX: u64 = super::limits::L1_LEN_MAX / 8 * L2_SPAN;
/// Refcount blocks of one plan: 1 MiB of memory.
const BLOCKS_OF_PLAN: u64 = 16;

/// A cluster for content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where it goes in the file.
    pub offset: u64,
    /// An L2 table that is complete now: its place and its bytes.
    pub table: Option<(u64, Vec<u8>)>,
}

/// Hands out the clusters of a new image, in the order of the disk.
pub struct Writer {
    virtual_size: u64,
    disk: DiskId,
    capacity: u64,
    /// L1 entries, as they will be on disk.
    l1: Vec<u8>,
    /// First free byte of the file.
    end: u64,
    current: Option<Current>,
}

/// The L2 table that is being filled.
struct Current {
    index: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty image of `virtual_size` bytes, a multiple of 512.
    ///
    /// # Errors
    /// [`TargetError::TooLarge`]; the heap budget; [`WriteError::Capacity`].
    pub fn new(budget: &mut Budget, virtual_size: u64, disk: DiskId, capacity: u64) -> Result<Self, Error> {
        if virtual_size > VIRTUAL_SIZE_MAX {
            return Err(Error::Target(TargetError::TooLarge { virtual_size, max: VIRTUAL_SIZE_MAX }));
        }
        // At most 32 MiB.
        let l1_len = virtual_size.div_ceil(L2_SPAN).max(1).saturating_mul(8);
        let l1_space = align::up(l1_len, CLUSTER_SIZE).unwrap_or(u64::MAX);
        let l1 = budget.zeroed(usize::try_from(align::up(l1_len, 512).unwrap_or(l1_len)).unwrap_or(usize::MAX))?;
        let mut writer = Self { virtual_size, disk, capacity, l1, end: CLUSTER_SIZE, current: None };
        writer.take(l1_space)?;
        Ok(writer)
    }

    /// A cluster for the content at `virtual_offset`, a multiple of the cluster size and larger than any before.
    ///
    /// # Errors
    /// [`WriteError::Capacity`].
    pub fn place(&mut self, virtual_offset: u64) -> Result<Placed, Error> {
        let index = virtual_offset / L2_SPAN;
        let mut table = None;
        if self.current.as_ref().is_none_or(|current| current.index != index) {
            let offset = self.take(CLUSTER_SIZE)?;
            table = self.finish_table();
            let entry = (offset | entry::COPIED).to_be_bytes();
            put(&mut self.l1, index, entry);
            self.current = Some(Current { index, offset, bytes: vec![0; CLUSTER_SIZE as usize] });
        }
        let offset = self.take(CLUSTER_SIZE)?;
        if let Some(current) = &mut self.current {
            let entry = (offset | entry::COPIED).to_be_bytes();
            put(&mut current.bytes, virtual_offset % L2_SPAN / CLUSTER_SIZE, entry);
        }
        Ok(Placed { offset, table })
    }

    fn finish_table(&mut self) -> Option<(u64, Vec<u8>)> {
        self.current.take().map(|current| (current.offset, current.bytes))
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

    /// The plans that complete the image, in order, and its length. The content must have been written and flushed
    /// before the last one is applied.
    ///
    /// # Errors
    /// [`WriteError::Capacity`].
    pub fn finish(mut self) -> Result<Finish, Error> {
        let last_table = self.finish_table();
        let content_clusters = self.end / CLUSTER_SIZE;
        // Blocks and table count themselves: a few rounds, each of which can only grow.
        let (mut blocks, mut table_clusters) = (1u64, 1u64);
        loop {
            let clusters = content_clusters.saturating_add(blocks).saturating_add(table_clusters);
            let more_blocks = clusters.div_ceil(REFCOUNTS_OF_BLOCK);
            let more_table = more_blocks.saturating_mul(8).div_ceil(CLUSTER_SIZE);
            if (more_blocks, more_table) == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = (more_blocks.max(blocks), more_table.max(table_clusters));
        }
        let blocks_at = self.take(blocks.saturating_mul(CLUSTER_SIZE))?;
        let table_at = self.take(table_clusters.saturating_mul(CLUSTER_SIZE))?;
        Ok(Finish { writer: self, last_table, blocks, next_block: 0, blocks_at, table_at, table_clusters })
    }
}

/// What completes an image.
pub struct Finish {
    writer: Writer,
    last_table: Option<(u64, Vec<u8>)>,
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
        if self.blocks.saturating_sub(self.next_block) > BLOCKS_OF_PLAN {
            let (at, bytes) = self.some_blocks();
            let mut plan = Plan::new(at, at.saturating_add(bytes.len() as u64));
            plan.push(Epoch::new("refcount blocks").write(at, bytes));
            return Some(plan);
        }
        let l1 = core::mem::take(&mut self.writer.l1);
        (!l1.is_empty()).then(|| self.last_plan(l1))
    }

    /// The next refcount blocks, and where they go: ones up to the end of the file, then zeros.
    fn some_blocks(&mut self) -> (u64, Vec<u8>) {
        let count = self.blocks.saturating_sub(self.next_block).min(BLOCKS_OF_PLAN);
        let at = self.blocks_at.saturating_add(self.next_block.saturating_mul(CLUSTER_SIZE));
        let first_cluster = self.next_block.saturating_mul(REFCOUNTS_OF_BLOCK);
        let used = (self.writer.end / CLUSTER_SIZE).saturating_sub(first_cluster);
        let mut bytes = vec![0; usize::try_from(count.saturating_mul(CLUSTER_SIZE)).unwrap_or(0)];
        for refcount in bytes.as_chunks_mut().0.iter_mut().take(usize::try_from(used).unwrap_or(usize::MAX)) {
            *refcount = 1u16.to_be_bytes();
        }
        self.next_block = self.next_block.saturating_add(count);
        (at, bytes)
    }

    fn last_plan(&mut self, l1: Vec<u8>) -> Plan {
        let (old_len, blocks) = self.some_blocks();
        let mut table = vec![0; usize::try_from(self.table_len()).unwrap_or(0)];
        for index in 0..self.blocks {
            let block = self.blocks_at.saturating_add(index.saturating_mul(CLUSTER_SIZE));
            put(&mut table, index, block.to_be_bytes());
        }
        // Nothing leads to any of these while there is no header: a crash leaves a file without a format.
        let mut epoch = Epoch::new("tables").write(CLUSTER_SIZE, l1).write(old_len, blocks).write(self.table_at, table);
        if let Some((at, bytes)) = self.last_table.take() {
            epoch = epoch.write(at, bytes);
        }
        let mut plan = Plan::new(old_len, self.file_len());
        plan.push(epoch);
        plan.commit("header", 0, self.header());
        plan
    }

    /// The first sector.
    fn header(&self) -> Vec<u8> {
        let header = wire::Header {
            magic: wire::MAGIC,
            version: 3.into(),
            backing_file_offset: 0.into(),
            backing_file_size: 0.into(),
            cluster_bits: CLUSTER_BITS.into(),
            size: self.writer.virtual_size.into(),
            crypt_method: 0.into(),
            l1_size: u32::try_from(self.writer.virtual_size.div_ceil(L2_SPAN).max(1)).unwrap_or(0).into(),
            l1_table_offset: CLUSTER_SIZE.into(),
            refcount_table_offset: self.table_at.into(),
            refcount_table_clusters: u32::try_from(self.table_clusters).unwrap_or(0).into(),
            nb_snapshots: 0.into(),
            snapshots_offset: 0.into(),
            incompatible_features: 0.into(),
            compatible_features: 0.into(),
            autoclear_features: 0.into(),
            refcount_order: REFCOUNT_ORDER.into(),
            header_length: (size_of::<wire::Header>() as u32).into(),
            compression_type: 0,
            padding: [0; 7],
        };
        let mut bytes = header.as_bytes().to_vec();
        let names = FEATURE_NAMES.map(|(kind, bit, name)| {
            let mut entry = wire::FeatureName { kind, bit, name: [0; 46] };
            entry.name.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
            entry
        });
        let len = size_of_val(&names) as u32;
        let extension = wire::ExtensionHeader { kind: extension::FEATURE_NAMES.into(), len: len.into() };
        bytes.extend_from_slice(extension.as_bytes());
        bytes.extend_from_slice(names.as_bytes());
        bytes.resize(512, 0);
        bytes
    }
}

/// The features that qemu-img 10.0 names in a new image, so that older readers can say what they lack.
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

// Header, extension header, names and the end of extensions fit into the sector of the commit point.
const _: () = assert!(
    size_of::<wire::Header>()
        + 2 * size_of::<wire::ExtensionHeader>()
        + FEATURE_NAMES.len() * size_of::<wire::FeatureName>()
        <= 512
);

/// Sets entry `index` of a table.
fn put(table: &mut [u8], index: u64, entry: [u8; 8]) {
    let slot = usize::try_from(index).ok().and_then(|index| table.as_chunks_mut().0.get_mut(index));
    if let Some(slot) = slot {
        *slot = entry;
    }
}
