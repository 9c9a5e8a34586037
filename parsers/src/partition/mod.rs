//! Partition tables, as a disk's content has them: MBR with its extended partition, and GPT.
//!
//! ```text
//! MBR    sector 0: 4 entries; an extended one holds a chain of sectors, each with a partition and a link
//! GPT    sector 0: protective MBR | 1: header | entries …                … entries | last sector: header
//! ```
//!
//! A table is told as far as it can be read, with what is wrong with it; nothing in it is relied on.

mod gpt;
mod mbr;

pub(crate) use mbr::Record;

use alloc::vec::Vec;

/// The bytes of a disk.
pub trait Content {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Fills `buf` from byte `at`.
    ///
    /// # Errors
    /// [`Unread`]; `buf` holds anything then. A range past the end is unreadable.
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<(), Unread>;
}

/// Why bytes of a disk are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// They are in an image below, which is not looked at.
    Below,
    /// The image is damaged there, or the disk ends before.
    Failed,
}

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its kind.
    pub kind: Kind,
    /// Bytes of the sectors that it counts in.
    pub sector_len: u64,
    /// The partitions, in the table's order; those of an extended partition behind the others.
    pub partitions: Vec<Partition>,
    /// What is wrong with it, each once.
    pub problems: Vec<Problem>,
}

/// The kind of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A master boot record.
    Mbr {
        /// Its signature of the disk, at byte 440.
        disk_id: u32,
    },
    /// A GUID partition table.
    Gpt {
        /// The disk's GUID.
        disk_guid: Guid,
    },
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1; logical ones from 5.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// What the table says it is for.
    pub purpose: Purpose,
}

/// What a partition is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An entry of an MBR.
    Mbr {
        /// Its type.
        kind: u8,
        /// To be booted from.
        is_active: bool,
    },
    /// An entry of a GPT.
    Gpt {
        /// Its type.
        kind: Guid,
        /// Its own GUID.
        guid: Guid,
        /// Its attribute bits.
        attributes: u64,
        /// Its name, UTF-16 code units up to the first zero.
        name: Vec<u16>,
    },
}

/// A GUID as its 16 bytes are on the disk: the first three groups little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

/// What may be wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A part of the table can't be read, or is in an image below.
    Unread,
    /// A partition ends past the end of the disk.
    PastEnd,
    /// Two partitions have sectors in common.
    Overlap,
    /// The chain of an extended partition leads back, out of it, or on and on.
    Chain,
    /// A second extended partition, which nobody reads.
    SecondExtended,
    /// A protective MBR without a sound GPT.
    NoGpt,
    /// The GPT's first header is not sound.
    FirstHeader,
    /// The GPT's last header is not sound.
    LastHeader,
    /// The GPT's last header is not in the disk's last sector: the disk has been made longer.
    LastHeaderPlace,
    /// The two headers of the GPT tell of different disks or partitions.
    HeadersDiffer,
    /// Entries of the GPT do not have the checksum that their header says.
    Entries,
    /// The entries are more than are read: 1 MiB.
    TooManyEntries,
}

/// Reads the table that a disk begins with; `None`: there is none.
///
/// # Errors
/// [`Unread`] for the first sector.
pub fn read(disk: &mut dyn Content) -> Result<Option<Table>, Unread> {
    if disk.size() < mbr::SECTOR_LEN {
        return Ok(None);
    }
    let mut sector = [0; mbr::SECTOR_LEN as usize];
    disk.read(0, &mut sector)?;
    let Some(record) = Record::parse(&sector) else { return Ok(None) };
    let mut table = if record.is_protective() {
        gpt::read(disk).unwrap_or_else(|| {
            let mut table = mbr::read(disk, &record);
            table.note(Problem::NoGpt);
            table
        })
    } else {
        mbr::read(disk, &record)
    };
    table.look_at_places(disk.size());
    Ok(Some(table))
}

impl Table {
    fn new(kind: Kind, sector_len: u64) -> Self {
        Self { kind, sector_len, partitions: Vec::new(), problems: Vec::new() }
    }

    fn note(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Partitions are apart from each other and on the disk; an extended one holds its logical ones.
    fn look_at_places(&mut self, size: u64) {
        let mut places: Vec<(u64, u64)> = self
            .partitions
            .iter()
            .filter(|partition| !matches!(partition.purpose, Purpose::Mbr { kind, .. } if mbr::is_extended(kind)))
            .map(|partition| (partition.start, partition.start.saturating_add(partition.len)))
            .collect();
        if self.partitions.iter().any(|partition| partition.start.saturating_add(partition.len) > size) {
            self.note(Problem::PastEnd);
        }
        places.sort_unstable();
        if places.array_windows().any(|[(_, end), (start, _)]| start < end) {
            self.note(Problem::Overlap);
        }
    }
}

/// What holds of every table.
///
/// # Panics
/// Where it does not.
#[cfg(any(test, feature = "invariants"))]
pub fn check_table(table: &Table, size: u64) {
    let end = |partition: &Partition| partition.start.saturating_add(partition.len);
    assert!(table.partitions.is_sorted_by(|a, b| a.number < b.number), "numbers rise");
    for partition in &table.partitions {
        let of_kind = match (&table.kind, &partition.purpose) {
            (Kind::Mbr { .. }, Purpose::Mbr { kind, .. }) => *kind != 0 && partition.len > 0,
            (Kind::Gpt { .. }, Purpose::Gpt { kind, name, .. }) => *kind != Guid([0; 16]) && name.len() <= 36,
            _ => false,
        };
        assert!(of_kind && partition.number > 0, "{partition:?} is no entry of the table");
        assert!(end(partition) <= size || table.problems.contains(&Problem::PastEnd), "{partition:?} is past the end");
    }
    let apart = |(a, b): (&Partition, &Partition)| end(a) <= b.start || end(b) <= a.start;
    let is_extended = |part: &&Partition| matches!(part.purpose, Purpose::Mbr { kind, .. } if mbr::is_extended(kind));
    let held: Vec<&Partition> = table.partitions.iter().filter(|part| !is_extended(part) && part.len > 0).collect();
    // Few enough to be told apart pair by pair.
    let overlap = held.len() < 300
        && held.iter().enumerate().any(|(at, a)| held.iter().skip(at.saturating_add(1)).any(|b| !apart((a, b))));
    assert!(!overlap || table.problems.contains(&Problem::Overlap), "partitions overlap");
    assert!(
        table.problems.iter().enumerate().all(|(at, problem)| !table.problems.iter().take(at).any(|p| p == problem))
    );
}

impl core::fmt::Display for Guid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g, h, i, rest @ ..] = self.0;
        write!(
            f,
            "{:08X}-{:04X}-{:04X}-",
            u32::from_le_bytes([a, b, c, d]),
            u16::from_le_bytes([e, g]),
            u16::from_le_bytes([h, i])
        )?;
        for (index, byte) in rest.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl Problem {
    /// A name for it, in lower case with hyphens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unread => "unreadable",
            Self::PastEnd => "partition-past-end",
            Self::Overlap => "partitions-overlap",
            Self::Chain => "extended-chain",
            Self::SecondExtended => "second-extended-partition",
            Self::NoGpt => "protective-mbr-without-gpt",
            Self::FirstHeader => "first-header",
            Self::LastHeader => "last-header",
            Self::LastHeaderPlace => "last-header-not-at-end",
            Self::HeadersDiffer => "headers-differ",
            Self::Entries => "entries-checksum",
            Self::TooManyEntries => "too-many-entries",
        }
    }
}

#[cfg(test)]
mod tests;
