//! GUID partition tables: the first header, or the last one where the first is not sound.
//!
//! # Source
//! UEFI specification 2.10, section 5.3.

use super::{Content, Guid, Kind, Partition, Problem, Purpose, Table};
use crate::align;
use alloc::vec::Vec;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Sectors that disks have.
const SECTOR_LENS: [u64; 2] = [512, 4096];
/// Bytes of entries that are read; the specification asks for room for 16 KiB.
const ENTRIES_LEN_MAX: u64 = 1 << 20;
/// Bytes of entries that are read at a time: whole entries of every length that is read.
const CHUNK_LEN: usize = 4096;

static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// The header as it is on the disk; the sector's rest is zeros.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WireHeader {
    signature: [u8; 8],
    revision: U32,
    header_len: U32,
    header_crc: U32,
    reserved: U32,
    here: U64,
    other: U64,
    first_usable: U64,
    last_usable: U64,
    disk_guid: [u8; 16],
    entries_at: U64,
    entries: U32,
    entry_len: U32,
    entries_crc: U32,
}

/// An entry as it is on the disk.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WireEntry {
    kind: [u8; 16],
    guid: [u8; 16],
    first: U64,
    last: U64,
    attributes: U64,
    name: [U16; 36],
}

/// A header. Having one proves: signature, checksum and place are right, entries have 128 · 2ⁿ bytes, at most
/// [`CHUNK_LEN`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct Header {
    sector_len: u64,
    other: u64,
    disk_guid: Guid,
    entries_at: u64,
    entries: u32,
    entry_len: u32,
    entries_crc: u32,
}

impl Header {
    /// The header in a sector.
    fn read(disk: &mut dyn Content, sector_len: u64, sector: u64) -> Option<Self> {
        let mut bytes = [0; CHUNK_LEN];
        let bytes = bytes.get_mut(..usize::try_from(sector_len).ok()?)?;
        disk.read(sector.checked_mul(sector_len)?, bytes).ok()?;
        let (wire, _) = WireHeader::ref_from_prefix(bytes).ok()?;
        let header_len = usize::try_from(wire.header_len.get()).ok()?;
        let (before, crc, behind) = (bytes.get(..16)?, wire.header_crc.get(), bytes.get(20..header_len)?);
        let mut digest = CRC.digest();
        [before, &[0; 4], behind].iter().for_each(|part| digest.update(part));
        let entry_len = wire.entry_len.get();
        let is_sound = wire.signature == *b"EFI PART"
            && header_len >= size_of::<WireHeader>()
            && digest.finalize() == crc
            && wire.here.get() == sector
            && entry_len.is_power_of_two()
            && (128..=CHUNK_LEN as u32).contains(&entry_len);
        is_sound.then_some(Self {
            sector_len,
            other: wire.other.get(),
            disk_guid: Guid(wire.disk_guid),
            entries_at: wire.entries_at.get(),
            entries: wire.entries.get(),
            entry_len,
            entries_crc: wire.entries_crc.get(),
        })
    }

    /// The same table told of in another place: what must be equal in both headers.
    fn tells_the_same(&self, other: &Self) -> bool {
        let told = |header: &Self| (header.disk_guid, header.entries, header.entry_len, header.entries_crc);
        told(self) == told(other)
    }

    /// The partitions, or what is wrong with the entries.
    fn partitions(&self, disk: &mut dyn Content) -> Result<Vec<Partition>, Problem> {
        let mut left = u64::from(self.entries).saturating_mul(self.entry_len.into());
        if left > ENTRIES_LEN_MAX {
            return Err(Problem::TooManyEntries);
        }
        let mut at = self.entries_at.saturating_mul(self.sector_len);
        let mut digest = CRC.digest();
        let mut chunk = [0; CHUNK_LEN];
        let mut partitions = Vec::new();
        let mut number = 1u32;
        while left > 0 {
            let len = left.min(CHUNK_LEN as u64);
            let Some(chunk) = usize::try_from(len).ok().and_then(|len| chunk.get_mut(..len)) else { break };
            disk.read(at, chunk).map_err(|_| Problem::Unread)?;
            digest.update(chunk);
            for entry in chunk.chunks(usize::try_from(self.entry_len).unwrap_or(CHUNK_LEN)) {
                if let Ok((entry, _)) = WireEntry::ref_from_prefix(entry) {
                    partitions.extend(self.partition(entry, number));
                }
                number = number.saturating_add(1);
            }
            (at, left) = (at.saturating_add(len), left.saturating_sub(len));
        }
        if digest.finalize() == self.entries_crc { Ok(partitions) } else { Err(Problem::Entries) }
    }

    /// The partition of an entry that is in use.
    fn partition(&self, entry: &WireEntry, number: u32) -> Option<Partition> {
        let sectors = entry.last.get().saturating_add(1).saturating_sub(entry.first.get());
        let name = entry.name.iter().map(|unit| unit.get()).take_while(|&unit| unit != 0);
        (entry.kind != [0; 16]).then(|| Partition {
            number,
            start: entry.first.get().saturating_mul(self.sector_len),
            len: sectors.saturating_mul(self.sector_len),
            purpose: Purpose::Gpt {
                kind: Guid(entry.kind),
                guid: Guid(entry.guid),
                attributes: entry.attributes.get(),
                name: name.collect(),
            },
        })
    }
}

/// The table of a disk that begins with a protective record; `None`: neither header is sound.
pub(super) fn read(disk: &mut dyn Content) -> Option<Table> {
    SECTOR_LENS.into_iter().find_map(|sector_len| read_in_sectors(disk, sector_len))
}

fn read_in_sectors(disk: &mut dyn Content, sector_len: u64) -> Option<Table> {
    let end = align::down(disk.size(), sector_len).checked_div(sector_len)?.checked_sub(1)?;
    let first = Header::read(disk, sector_len, 1);
    let place = first.as_ref().map_or(end, |first| first.other);
    let last = Header::read(disk, sector_len, place);
    let header = first.or(last)?;
    let mut table = Table::new(Kind::Gpt { disk_guid: header.disk_guid }, sector_len);
    match (&first, &last) {
        (None, _) => table.note(Problem::FirstHeader),
        (_, None) => table.note(Problem::LastHeader),
        (Some(first), Some(last)) => {
            if place != end {
                table.note(Problem::LastHeaderPlace);
            }
            if !first.tells_the_same(last) {
                table.note(Problem::HeadersDiffer);
            }
        }
    }
    for header in [first, last].into_iter().flatten() {
        match header.partitions(disk) {
            Ok(partitions) if table.partitions.is_empty() => table.partitions = partitions,
            Ok(_) => {}
            Err(problem) => table.note(problem),
        }
    }
    Some(table)
}
