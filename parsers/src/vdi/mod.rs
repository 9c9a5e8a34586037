//! VDI, VirtualBox's format: static and dynamic.
//!
//! ```text
//! header | table: block of the file for every block of the disk | blocks
//! ```
//!
//! # Source
//! QEMU 10.0, `block/vdi.c`, from its description of the header; what is refused, too.

mod check;
mod wire;

use crate::align;
use crate::image::{Blocks, Extent, Kind, Layered, entry, uniform};
use crate::store::ReadAt;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::facts;
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use wire::Header;

/// Bytes of a block; QEMU reads no other.
const BLOCK_SIZE: u64 = 1 << 20;
/// Entries from here on have no block: discarded, or never written.
const UNALLOCATED_MIN: u32 = u32::MAX - 1;
/// Most entries, as in QEMU.
const ENTRIES_MAX: u64 = u32::MAX as u64 / 4;

/// A VDI. Having one proves: the header is sound, and the table has an entry for every block of the disk.
pub struct Vdi {
    layered: Layered,
    disk: DiskId,
    facts: facts::Image,
    table_offset: u64,
    data_offset: u64,
    is_static: bool,
}

impl Vdi {
    /// Opens a VDI.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn open(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let layered = Layered { layer, format: Format::Vdi };
        let header: Header = io.read_wire(disk, 0)?;
        let magic = BlockError::Magic { structure: Structure::Header };
        layered.check(header.signature.get() == wire::SIGNATURE, magic)?;
        let version = header.version.get();
        layered.check(version == wire::VERSION, BlockError::Version { found: version.into() })?;
        let (table_offset, data_offset) = (u64::from(header.table_offset.get()), u64::from(header.data_offset.get()));
        let entries = u64::from(header.blocks_in_image.get());
        let virtual_size = header.disk_size.get();
        layered.field(Field::VirtualSize, virtual_size, virtual_size <= ENTRIES_MAX.saturating_mul(BLOCK_SIZE))?;
        layered.field(Field::TableOffset, table_offset, align::within(table_offset, SECTOR_LEN) == 0)?;
        layered.field(Field::DataOffset, data_offset, align::within(data_offset, SECTOR_LEN) == 0)?;
        let sector_size = header.sector_size.get().into();
        layered.field(Field::SectorSize, sector_size, sector_size == SECTOR_LEN)?;
        let block_size = header.block_size.get().into();
        layered.field(Field::BlockSize, block_size, block_size == BLOCK_SIZE)?;
        let virtual_size = align::up(virtual_size, SECTOR_LEN).unwrap_or(virtual_size);
        let needed = virtual_size.div_ceil(BLOCK_SIZE);
        layered.check(needed <= entries, BlockError::TableShort { entries, needed })?;
        // The content of a differencing image is in a file that only an identifier names.
        let is_whole = header.link_id == [0; 16] && header.parent_id == [0; 16];
        layered.check(is_whole, BlockError::Differencing)?;
        layered.field(Field::TableSize, entries, entries <= ENTRIES_MAX)?;
        layered.table(io, disk, Structure::Table, (table_offset, entries, 4))?;
        let facts = layered.facts(virtual_size, Some(BLOCK_SIZE));
        let is_static = header.kind.get() == wire::STATIC;
        Ok(Self { layered, disk, facts, table_offset, data_offset, is_static })
    }
}

impl Blocks for Vdi {
    fn facts(&self) -> &facts::Image {
        &self.facts
    }

    fn is_preallocated(&self, _: u64) -> bool {
        self.is_static
    }

    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        uniform(at, BLOCK_SIZE, |index| self.block(io, index))
    }
}

impl Vdi {
    fn block(&self, io: &mut dyn ReadAt, index: u64) -> Result<Kind, Error> {
        let found = u32::from_le_bytes(entry(io, self.disk, self.table_offset, index)?);
        if found >= UNALLOCATED_MIN {
            return Ok(Kind::Zero);
        }
        let offset = u64::from(found).saturating_mul(BLOCK_SIZE).saturating_add(self.data_offset);
        let error = BlockError::Entry { structure: Structure::Table, index, found: found.into() };
        self.layered.check(offset < io.len(self.disk), error)?;
        Ok(Kind::Data { disk: self.disk, offset })
    }
}
