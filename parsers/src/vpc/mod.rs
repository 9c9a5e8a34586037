//! VHD, by QEMU's name vpc: fixed, dynamic and differencing.
//!
//! ```text
//! fixed     content | footer
//! dynamic   copy of the footer | dynamic header | table | (bitmap | block) … | footer
//! ```
//!
//! A differencing image is a dynamic one whose bitmaps count: a sector without its bit is the parent's. It is never read without
//! one.
//!
//! # Source
//! Microsoft, "Virtual Hard Disk Image Format Specification", 2006; sizes and what is refused as QEMU 10.0's `block/vpc.c`.

mod check;
mod geometry;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
mod parent;
mod wire;

pub use geometry::{Geometry, rounded_size};
#[cfg(any(test, feature = "invariants"))]
pub use invariants::check_geometry;

use crate::align;
use crate::image::{BitOrder, Blocks, Extent, Kind, Layered, entry, padded_len, run_of_bits, uniform};
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Field, Identity, Structure};
use instar_abi::facts::{self, Backing};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use wire::{DynamicHeader, Footer};
use zerocopy::IntoBytes;

/// An entry of the table without a block.
const UNALLOCATED: u32 = u32::MAX;
/// Entries of the table that are looked at together.
const CHUNK: usize = 16 << 10;

/// A VHD. Having one proves: header and footer are sound, and the table has an entry for every block of the disk. By
/// [`Vpc::open`]: every block of it lies within the file.
pub struct Vpc {
    layered: Layered,
    disk: DiskId,
    facts: facts::Image,
    id: [u8; 16],
    dynamic: Option<Dynamic>,
}

/// Where a dynamic disk's blocks are.
struct Dynamic {
    block_size: u32,
    table_offset: u64,
    /// Entries of the table.
    entries: u64,
    /// Identifier of the parent, of a differencing disk.
    parent_id: Option<[u8; 16]>,
}

impl Dynamic {
    /// Bytes before a block's content: a bit for every sector, in whole sectors.
    fn bitmap_len(&self) -> u64 {
        let bits = align::units(self.block_size.into(), SECTOR_LEN);
        align::up(bits.div_ceil(8), SECTOR_LEN).unwrap_or(0)
    }

    /// Bytes of a block with its bitmap.
    fn block_len(&self) -> u64 {
        self.bitmap_len().saturating_add(self.block_size.into())
    }

    /// Some entries of the table, from number `index` on; at least one, where there is one.
    fn chunk(&self, io: &mut dyn ReadAt, disk: DiskId, index: u64) -> Result<Vec<u32>, Error> {
        let count = usize::try_from(self.entries.saturating_sub(index)).unwrap_or(CHUNK).min(CHUNK);
        let mut bytes = alloc::vec![0; count.saturating_mul(4)];
        io.read_padded(disk, self.table_offset.saturating_add(index.saturating_mul(4)), &mut bytes)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_be_bytes(*entry)).collect())
    }
}

impl Vpc {
    /// Opens a VHD.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn open(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let image = Self::open_for_check(io, layer, disk)?;
        if let Some(dynamic) = &image.dynamic {
            check_table(io, image.layered, disk, dynamic)?;
        }
        Ok(image)
    }

    /// Opens a VHD whose blocks may be anywhere.
    ///
    /// # Errors
    /// As [`Vpc::open`].
    pub fn open_for_check(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let layered = Layered { layer, format: Format::Vpc };
        let mut footer: Footer = io.read_wire(disk, 0)?;
        let is_front = footer.cookie == wire::FOOTER_COOKIE;
        if !is_front {
            // The last sector, perhaps without its last byte.
            let len = align::up(io.len(disk), SECTOR_LEN).unwrap_or(0);
            let at = len.checked_sub(SECTOR_LEN);
            let at = at.ok_or(layered.error(BlockError::Truncated { structure: Structure::Footer }))?;
            footer = io.read_wire(disk, at)?;
            let is_fixed = footer.kind.get() == wire::FIXED;
            layered.check(
                footer.cookie == wire::FOOTER_COOKIE && is_fixed,
                BlockError::Magic { structure: Structure::Footer },
            )?;
        }
        layered
            .check(footer.checksum.get() == checksum(&footer), BlockError::Checksum { structure: Structure::Footer })?;
        let virtual_size = virtual_size(&footer);
        let is_size = virtual_size <= wire::SECTORS_MAX.saturating_mul(SECTOR_LEN);
        layered.field(Field::VirtualSize, virtual_size, is_size)?;
        let (dynamic, backing) = if is_front && footer.kind.get() != wire::FIXED {
            let (dynamic, backing) = dynamic(io, layered, disk, &footer, virtual_size)?;
            (Some(dynamic), backing)
        } else {
            (None, None)
        };
        let plain = layered.facts(virtual_size, dynamic.as_ref().map(|dynamic| dynamic.block_size.into()));
        let image = Self { layered, disk, facts: facts::Image { backing, ..plain }, id: footer.id, dynamic };
        #[cfg(any(test, feature = "invariants"))]
        invariants::check_vpc(&image, io);
        Ok(image)
    }
}

/// Size in bytes: by geometry where the image was made by a program that goes by it, and the geometry is no limit.
fn virtual_size(footer: &Footer) -> u64 {
    let by_geometry = Geometry::from(footer).total();
    let goes_by_geometry = matches!(&footer.creator_application, b"vpc " | b"qemu");
    if goes_by_geometry && by_geometry != Geometry::MAX.total() {
        return by_geometry.saturating_mul(SECTOR_LEN);
    }
    align::down(footer.current_size.get(), SECTOR_LEN)
}

/// The complement of the sum of all bytes but the checksum's own.
fn checksum(footer: &Footer) -> u32 {
    complement(Footer { checksum: 0.into(), ..*footer }.as_bytes())
}

fn complement(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add((*byte).into()))
}

fn dynamic(
    io: &mut dyn ReadAt,
    layered: Layered,
    disk: DiskId,
    footer: &Footer,
    virtual_size: u64,
) -> Result<(Dynamic, Option<Backing>), Error> {
    let header: DynamicHeader = io.read_wire(disk, footer.data_offset.get())?;
    let magic = BlockError::Magic { structure: Structure::DynamicHeader };
    layered.check(header.cookie == wire::DYNAMIC_COOKIE, magic)?;
    let block_size = header.block_size.get();
    let is_size = block_size.is_power_of_two() && u64::from(block_size) >= SECTOR_LEN;
    layered.field(Field::BlockSize, block_size.into(), is_size)?;
    let entries = u64::from(header.max_table_entries.get());
    let needed = virtual_size.div_ceil(block_size.into());
    layered.check(needed <= entries, BlockError::TableShort { entries, needed })?;
    layered.field(Field::TableSize, entries, entries <= wire::TABLE_ENTRIES_MAX)?;
    let (parent_id, backing) = if footer.kind.get() == wire::DIFFERENCING {
        let sum = complement(DynamicHeader { checksum: 0.into(), ..header }.as_bytes());
        let error = BlockError::Checksum { structure: Structure::DynamicHeader };
        layered.check(header.checksum.get() == sum, error)?;
        let name = parent::name(io, disk, &header)?.ok_or(layered.error(BlockError::Differencing))?;
        (Some(header.parent_id), Some(Backing { name, format: Some(b"vpc".to_vec()) }))
    } else {
        (None, None)
    };
    let dynamic = Dynamic { block_size, table_offset: header.table_offset.get(), entries, parent_id };
    layered.table(io, disk, Structure::Table, (dynamic.table_offset, entries, 4))?;
    Ok((dynamic, backing))
}

/// Every block lies within the file, as QEMU wants it: a file that was cut short must not read as zeros.
fn check_table(io: &mut dyn ReadAt, layered: Layered, disk: DiskId, dynamic: &Dynamic) -> Result<(), Error> {
    let file_len = padded_len(io, disk);
    let mut index = 0;
    while index < dynamic.entries {
        let chunk = dynamic.chunk(io, disk, index)?;
        for (found, at) in chunk.iter().zip(index..) {
            let end = u64::from(*found).saturating_mul(SECTOR_LEN).saturating_add(dynamic.block_len());
            let error = BlockError::Entry { structure: Structure::Table, index: at, found: (*found).into() };
            layered.check(*found == UNALLOCATED || end <= file_len, error)?;
        }
        index = index.saturating_add(chunk.len().max(1) as u64);
    }
    Ok(())
}

impl Blocks for Vpc {
    fn facts(&self) -> &facts::Image {
        &self.facts
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity::Id(self.id))
    }

    fn parent_identities(&self) -> Vec<Identity> {
        let id = self.dynamic.as_ref().and_then(|dynamic| dynamic.parent_id);
        id.map(Identity::Id).into_iter().collect()
    }

    fn is_preallocated(&self, _: u64) -> bool {
        self.dynamic.is_none()
    }

    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        let Some(dynamic) = &self.dynamic else {
            return uniform(at, self.facts.virtual_size.max(1), |_| Ok(Kind::Data { disk: self.disk, offset: 0 }));
        };
        let block = uniform(at, dynamic.block_size.into(), |index| self.block(io, dynamic, index))?;
        match block.kind {
            Kind::Data { disk, offset } if dynamic.parent_id.is_some() => {
                let first = align::units(at.saturating_sub(block.start), SECTOR_LEN);
                let left = align::units(block.len, SECTOR_LEN).saturating_sub(first);
                let bitmap = (disk, offset.saturating_sub(dynamic.bitmap_len()));
                let (is_here, len) = run_of_bits(io, bitmap, BitOrder::HighestFirst, first, left)?;
                let within = first.saturating_mul(SECTOR_LEN);
                let kind = match is_here {
                    true => Kind::Data { disk, offset: offset.saturating_add(within) },
                    false => Kind::Hole,
                };
                Ok(Extent { start: block.start.saturating_add(within), len: len.saturating_mul(SECTOR_LEN), kind })
            }
            _ => Ok(block),
        }
    }
}

impl Vpc {
    fn block(&self, io: &mut dyn ReadAt, dynamic: &Dynamic, index: u64) -> Result<Kind, Error> {
        let found = u32::from_be_bytes(entry(io, self.disk, dynamic.table_offset, index)?);
        if found == UNALLOCATED {
            return Ok(if dynamic.parent_id.is_some() { Kind::Hole } else { Kind::Zero });
        }
        let offset = u64::from(found).checked_mul(SECTOR_LEN).and_then(|at| at.checked_add(dynamic.bitmap_len()));
        let error = BlockError::Entry { structure: Structure::Table, index, found: found.into() };
        offset.map(|offset| Kind::Data { disk: self.disk, offset }).ok_or(self.layered.error(error))
    }
}
