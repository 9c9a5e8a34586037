//! Parallels' format, in both its forms.
//!
//! ```text
//! header | table: place in the file for every block of the disk | blocks | format extension
//! ```
//!
//! # Source
//! QEMU, `docs/interop/parallels.rst`; what is refused as QEMU 10.0's `block/parallels.c`.

mod check;
mod extension;
mod wire;

use crate::image::{Blocks, Extent, Kind, Layered, entry, uniform};
use crate::store::ReadAt;
use extension::Extended;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::facts;
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use wire::Header;

/// Where the table is.
const TABLE_OFFSET: u64 = 64;
/// Most sectors of a block, as in QEMU.
const BLOCK_SECTORS_MAX: u32 = i32::MAX as u32 / 513;

/// A Parallels image. Having one proves: the header is sound, and the table lies within the file.
pub struct Parallels {
    layered: Layered,
    disk: DiskId,
    facts: facts::Image,
    block_size: u64,
    entries: u64,
    /// What an entry counts, in sectors.
    unit: u64,
}

impl Parallels {
    /// Opens an image.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn open(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let layered = Layered { layer, format: Format::Parallels };
        let header: Header = io.read_wire(disk, 0)?;
        let sectors = header.sectors.get();
        let block_sectors = header.block_sectors.get();
        let (sectors, unit) = match &header.magic {
            // Of the older form only the lower half counts.
            b"WithoutFreeSpace" => (sectors & u64::from(u32::MAX), 1),
            b"WithouFreSpacExt" => (sectors, u64::from(block_sectors)),
            _ => return Err(layered.error(BlockError::Magic { structure: Structure::Header })),
        };
        let version = header.version.get();
        layered.check(version == wire::VERSION, BlockError::Version { found: version.into() })?;
        layered.field(Field::BlockSize, block_sectors.into(), (1..=BLOCK_SECTORS_MAX).contains(&block_sectors))?;
        let entries = u64::from(header.entries.get());
        layered.field(Field::TableSize, entries, entries <= i32::MAX as u64 / 4)?;
        let virtual_size = sectors.checked_mul(SECTOR_LEN).filter(|size| i64::try_from(*size).is_ok());
        let error = BlockError::Field { field: Field::VirtualSize, found: sectors };
        let virtual_size = virtual_size.ok_or(layered.error(error))?;
        layered.table(io, disk, Structure::Table, (TABLE_OFFSET, entries, 4))?;
        let block_size = u64::from(block_sectors).saturating_mul(SECTOR_LEN);
        if header.extension_offset.get() != 0 {
            let at = header.extension_offset.get().checked_mul(SECTOR_LEN).filter(|at| i64::try_from(*at).is_ok());
            let error = BlockError::Magic { structure: Structure::Extension };
            let image = Extended { layered, disk, block_size, sectors };
            extension::check(io, &image, at.ok_or(layered.error(error))?)?;
        }
        // Neither its block size nor whether it was closed is told, as in QEMU.
        let facts = facts::Image { dirty: None, ..layered.facts(virtual_size, None) };
        Ok(Self { layered, disk, facts, block_size, entries, unit })
    }
}

impl Blocks for Parallels {
    fn facts(&self) -> &facts::Image {
        &self.facts
    }

    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        // Past the table nothing is allocated, and nothing is looked at.
        let mapped = self.entries.saturating_mul(self.block_size);
        if at >= mapped {
            let len = self.facts.virtual_size.saturating_sub(mapped);
            return Ok(Extent { start: mapped, len, kind: Kind::Hole });
        }
        uniform(at, self.block_size, |index| self.block(io, index))
    }
}

impl Parallels {
    fn block(&self, io: &mut dyn ReadAt, index: u64) -> Result<Kind, Error> {
        let found = u64::from(u32::from_le_bytes(entry(io, self.disk, TABLE_OFFSET, index)?));
        if found == 0 {
            return Ok(Kind::Hole);
        }
        let offset = found.saturating_mul(self.unit).saturating_mul(SECTOR_LEN);
        let error = BlockError::Entry { structure: Structure::Table, index, found };
        self.layered.check(offset < io.len(self.disk), error)?;
        Ok(Kind::Data { disk: self.disk, offset })
    }
}
