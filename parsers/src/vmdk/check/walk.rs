//! The tables of a sparse extent, one behind the other.

use crate::align;
use crate::image::{Findings, Tables, padded_len};
use crate::vmdk::grains::{Grains, Place};
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::check::VmdkFinding;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;

/// Entries of the directory that are looked at together.
const CHUNK: u64 = 64 << 10;
/// Bytes of tables that are read in one batch.
const BATCH_LEN: u64 = 1 << 20;
/// Most tables of a batch: as many requests as a queue takes.
const BATCH_MAX: u64 = 64;

/// A table that a directory has an entry for.
pub struct Table<'a> {
    /// Number of the table.
    pub index: u64,
    /// Where it is.
    pub place: Place,
    /// What is there; zeros past the end of the file, and where it is nowhere.
    pub bytes: &'a [u8],
    /// The same by the redundant directory, where there is one.
    pub copy: Option<(Place, &'a [u8])>,
}

/// Where the directories of an extent are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directories {
    /// The one that counts.
    pub main: u64,
    /// The redundant one.
    pub copy: Option<u64>,
}

/// Takes a table; whether there is to be another one.
pub type EachTable<'a> = dyn FnMut(&mut dyn Findings, &mut Tables, &Table<'_>) -> Result<bool, Error> + 'a;

impl Grains {
    /// Bytes of a table.
    pub(super) const fn table_len(&self) -> u64 {
        self.table_entries.saturating_mul(self.entry_len() as u64)
    }

    /// Entries as numbers.
    pub(super) fn entries(&self, bytes: &[u8]) -> Vec<u64> {
        match self.entry_len() {
            8 => bytes.as_chunks::<8>().0.iter().map(|raw| u64::from_le_bytes(*raw)).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|raw| u32::from_le_bytes(*raw).into()).collect(),
        }
    }

    /// Calls `work` with each table of `indices` that a directory has an entry for.
    pub(super) fn each_table(
        &self,
        io: &mut dyn Findings,
        tables: &mut Tables,
        directories: Directories,
        indices: Range<u64>,
        work: &mut EachTable<'_>,
    ) -> Result<(), Error> {
        let batch = BATCH_LEN.checked_div(self.table_len()).unwrap_or(1).clamp(1, BATCH_MAX);
        let batch = usize::try_from(batch).unwrap_or(1);
        let mut first = indices.start;
        while first < indices.end {
            let end = indices.end.min(first.saturating_add(CHUNK));
            let main = self.places(io, tables, directories.main, first..end)?;
            let copies = match directories.copy {
                Some(directory) => self.places(io, tables, directory, first..end)?,
                None => Vec::new(),
            };
            let mut known = Vec::new();
            for (at, (index, place)) in (first..end).zip(main).enumerate() {
                let copy = copies.get(at).copied();
                if place != Place::Nowhere || copy.is_some_and(|copy| copy != Place::Nowhere) {
                    known.push((index, place, copy));
                }
            }
            for known in known.chunks(batch) {
                let main: Vec<Place> = known.iter().map(|(_, place, _)| *place).collect();
                let main = self.read_tables(io, tables, &main)?;
                let copies: Vec<Place> = known.iter().filter_map(|(_, _, copy)| *copy).collect();
                let copies = self.read_tables(io, tables, &copies)?;
                for (at, ((index, place, copy), bytes)) in known.iter().zip(&main).enumerate() {
                    let copy = copy.zip(copies.get(at).map(Vec::as_slice));
                    if !work(io, tables, &Table { index: *index, place: *place, bytes, copy })? {
                        return Ok(());
                    }
                }
            }
            first = end;
        }
        Ok(())
    }

    /// What a directory says of tables.
    fn places(
        &self,
        io: &mut dyn Findings,
        tables: &mut Tables,
        directory: u64,
        indices: Range<u64>,
    ) -> Result<Vec<Place>, Error> {
        let entry_len = self.entry_len() as u64;
        let len = indices.end.saturating_sub(indices.start).saturating_mul(entry_len);
        tables.take(len)?;
        let at = directory.saturating_add(indices.start.saturating_mul(entry_len));
        let read = io.read_each(self.disk, &[at], usize::try_from(len).unwrap_or(0))?;
        let entries = self.entries(read.first().map_or(&[][..], Vec::as_slice));
        Ok(entries.into_iter().map(|found| self.table_place(found)).collect())
    }

    fn read_tables(&self, io: &mut dyn Findings, tables: &mut Tables, places: &[Place]) -> Result<Vec<Vec<u8>>, Error> {
        let offset = |place: &Place| if let Place::At(offset) = place { *offset } else { u64::MAX };
        let offsets: Vec<u64> = places.iter().map(offset).collect();
        tables.take(self.table_len().saturating_mul(offsets.len() as u64))?;
        io.read_each(self.disk, &offsets, usize::try_from(self.table_len()).unwrap_or(0))
    }

    /// The first thing that QEMU finds from a sector on, in an extent that starts at `start`.
    pub(super) fn walk(
        &self,
        io: &mut dyn Findings,
        tables: &mut Tables,
        start: u64,
        sector: u64,
    ) -> Result<Option<VmdkFinding>, Error> {
        let grains = self.walked(start, sector);
        // A table's first grain that is looked at.
        let front = |table: u64| table.saturating_mul(self.table_entries).max(grains.start);
        let sector_of = |grain: u64| {
            let on = grain.saturating_sub(grains.start).saturating_mul(self.grain_sectors());
            sector.saturating_add(on)
        };
        let first = align::units(grains.start, self.table_entries);
        let end = grains.end.div_ceil(self.table_entries.max(1));
        let file_len = padded_len(io, self.disk);
        let mut met = None;
        let known = first..end.min(self.directory_entries);
        let directories = Directories { main: self.directory_offset, copy: None };
        self.each_table(io, tables, directories, known, &mut |_, _, table| {
            if table.place == Place::Broken {
                met = Some(VmdkFinding::GrainUnreadable { sector: sector_of(front(table.index)) });
                return Ok(false);
            }
            let base = table.index.saturating_mul(self.table_entries);
            for (found, grain) in self.entries(table.bytes).into_iter().zip(base..grains.end) {
                if grain < grains.start {
                    continue;
                }
                let sector = sector_of(grain);
                met = match self.grain_place(found) {
                    Place::Broken => Some(VmdkFinding::GrainUnreadable { sector }),
                    Place::At(offset) if offset >= file_len => Some(VmdkFinding::GrainPastEnd { sector }),
                    Place::At(_) | Place::Zero | Place::Nowhere => continue,
                };
                return Ok(false);
            }
            Ok(true)
        })?;
        if met.is_none() && end > self.directory_entries {
            met = Some(VmdkFinding::GrainUnreadable { sector: sector_of(front(self.directory_entries)) });
        }
        Ok(met)
    }

    /// Where QEMU goes on behind the extent.
    pub(super) fn end_of_walk(&self, start: u64, sector: u64) -> u64 {
        let grains = self.walked(start, sector);
        let count = grains.end.saturating_sub(grains.start);
        sector.saturating_add(count.saturating_mul(self.grain_sectors()))
    }

    /// The grains that QEMU looks at when it comes to an extent at this sector.
    fn walked(&self, start: u64, sector: u64) -> Range<u64> {
        let before = sector.saturating_sub(start);
        let left = (self.len / SECTOR_LEN).saturating_sub(before);
        let first = align::units(before, self.grain_sectors());
        first..first.saturating_add(left.div_ceil(self.grain_sectors().max(1)))
    }

    /// Sectors of a grain.
    pub(super) const fn grain_sectors(&self) -> u64 {
        self.grain_size / SECTOR_LEN
    }
}
