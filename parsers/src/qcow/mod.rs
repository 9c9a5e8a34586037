//! qcow, version 1.
//!
//! ```text
//! header | name of the layer below | L1 table ──> L2 tables ──> clusters, as they are or compressed
//! ```
//!
//! # Source
//! QEMU 10.0, `block/qcow.c`, from its structures; what is refused, too.

mod wire;

use crate::align;
use crate::image::{self, Blocks, Codec, Extent, Kind, Layered, entry, table_hole, uniform};
use crate::store::ReadAt;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::facts;
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use wire::Header;

/// An L2 entry of a compressed cluster.
const COMPRESSED: u64 = 1 << 63;
/// Longest name of a layer below, in bytes.
const NAME_LEN_MAX: u32 = 1023;

/// A qcow image. Having one proves: 9 ≤ `cluster_bits` ≤ 16, 6 ≤ `l2_bits` ≤ 13, and the L1 table has an entry for all of the
/// disk.
pub struct Qcow {
    layered: Layered,
    disk: DiskId,
    facts: facts::Image,
    cluster_bits: u32,
    l2_bits: u32,
    l1_offset: u64,
}

impl Qcow {
    /// Opens an image without the layer below.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn open(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let layered = Layered { layer, format: Format::Qcow };
        let header: Header = io.read_wire(disk, 0)?;
        layered.check(header.magic == wire::MAGIC, BlockError::Magic { structure: Structure::Header })?;
        let version = header.version.get();
        layered.check(version == wire::VERSION, BlockError::Version { found: version.into() })?;
        let size = header.size.get();
        layered.field(Field::VirtualSize, size, size > 1)?;
        let (cluster_bits, l2_bits) = (u32::from(header.cluster_bits), u32::from(header.l2_bits));
        layered.field(Field::BlockSize, cluster_bits.into(), (9..=16).contains(&cluster_bits))?;
        layered.field(Field::LowerTableSize, l2_bits.into(), (6..=13).contains(&l2_bits))?;
        let method = header.crypt_method.get();
        layered.field(Field::Encryption, method.into(), method <= wire::AES)?;
        // At most 2^29.
        let span = 1u64 << cluster_bits.saturating_add(l2_bits);
        let entries = size.div_ceil(span);
        let is_size = size <= u64::MAX.saturating_sub(span) && entries <= i32::MAX as u64 / 8;
        layered.field(Field::VirtualSize, size, is_size)?;
        let l1_offset = header.l1_table_offset.get();
        layered.table(io, disk, Structure::Table, (l1_offset, entries, 8))?;
        let backing = match (header.backing_name_offset.get(), header.backing_name_len.get()) {
            (0, _) => None,
            (_, len) if len > NAME_LEN_MAX => {
                return Err(layered.error(BlockError::Field { field: Field::BackingNameLen, found: len.into() }));
            }
            (offset, _) if i64::try_from(offset).is_err() => {
                return Err(layered.error(BlockError::Field { field: Field::BackingNameOffset, found: offset }));
            }
            (offset, len) => {
                let name = io.read_vec(disk, offset, usize::try_from(len).unwrap_or(0))?;
                image::backing(name, None)
            }
        };
        let plain = layered.facts(align::down(size, SECTOR_LEN), Some(1 << cluster_bits));
        let facts = facts::Image { encrypted: method == wire::AES, backing, ..plain };
        Ok(Self { layered, disk, facts, cluster_bits, l2_bits, l1_offset })
    }

    fn entry(&self, io: &mut dyn ReadAt, table: u64, index: u64) -> Result<u64, Error> {
        entry(io, self.disk, table, index).map(u64::from_be_bytes)
    }
}

impl Blocks for Qcow {
    fn facts(&self) -> &facts::Image {
        &self.facts
    }

    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        let (size, entries) = (1 << self.cluster_bits, 1 << self.l2_bits);
        let index = align::units(at, size);
        match self.entry(io, self.l1_offset, align::units(index, entries))? {
            0 => Ok(table_hole(at, size, entries)),
            table => uniform(at, size, |index| self.block(io, table, index)),
        }
    }
}

impl Qcow {
    /// What block `index` is, by the table that is its own.
    fn block(&self, io: &mut dyn ReadAt, table: u64, index: u64) -> Result<Kind, Error> {
        let l2_entries = 1u64 << self.l2_bits;
        let (l1_index, l2_index) = (align::units(index, l2_entries), align::within(index, l2_entries));
        let file_len = io.len(self.disk);
        let error = BlockError::Entry { structure: Structure::Table, index: l1_index, found: table };
        self.layered.check(table < file_len, error)?;
        let found = self.entry(io, table, l2_index)?;
        if found == 0 {
            return Ok(Kind::Hole);
        }
        let error = BlockError::Entry { structure: Structure::LowerTable, index, found };
        if found & COMPRESSED == 0 {
            self.layered.check(found < file_len, error)?;
            return Ok(Kind::Data { disk: self.disk, offset: found });
        }
        // Bytes of the stream stand above its offset, in as many bits as a cluster has.
        let offset_bits = 63u32.saturating_sub(self.cluster_bits);
        let cluster_size = 1u32 << self.cluster_bits;
        let offset = found & (1u64 << offset_bits).wrapping_sub(1);
        let len = u32::try_from(found >> offset_bits).unwrap_or(u32::MAX) & cluster_size.wrapping_sub(1);
        self.layered.check(offset < file_len, error)?;
        Ok(Kind::Encoded { disk: self.disk, offset, len, padding: 0, codec: Codec::Deflate, cluster_size, skip: 0 })
    }
}
