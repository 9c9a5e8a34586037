//! VHDX: fixed and dynamic.
//!
//! ```text
//! 0        file identifier
//! 64 KiB   header, and a second one: the one with the larger sequence number is current
//! 192 KiB  region table, and a second one ──> metadata, block allocation table
//! 1 MiB …  log, metadata, table, blocks
//! ```
//!
//! A log that must be replayed first and a differencing image are refused, as in QEMU.
//!
//! # Source
//! Microsoft, MS-VHDX 2016; what is refused as QEMU 10.0's `block/vhdx.c`.

mod metadata;
mod wire;

use crate::align;
use crate::image::{Blocks, Extent, Kind, Layered, entry, uniform};
use crate::store::ReadAt;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::facts;
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use metadata::Metadata;
use wire::{Header, LogEntry, Region, RegionTable};
use zerocopy::{FromBytes, IntoBytes};

/// What regions and blocks are aligned to.
const ALIGNMENT: u64 = 1 << 20;
/// Payload sectors that one bitmap block tells of.
const CHUNK_SECTORS: u64 = 1 << 23;
/// States of a block, in the low bits of its entry.
mod state {
    pub const MASK: u64 = 7;
    pub const FULLY_PRESENT: u64 = 6;
    pub const PARTIALLY_PRESENT: u64 = 7;
}

static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// A VHDX. Having one proves: a header, a region table and the metadata are sound, the log is empty, and the table has an
/// entry for every block.
pub struct Vhdx {
    layered: Layered,
    disk: DiskId,
    facts: facts::Image,
    block_size: u64,
    /// Blocks between two entries of the table that are no blocks.
    chunk_blocks: u64,
    table_offset: u64,
    /// Where no block can be.
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
        if header.log_len.get() > 0 {
            taken.push(log.clone());
        }
        layered.check(!has_log(io, disk, &header, log)?, BlockError::Log)?;
        let [table, metadata] = regions(io, layered, disk, &mut taken)?;
        let metadata = Metadata::read(io, layered, disk, &metadata)?;
        let Metadata { block_size, sector_size, virtual_size } = metadata;
        let chunk_blocks = align::units(CHUNK_SECTORS.saturating_mul(sector_size), block_size).max(1);
        let blocks = virtual_size.div_ceil(block_size);
        let between = align::units(blocks.saturating_sub(1), chunk_blocks);
        let needed = blocks.saturating_add(between);
        let entries = align::units(table.end.saturating_sub(table.start), 8);
        layered.check(needed <= entries, BlockError::TableShort { entries, needed })?;
        let facts = layered.facts(virtual_size, Some(block_size));
        Ok(Self { layered, disk, facts, block_size, chunk_blocks, table_offset: table.start, taken })
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

/// The sound header with the larger sequence number. Two with the same one are the same header, or neither counts.
fn current_header(io: &mut dyn ReadAt, layered: Layered, disk: DiskId) -> Result<Header, Error> {
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
    let current = match headers {
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

/// Whether the log has a sound entry that counts.
fn has_log(io: &mut dyn ReadAt, disk: DiskId, header: &Header, log: Range<u64>) -> Result<bool, Error> {
    const STEP: u64 = 4 << 10;
    if header.log_id == [0; 16] {
        return Ok(false);
    }
    let mut at = log.start;
    while at < log.end {
        io.budget().take_steps(1)?;
        let entry: LogEntry = io.read_wire(disk, at)?;
        if entry.signature == wire::LOG_SIGNATURE && entry.log_id == header.log_id && entry.sequence.get() > 0 {
            let len = u64::from(entry.len.get());
            let is_len = align::within(len, STEP) == 0 && len > 0 && len <= log.end.saturating_sub(log.start);
            if is_len && is_entry_sound(io, disk, at, len, &log)? {
                return Ok(true);
            }
        }
        at = at.saturating_add(STEP);
    }
    Ok(false)
}

/// Whether an entry, which may go on at the log's start, has the checksum that it says.
fn is_entry_sound(io: &mut dyn ReadAt, disk: DiskId, at: u64, len: u64, log: &Range<u64>) -> Result<bool, Error> {
    let mut bytes = io.read_vec(disk, at, usize::try_from(len).unwrap_or(0))?;
    let inside = usize::try_from(log.end.saturating_sub(at)).unwrap_or(usize::MAX);
    if let Some(wrapped) = bytes.get_mut(inside..) {
        io.read_padded(disk, log.start, wrapped)?;
    }
    io.budget().give_heap(len);
    let said = LogEntry::read_from_prefix(&bytes).map(|(entry, _)| entry.checksum.get());
    Ok(said == Ok(checksum(&bytes)))
}

/// Block allocation table and metadata, by the first sound region table; all regions are added to `taken`.
fn regions(
    io: &mut dyn ReadAt,
    layered: Layered,
    disk: DiskId,
    taken: &mut Vec<Range<u64>>,
) -> Result<[Range<u64>; 2], Error> {
    let mut bytes = io.read_vec(disk, 0, wire::TABLE_LEN)?;
    let mut sound = None;
    for offset in wire::REGION_OFFSETS {
        io.read_padded(disk, offset, &mut bytes)?;
        let table = RegionTable::read_from_prefix(&bytes).map(|(table, _)| table);
        sound = table
            .ok()
            .filter(|table| table.signature == wire::REGION_SIGNATURE && table.checksum.get() == checksum(&bytes));
        if sound.is_some() {
            break;
        }
    }
    let table = sound.ok_or(layered.error(BlockError::Checksum { structure: Structure::RegionTable }))?;
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

    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        uniform(at, self.block_size, |index| self.block(io, index))
    }
}

impl Vhdx {
    fn block(&self, io: &mut dyn ReadAt, index: u64) -> Result<Kind, Error> {
        let entry_index = index.saturating_add(align::units(index, self.chunk_blocks));
        let found = u64::from_le_bytes(entry(io, self.disk, self.table_offset, entry_index)?);
        let offset = align::down(found, ALIGNMENT);
        let error = BlockError::Entry { structure: Structure::Table, index: entry_index, found };
        match found & state::MASK {
            state::FULLY_PRESENT => {
                let range = offset..offset.saturating_add(self.block_size);
                let is_sound = is_free(&self.taken, &range) && offset < io.len(self.disk);
                self.layered.check(is_sound, error)?;
                Ok(Kind::Data { disk: self.disk, offset })
            }
            // Only a differencing image has any.
            state::PARTIALLY_PRESENT => Err(self.layered.error(error)),
            _ => Ok(Kind::Zero),
        }
    }
}

/// Bounds of the fields that metadata gives.
fn check_sizes(layered: Layered, metadata: &Metadata) -> Result<(), Error> {
    let Metadata { block_size, sector_size, virtual_size } = *metadata;
    let is_size = block_size.is_power_of_two() && (ALIGNMENT..=256 << 20).contains(&block_size);
    layered.field(Field::BlockSize, block_size, is_size)?;
    layered.field(Field::SectorSize, sector_size, matches!(sector_size, 512 | 4096))?;
    layered.field(Field::VirtualSize, virtual_size, virtual_size > 0)
}
