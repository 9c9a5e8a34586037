//! Master boot records, and the chain of an extended partition.
//!
//! # Source
//! UEFI specification 2.10, section 5.2 for the record; the chain as Linux' `block/partitions/msdos.c` walks it: a
//! partition is told from its own record, a link from the start of the extended partition.

use super::{Content, Kind, Partition, Problem, Purpose, Table};

/// Bytes of the sectors that records count in.
pub(super) const SECTOR_LEN: u64 = 512;
/// Most logical partitions that are read.
const LOGICAL_MAX: u32 = 252;
/// Number of the first of them.
const FIRST_LOGICAL: u32 = 5;
/// Type of the entry that covers a GPT.
const PROTECTIVE: u8 = 0xee;

/// A sector with the signature of a record.
#[derive(Clone, Copy)]
pub struct Record {
    disk_id: u32,
    entries: [Entry; 4],
}

#[derive(Clone, Copy)]
struct Entry {
    flag: u8,
    kind: u8,
    start: u32,
    sectors: u32,
}

/// Whether a type is that of an extended partition: DOS', Windows' and Linux'.
pub(super) const fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

impl Entry {
    fn parse(bytes: &[u8; 16]) -> Self {
        let &[flag, _, _, _, kind, _, _, _, a, b, c, d, e, f, g, h] = bytes;
        Self { flag, kind, start: u32::from_le_bytes([a, b, c, d]), sectors: u32::from_le_bytes([e, f, g, h]) }
    }

    const fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    /// The partition, counted from sector `base`.
    fn partition(&self, number: u32, base: u64) -> Partition {
        Partition {
            number,
            start: base.saturating_add(self.start.into()).saturating_mul(SECTOR_LEN),
            len: u64::from(self.sectors).saturating_mul(SECTOR_LEN),
            purpose: Purpose::Mbr { kind: self.kind, is_active: self.flag & 0x80 != 0 },
        }
    }
}

impl Record {
    /// The record in a sector; `None`: no signature, or flags that no record has, as in a boot sector without a table.
    pub fn parse(sector: &[u8; SECTOR_LEN as usize]) -> Option<Self> {
        let (rest, signature) = sector.split_last_chunk::<2>()?;
        let (rest, table) = rest.split_last_chunk::<64>()?;
        let (_, id) = rest.split_last_chunk::<6>()?;
        let &[a, b, c, d, _, _] = id;
        let [first, second, third, fourth] = table.as_chunks::<16>().0 else { return None };
        let entries = [first, second, third, fourth].map(Entry::parse);
        let is_record = *signature == [0x55, 0xaa] && entries.iter().all(|entry| matches!(entry.flag, 0 | 0x80));
        (is_record && entries.iter().any(Entry::is_used))
            .then_some(Self { disk_id: u32::from_le_bytes([a, b, c, d]), entries })
    }

    /// Whether a partition of it only covers a GPT.
    pub fn is_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_used() && entry.kind == PROTECTIVE)
    }
}

/// The table of a disk that begins with `record`.
pub(super) fn read(disk: &mut dyn Content, record: &Record) -> Table {
    let mut table = Table::new(Kind::Mbr { disk_id: record.disk_id }, SECTOR_LEN);
    let mut extended = None;
    for (entry, number) in record.entries.iter().zip(1..) {
        if !entry.is_used() {
            continue;
        }
        table.partitions.push(entry.partition(number, 0));
        if is_extended(entry.kind) {
            match extended {
                None => extended = Some(*entry),
                Some(_) => table.note(Problem::SecondExtended),
            }
        }
    }
    if let Some(extended) = extended {
        read_logical(disk, &mut table, &extended);
    }
    table
}

/// Walks the chain of an extended partition. Links lead forward and stay inside it: a chain that leads back would go on for
/// ever.
fn read_logical(disk: &mut dyn Content, table: &mut Table, extended: &Entry) {
    let base = u64::from(extended.start);
    let end = base.saturating_add(extended.sectors.into());
    let mut at = base;
    let mut number = FIRST_LOGICAL;
    for _ in 0..LOGICAL_MAX {
        let mut sector = [0; SECTOR_LEN as usize];
        if disk.read(at.saturating_mul(SECTOR_LEN), &mut sector).is_err() {
            return table.note(Problem::Unread);
        }
        // An extended partition that nothing was made in has a record without entries, or none.
        let Some(record) = Record::parse(&sector) else { return };
        let mut link = None;
        for entry in record.entries.iter().filter(|entry| entry.is_used()) {
            if is_extended(entry.kind) {
                link = link.or(Some(entry.start));
            } else {
                table.partitions.push(entry.partition(number, at));
                number = number.saturating_add(1);
            }
        }
        let Some(link) = link else { return };
        let next = base.saturating_add(link.into());
        if next <= at || next >= end {
            return table.note(Problem::Chain);
        }
        at = next;
    }
    table.note(Problem::Chain);
}
