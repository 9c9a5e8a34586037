//! QED, QEMU's enhanced disk.
//!
//! ```text
//! header | name of the layer below | L1 table ──> L2 tables ──> clusters
//! ```
//!
//! # Source
//! QEMU, `docs/interop/qed_spec.rst`; what is refused as QEMU 10.0's `block/qed.c`.

mod check;
mod wire;

use crate::align;
use crate::image::{Blocks, Extent, Kind, Layered, backing, entry, padded_len, table_hole, uniform};
use crate::store::ReadAt;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::facts::{self, Backing};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use wire::{Header, feature};

/// An entry without a cluster: the layer below shows.
const UNALLOCATED: u64 = 0;
/// An entry that reads as zeros.
const ZERO: u64 = 1;
/// Bytes of an entry.
const ENTRY_LEN: u64 = 8;
/// Longest name of a layer below, in bytes.
const NAME_LEN_MAX: u32 = 1023;

/// A QED image. Having one proves: cluster and table sizes are powers of two within their bounds, the disk is no larger
/// than they map, and the L1 table lies within the file.
pub struct Qed {
    layered: Layered,
    disk: DiskId,
    facts: facts::Image,
    cluster_size: u64,
    /// Bytes in front of everything else.
    header_len: u64,
    /// Bytes of a table, of either level.
    table_len: u64,
    l1_offset: u64,
}

impl Qed {
    /// Opens an image without the layer below.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn open(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let layered = Layered { layer, format: Format::Qed };
        let header: Header = io.read_wire(disk, 0)?;
        layered.check(header.magic == wire::MAGIC, BlockError::Magic { structure: Structure::Header })?;
        let unknown = header.features.get() & !feature::ALL;
        layered.check(unknown == 0, BlockError::Features { unknown })?;
        let (cluster_size, table_size) = (header.cluster_size.get(), header.table_size.get());
        let is_size = cluster_size.is_power_of_two() && (4 << 10..=64 << 20).contains(&cluster_size);
        layered.field(Field::BlockSize, cluster_size.into(), is_size)?;
        let is_size = table_size.is_power_of_two() && (1..=16).contains(&table_size);
        layered.field(Field::TableSize, table_size.into(), is_size)?;
        let cluster_size = u64::from(cluster_size);
        // At most 2^30 bytes.
        let table_len = cluster_size.saturating_mul(table_size.into());
        let entries = align::units(table_len, ENTRY_LEN);
        let virtual_size = header.image_size.get();
        let max = entries.saturating_mul(entries).saturating_mul(cluster_size);
        let is_size = align::within(virtual_size, SECTOR_LEN) == 0 && virtual_size <= max;
        layered.field(Field::VirtualSize, virtual_size, is_size)?;
        let image = Self {
            layered,
            disk,
            facts: layered.facts(virtual_size, Some(cluster_size)),
            cluster_size,
            header_len: u64::from(header.header_clusters.get()).saturating_mul(cluster_size),
            table_len,
            l1_offset: header.l1_table_offset.get(),
        };
        let table_error = BlockError::Field { field: Field::TableOffset, found: image.l1_offset };
        layered.check(image.is_table(io, image.l1_offset), table_error)?;
        let backing = image.backing(io, &header)?;
        let dirty = Some(header.features.get() & feature::NEED_CHECK != 0);
        Ok(Self { facts: facts::Image { backing, dirty, ..image.facts }, ..image })
    }

    /// The layer below, as the header names it.
    fn backing(&self, io: &mut dyn ReadAt, header: &Header) -> Result<Option<Backing>, Error> {
        let features = header.features.get();
        if features & feature::BACKING_FILE == 0 {
            return Ok(None);
        }
        let (offset, len) = (header.backing_name_offset.get(), header.backing_name_len.get());
        let is_inside = u64::from(offset).saturating_add(len.into()) <= self.header_len && len <= NAME_LEN_MAX;
        let error = BlockError::Field { field: Field::BackingNameLen, found: len.into() };
        self.layered.check(is_inside, error)?;
        let name = io.read_vec(self.disk, offset.into(), usize::try_from(len).unwrap_or(0))?;
        let is_raw = features & feature::BACKING_IS_RAW != 0;
        Ok(backing(name, is_raw.then(|| b"raw".to_vec())))
    }

    /// Whether a table may be at `offset`. One of a single cluster may be nowhere, as in QEMU.
    fn is_table(&self, io: &dyn ReadAt, offset: u64) -> bool {
        let last = self.table_len.checked_sub(self.cluster_size).filter(|len| *len > 0);
        let last = last.and_then(|len| offset.checked_add(len));
        self.is_cluster(io, offset) && last.is_some_and(|last| self.is_cluster(io, last))
    }

    /// Whether a cluster may be at `offset`. One that is there in part is not there, as in QEMU.
    fn is_cluster(&self, io: &dyn ReadAt, offset: u64) -> bool {
        let file_len = align::down(padded_len(io, self.disk), self.cluster_size);
        align::within(offset, self.cluster_size) == 0 && (self.header_len..file_len).contains(&offset)
    }

    fn entry(&self, io: &mut dyn ReadAt, table: u64, index: u64) -> Result<u64, Error> {
        entry(io, self.disk, table, index).map(u64::from_le_bytes)
    }
}

impl Blocks for Qed {
    fn facts(&self) -> &facts::Image {
        &self.facts
    }

    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        let entries = align::units(self.table_len, ENTRY_LEN);
        let index = align::units(at, self.cluster_size);
        match self.entry(io, self.l1_offset, align::units(index, entries))? {
            UNALLOCATED => Ok(table_hole(at, self.cluster_size, entries)),
            table => uniform(at, self.cluster_size, |index| self.block(io, table, index)),
        }
    }
}

impl Qed {
    /// What block `index` is, by the table that is its own.
    fn block(&self, io: &mut dyn ReadAt, table: u64, index: u64) -> Result<Kind, Error> {
        let entries = align::units(self.table_len, ENTRY_LEN);
        let (l1_index, l2_index) = (align::units(index, entries), align::within(index, entries));
        let error = BlockError::Entry { structure: Structure::Table, index: l1_index, found: table };
        self.layered.check(self.is_table(io, table), error)?;
        let offset = self.entry(io, table, l2_index)?;
        match offset {
            UNALLOCATED => return Ok(Kind::Hole),
            ZERO => return Ok(Kind::Zero),
            _ => {}
        }
        let error = BlockError::Entry { structure: Structure::LowerTable, index, found: offset };
        self.layered.check(self.is_cluster(io, offset), error)?;
        Ok(Kind::Data { disk: self.disk, offset })
    }
}
