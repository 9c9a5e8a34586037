//! VHDX: fixed, dynamic and differencing.
//!
//! ```text
//! 0        file identifier
//! 64 KiB   header, and a second one: the one with the larger sequence number is current
//! 192 KiB  region table, and a second one ──> metadata, block allocation table
//! 1 MiB …  log, metadata, table, blocks
//! ```
//!
//! What the log holds is read as if it had been replayed (`log`). Of a differencing image a block may be there in part: a bitmap
//! tells which sectors, the others are the parent's.
//!
//! # Source
//! Microsoft, MS-VHDX 2016; what is refused as QEMU 10.0's `block/vhdx.c`.

mod check;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
mod log;
mod metadata;
mod parent;
mod wire;

pub use metadata::Metadata;
pub use parent::Parent;

use crate::align;
use crate::image::{BitOrder, Blocks, Extent, Kind, Layered, entry, run_of_bits, uniform};
use crate::store::ReadAt;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{BlockError, Error, Field, Identity, Structure};
use instar_abi::facts::{self, Backing};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use log::{Log, Replayed};
use wire::{Header, Region, RegionTable};
use zerocopy::{FromBytes, IntoBytes};

/// What regions and blocks are aligned to.
const ALIGNMENT: u64 = 1 << 20;
/// Payload sectors that one bitmap block tells of.
const CHUNK_SECTORS: u64 = 1 << 23;
/// States of a block, in the low bits of its entry.
mod state {
    pub const MASK: u64 = 7;
    pub const NOT_PRESENT: u64 = 0;
    pub const UNDEFINED: u64 = 1;
    pub const ZERO: u64 = 2;
    pub const UNMAPPED: u64 = 3;
    pub const FULLY_PRESENT: u64 = 6;
    pub const PARTIALLY_PRESENT: u64 = 7;
}

static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// A VHDX. Having one proves: a header, a region table, the metadata and what is used of the log are sound, and the table has an
/// entry for every block.
pub struct Vhdx {
    layered: Layered,
    disk: DiskId,
    facts: facts::Image,
    block_size: u64,
    sector_size: u64,
    /// Identifier of the content.
    id: [u8; 16],
    parent: Option<Parent>,
    log: Option<Log>,
    /// Blocks between two entries of the table that are no blocks.
    chunk_blocks: u64,
    table_offset: u64,
    /// Entries of the table that count.
    entries: u64,
    /// Where no block can be: the front, the log, and each region.
    taken: Vec<Range<u64>>,
}

impl Vhdx {
    /// Opens a VHDX.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn open(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let layered = Layered { layer, format: Format::Vhdx };
        let signature: [u8; 8] = io.read_wire(disk, 0)?;
        layered.check(signature == wire::FILE_SIGNATURE, BlockError::Magic { structure: Structure::Header })?;
        let header = current_header(io, layered, disk)?;
        let mut taken = Vec::new();
        taken.push(0..ALIGNMENT);
        check_log(layered, &header)?;
        let log = header.log_offset.get()..header.log_offset.get().saturating_add(header.log_len.get().into());
        taken.push(log.clone());
        let log = Log::read(io, layered, disk, &header, &log)?;
        let io: &mut dyn ReadAt = &mut Replayed::new(io, disk, log.as_ref());
        let [table, metadata] = regions(io, layered, disk, &mut taken)?;
        let metadata = Metadata::read(io, layered, disk, &metadata)?;
        let Metadata { block_size, sector_size, virtual_size, parent } = metadata;
        let chunk_blocks = align::units(CHUNK_SECTORS.saturating_mul(sector_size), block_size).max(1);
        let blocks = virtual_size.div_ceil(block_size);
        let needed = match parent {
            // The last chunk has its bitmap, too.
            Some(_) => blocks.div_ceil(chunk_blocks).saturating_mul(chunk_blocks.saturating_add(1)),
            None => blocks.saturating_add(align::units(blocks.saturating_sub(1), chunk_blocks)),
        };
        let entries = align::units(table.end.saturating_sub(table.start), 8);
        layered.check(needed <= entries, BlockError::TableShort { entries, needed })?;
        let backing =
            parent.as_ref().map(|parent| Backing { name: parent.name.clone(), format: Some(b"vhdx".to_vec()) });
        let facts = facts::Image { backing, ..layered.facts(virtual_size, Some(block_size)) };
        let (table_offset, entries, id) = (table.start, needed, header.data_write_id);
        let image = Self {
            layered,
            disk,
            facts,
            block_size,
            sector_size,
            id,
            parent,
            log,
            chunk_blocks,
            table_offset,
            entries,
            taken,
        };
        #[cfg(any(test, feature = "invariants"))]
        invariants::check_vhdx(&image);
        Ok(image)
    }
}

/// A checksum over `bytes`, whose own four bytes at 4 count as zero.
fn checksum(bytes: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(bytes.get(..4).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(bytes.get(8..).unwrap_or_default());
    digest.finalize()
}

/// Both headers, as far as they are sound.
fn headers(io: &mut dyn ReadAt, disk: DiskId) -> Result<[Option<Header>; 2], Error> {
    let mut bytes = io.read_vec(disk, 0, wire::HEADER_LEN)?;
    let mut headers = [None; 2];
    for (header, offset) in headers.iter_mut().zip(wire::HEADER_OFFSETS) {
        io.read_padded(disk, offset, &mut bytes)?;
        let is_sound = |header: &Header| {
            header.signature == wire::HEADER_SIGNATURE
                && header.checksum.get() == checksum(&bytes)
                && header.version.get() == 1
        };
        *header = Header::read_from_prefix(&bytes).ok().map(|(header, _)| header).filter(is_sound);
    }
    Ok(headers)
}

/// The sound header with the larger sequence number. Two with the same one are the same header, or neither counts.
fn current_header(io: &mut dyn ReadAt, layered: Layered, disk: DiskId) -> Result<Header, Error> {
    let current = match headers(io, disk)? {
        [Some(a), Some(b)] if a.sequence.get() == b.sequence.get() => Some(a).filter(|_| a.as_bytes() == b.as_bytes()),
        [Some(a), Some(b)] => Some(if a.sequence.get() > b.sequence.get() { a } else { b }),
        [a, b] => a.or(b),
    };
    current.ok_or(layered.error(BlockError::Checksum { structure: Structure::Header }))
}

/// Bounds of what the header says of the log; its length counts only where there is one.
fn check_log(layered: Layered, header: &Header) -> Result<(), Error> {
    let version = header.log_version.get();
    layered.check(version == 0, BlockError::Version { found: version.into() })?;
    let offset = header.log_offset.get();
    let is_offset = offset >= ALIGNMENT && align::within(offset, ALIGNMENT) == 0;
    layered.check(is_offset, BlockError::Field { field: Field::LogOffset, found: offset })?;
    let len = header.log_len.get().into();
    let is_len = header.log_id == [0; 16] || align::within(len, ALIGNMENT) == 0;
    layered.check(is_len, BlockError::Field { field: Field::LogSize, found: len })
}

/// The bytes of a region table; `None`: it is not sound.
fn region_table(io: &mut dyn ReadAt, disk: DiskId, offset: u64) -> Result<Option<Vec<u8>>, Error> {
    let bytes = io.read_vec(disk, offset, wire::TABLE_LEN)?;
    let table = RegionTable::read_from_prefix(&bytes).map(|(table, _)| table).ok();
    let is_sound =
        |table: RegionTable| table.signature == wire::REGION_SIGNATURE && table.checksum.get() == checksum(&bytes);
    Ok(if table.is_some_and(is_sound) { Some(bytes) } else { None })
}

/// Block allocation table and metadata, by the first sound region table; all regions are added to `taken`.
fn regions(
    io: &mut dyn ReadAt,
    layered: Layered,
    disk: DiskId,
    taken: &mut Vec<Range<u64>>,
) -> Result<[Range<u64>; 2], Error> {
    let mut bytes = None;
    for offset in wire::REGION_OFFSETS {
        bytes = region_table(io, disk, offset)?;
        if bytes.is_some() {
            break;
        }
    }
    let bytes = bytes.ok_or(layered.error(BlockError::Checksum { structure: Structure::RegionTable }))?;
    let table = RegionTable::read_from_prefix(&bytes).map(|(table, _)| table);
    let table = table.map_err(|_| layered.error(BlockError::Truncated { structure: Structure::RegionTable }))?;
    let (mut bat, mut metadata) = (None, None);
    let entries = bytes.get(size_of::<RegionTable>()..).unwrap_or_default();
    let count = table.count.get();
    let error = BlockError::Field { field: Field::TableSize, found: count.into() };
    layered.check(count <= wire::REGIONS_MAX, error)?;
    let count = usize::try_from(count).unwrap_or(0);
    let file_len = align::up(io.len(disk), ALIGNMENT).unwrap_or(u64::MAX);
    for (index, entry) in (0u64..).zip(entries.chunks_exact(size_of::<Region>())).take(count) {
        let Ok(region) = Region::read_from_bytes(entry) else { break };
        let (start, len) = (region.offset.get(), u64::from(region.len.get()));
        let range = start..start.saturating_add(len);
        let is_placed = align::within(start, ALIGNMENT) == 0 && is_free(taken, &range);
        let error = BlockError::Entry { structure: Structure::RegionTable, index, found: start };
        layered.check(is_placed, error)?;
        layered.check(range.end <= file_len, BlockError::Truncated { structure: Structure::RegionTable })?;
        taken.push(range.clone());
        match region.id {
            wire::REGION_BAT => layered.check(bat.replace(range).is_none(), error)?,
            wire::REGION_METADATA => layered.check(metadata.replace(range).is_none(), error)?,
            _ => layered.check(region.flags.get() & 1 == 0, BlockError::Features { unknown: index })?,
        }
    }
    #[cfg(any(test, feature = "invariants"))]
    invariants::check_regions(taken);
    let missing = layered.error(BlockError::Truncated { structure: Structure::RegionTable });
    bat.zip(metadata).map(|(bat, metadata)| [bat, metadata]).ok_or(missing)
}

/// Whether a range meets none that are taken.
fn is_free(taken: &[Range<u64>], range: &Range<u64>) -> bool {
    taken.iter().all(|taken| range.end <= taken.start || taken.end <= range.start)
}

impl Blocks for Vhdx {
    fn facts(&self) -> &facts::Image {
        &self.facts
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity::Id(self.id))
    }

    fn parent_identities(&self) -> Vec<Identity> {
        self.parent.iter().flat_map(|parent| &parent.ids).copied().map(Identity::Id).collect()
    }

    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        let io: &mut dyn ReadAt = &mut Replayed::new(io, self.disk, self.log.as_ref());
        let index = align::units(at, self.block_size);
        let (found, offset) = self.entry(io, index.saturating_add(align::units(index, self.chunk_blocks)))?;
        let uniform = |kind| uniform(at, self.block_size, |_| Ok(kind));
        match found {
            state::FULLY_PRESENT => uniform(Kind::Data { disk: self.disk, offset }),
            state::PARTIALLY_PRESENT => self.partial(io, index, offset, at),
            state::NOT_PRESENT if self.parent.is_some() => uniform(Kind::Hole),
            _ => uniform(Kind::Zero),
        }
    }
}

impl Vhdx {
    /// Entries of a chunk: its blocks', and its bitmap's.
    const fn chunk_len(&self) -> u64 {
        self.chunk_blocks.saturating_add(1)
    }

    /// State and place of what an entry of the table stands for. A place that counts is one for as much as there is.
    fn entry(&self, io: &mut dyn ReadAt, index: u64) -> Result<(u64, u64), Error> {
        let found = u64::from_le_bytes(entry(io, self.disk, self.table_offset, index)?);
        let (kind, offset) = (found & state::MASK, align::down(found, ALIGNMENT));
        // An entry of a chunk's last place is a bitmap's.
        let is_bitmap = align::within(index, self.chunk_len()) == self.chunk_blocks;
        let len = if is_bitmap { ALIGNMENT } else { self.block_size };
        let is_there = match kind {
            state::FULLY_PRESENT => true,
            state::PARTIALLY_PRESENT => !is_bitmap,
            _ => false,
        };
        if is_there {
            let range = offset..offset.saturating_add(len);
            let is_sound = is_free(&self.taken, &range)
                && offset < io.len(self.disk)
                && (kind == state::FULLY_PRESENT || self.parent.is_some());
            let error = BlockError::Entry { structure: Structure::Table, index, found };
            self.layered.check(is_sound, error)?;
            // Content is read past the log.
            let is_logged = !is_bitmap && self.log.as_ref().is_some_and(|log| log.changes(&range));
            self.layered.check(!is_logged, BlockError::Log)?;
        }
        Ok((kind, offset))
    }

    /// The sectors around `at` of a block that is there in part, from `at` on.
    fn partial(&self, io: &mut dyn ReadAt, index: u64, offset: u64, at: u64) -> Result<Extent, Error> {
        let chunk = align::units(index, self.chunk_blocks);
        let bitmap_index = chunk.saturating_mul(self.chunk_len()).saturating_add(self.chunk_blocks);
        let (found, bitmap) = self.entry(io, bitmap_index)?;
        let error = BlockError::Entry { structure: Structure::Bitmap, index: bitmap_index, found };
        self.layered.check(found == state::FULLY_PRESENT, error)?;
        let block_sectors = align::units(self.block_size, self.sector_size);
        let first = align::units(align::within(at, self.block_size), self.sector_size);
        let in_chunk = align::within(index, self.chunk_blocks).saturating_mul(block_sectors).saturating_add(first);
        let left = block_sectors.saturating_sub(first);
        let (is_here, len) = run_of_bits(io, (self.disk, bitmap), BitOrder::LowestFirst, in_chunk, left)?;
        let within = first.saturating_mul(self.sector_size);
        let kind = match is_here {
            true => Kind::Data { disk: self.disk, offset: offset.saturating_add(within) },
            false => Kind::Hole,
        };
        let start = index.saturating_mul(self.block_size).saturating_add(within);
        Ok(Extent { start, len: len.saturating_mul(self.sector_size), kind })
    }
}

/// Bounds of the fields that metadata gives.
fn check_sizes(layered: Layered, metadata: &Metadata) -> Result<(), Error> {
    let Metadata { block_size, sector_size, virtual_size, .. } = *metadata;
    let is_size = block_size.is_power_of_two() && (ALIGNMENT..=256 << 20).contains(&block_size);
    layered.field(Field::BlockSize, block_size, is_size)?;
    layered.field(Field::SectorSize, sector_size, matches!(sector_size, 512 | 4096))?;
    layered.field(Field::VirtualSize, virtual_size, virtual_size > 0)
}
