//! A whole extent: its header, its tables, and who uses what of its file.

use super::Check;
use super::walk::{Directories, Table};
use crate::image::{Findings, Occupied, Tables, padded_len};
use crate::store::ReadAt;
use crate::vmdk::descriptor::{self, LineKind};
use crate::vmdk::grains::{Form, Grains, MARKER_LEN, Place, footer};
use crate::vmdk::wire::{self, Footer, Header, SeHeader, flag};
use crate::vmdk::{Body, DESCRIPTOR_LEN_MAX, Part, Vmdk};
use alloc::vec::Vec;
use instar_abi::check::VmdkFinding;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;

/// Grains whose markers are read together.
const MARKERS: usize = 64;

/// A place in an extent's file.
struct Sectors {
    /// First sector.
    first: u64,
    /// Sectors.
    count: u64,
}

impl Vmdk {
    /// Checks one extent.
    pub(super) fn extent(
        &self,
        io: &mut dyn Findings,
        check: &mut Check,
        extent: u32,
        part: &Part,
    ) -> Result<(), Error> {
        match &part.body {
            Body::Zero | Body::Missing => Ok(()),
            Body::Flat { disk, offset } => {
                let (found, expected) = (padded_len(io, *disk), offset.saturating_add(part.len));
                match found < expected {
                    true => check.corrupt(io, VmdkFinding::FlatShort { extent, found, expected }),
                    false => Ok(()),
                }
            }
            Body::Grains(grains) => {
                let said_len = match part.said_len {
                    None => self.said_len(io, grains)?,
                    said_len => said_len,
                };
                let (found, expected) = (grains.len, said_len.unwrap_or(grains.len));
                if found != expected {
                    let (found, expected) = (found / SECTOR_LEN, expected / SECTOR_LEN);
                    check.corrupt(io, VmdkFinding::ExtentLen { extent, found, expected })?;
                }
                SparseExtent { grains, extent, start: part.start / SECTOR_LEN, file_len: padded_len(io, grains.disk) }
                    .check(io, check)
            }
        }
    }

    /// What the descriptor within a sparse extent says of its length.
    fn said_len(&self, io: &mut dyn ReadAt, grains: &Grains) -> Result<Option<u64>, Error> {
        if !matches!(grains.form, Form::Hosted { .. }) {
            return Ok(None);
        }
        let header: Header = io.read_wire(grains.disk, 0)?;
        let len = header.descriptor_len.get().saturating_mul(SECTOR_LEN).min(DESCRIPTOR_LEN_MAX);
        if header.descriptor_offset.get() == 0 || len == 0 {
            return Ok(None);
        }
        let at = header.descriptor_offset.get().saturating_mul(SECTOR_LEN);
        let text = io.read_vec(grains.disk, at, usize::try_from(len).unwrap_or(0))?;
        io.budget().give_heap(len);
        let mut lines = descriptor::lines(&text).map(|(_, line)| line);
        Ok(match (lines.next(), lines.next()) {
            (Some(Ok(line)), None) if matches!(line.kind, LineKind::Sparse { .. }) => {
                Some(line.sectors.saturating_mul(SECTOR_LEN))
            }
            _ => None,
        })
    }
}

/// A sparse extent that is checked.
struct SparseExtent<'a> {
    grains: &'a Grains,
    /// Which one of the image's.
    extent: u32,
    /// The disk's sector that it starts at.
    start: u64,
    file_len: u64,
}

impl SparseExtent<'_> {
    fn check(&self, io: &mut dyn Findings, check: &mut Check) -> Result<(), Error> {
        let grains = self.grains;
        let mut redundant = None;
        if matches!(grains.form, Form::Hosted { .. }) {
            let header = self.header(io, check)?;
            let wants = header.flags.get() & flag::REDUNDANT != 0;
            redundant = wants.then(|| header.redundant_gd_offset.get().saturating_mul(SECTOR_LEN));
        }
        let directory_len = grains.directory_entries.saturating_mul(grains.entry_len() as u64);
        if redundant.is_some_and(|at| at.saturating_add(directory_len) > self.file_len) {
            check.corrupt(io, VmdkFinding::RedundantDirectory { extent: self.extent })?;
            redundant = None;
        }
        // ESX's header says how many there are.
        let known = grains.directory_entries.saturating_mul(grains.table_entries);
        if known.saturating_mul(grains.grain_size) < grains.len {
            check.corrupt(io, VmdkFinding::GrainUnreadable { sector: self.sector_of(known) })?;
        }
        let fixed = self.fixed(io, redundant, directory_len)?;
        let mut used = Occupied::new(io.budget(), self.file_len / SECTOR_LEN)?;
        loop {
            for Sectors { first, count } in &fixed {
                if let Some(at) = used.take(*first, *count) {
                    check.corrupt(io, VmdkFinding::MetadataShared { extent: self.extent, at })?;
                }
            }
            self.all_tables(io, check, &mut used, redundant)?;
            if !used.next_window() {
                break;
            }
        }
        used.drop_into(io.budget());
        Ok(())
    }

    /// Looks at the header of a hosted extent; the one that counts.
    fn header(&self, io: &mut dyn Findings, check: &mut Check) -> Result<Header, Error> {
        let extent = self.extent;
        let first: Header = (io as &mut dyn ReadAt).read_wire(self.grains.disk, 0)?;
        let mut header = first;
        if first.gd_offset.get() == wire::GD_AT_END {
            header = footer(io, self.grains.layered, self.grains.disk)?;
            let words = |header: &Header| (header.capacity, header.grain_sectors, header.table_entries);
            if words(&first) != words(&header) {
                check.corrupt(io, VmdkFinding::Footer { extent })?;
            }
        }
        if first.unclean != 0 {
            check.corrupt(io, VmdkFinding::Unclean { extent })?;
        }
        if first.flags.get() & flag::LINE_ENDS != 0 && first.line_ends != wire::LINE_ENDS {
            check.corrupt(io, VmdkFinding::LineEnds { extent })?;
        }
        Ok(header)
    }

    /// Where there can be neither tables nor grains.
    fn fixed(&self, io: &mut dyn Findings, redundant: Option<u64>, directory_len: u64) -> Result<Vec<Sectors>, Error> {
        let (grains, io) = (self.grains, io as &mut dyn ReadAt);
        let sectors = |at: u64, len: u64| Sectors { first: at / SECTOR_LEN, count: len.div_ceil(SECTOR_LEN) };
        let mut fixed = Vec::from([sectors(0, SECTOR_LEN), sectors(grains.directory_offset, directory_len)]);
        fixed.extend(redundant.filter(|at| *at != grains.directory_offset).map(|at| sectors(at, directory_len)));
        match grains.form {
            Form::Cowd => {}
            Form::Hosted { .. } => {
                let header: Header = io.read_wire(grains.disk, 0)?;
                if header.descriptor_offset.get() > 0 {
                    let (first, count) = (header.descriptor_offset.get(), header.descriptor_len.get());
                    fixed.push(Sectors { first, count });
                }
                if header.gd_offset.get() == wire::GD_AT_END {
                    let len = size_of::<Footer>() as u64;
                    fixed.push(sectors(self.file_len.saturating_sub(len), len));
                }
            }
            Form::SeSparse { .. } => {
                let header: SeHeader = io.read_wire(grains.disk, 0)?;
                for place in
                    [header.volatile, header.journal_header, header.journal, header.free_bitmap, header.backmap]
                {
                    fixed.push(Sectors { first: place.offset.get(), count: place.len.get() });
                }
            }
        }
        Ok(fixed)
    }

    /// Goes through all tables, and what they lead to.
    fn all_tables(
        &self,
        io: &mut dyn Findings,
        check: &mut Check,
        used: &mut Occupied,
        redundant: Option<u64>,
    ) -> Result<(), Error> {
        let grains = self.grains;
        let directories = Directories { main: grains.directory_offset, copy: redundant };
        let indices = 0..grains.directory_entries;
        let mut tables = check.tables;
        grains.each_table(io, &mut tables, directories, indices, &mut |io, tables, table| {
            self.table(io, check, used, table)?;
            if let Some(copy) = table.copy {
                self.copy(io, check, used, table, copy)?;
            }
            self.grains_of(io, check, used, tables, table)?;
            Ok(true)
        })?;
        check.tables = tables;
        Ok(())
    }

    /// Takes a table's place.
    fn table(
        &self,
        io: &mut dyn Findings,
        check: &mut Check,
        used: &mut Occupied,
        table: &Table<'_>,
    ) -> Result<(), Error> {
        let (extent, index) = (self.extent, table.index);
        let len = self.grains.table_len();
        match table.place {
            Place::At(offset) if offset.saturating_add(len) <= self.file_len => {
                self.take_table(io, check, used, index, offset)
            }
            Place::At(_) if used.is_first() => check.corrupt(io, VmdkFinding::TablePastEnd { extent, index }),
            Place::Broken if used.is_first() => {
                let grain = index.saturating_mul(self.grains.table_entries);
                check.corrupt(io, VmdkFinding::GrainUnreadable { sector: self.sector_of(grain) })
            }
            _ => Ok(()),
        }
    }

    fn take_table(
        &self,
        io: &mut dyn Findings,
        check: &mut Check,
        used: &mut Occupied,
        index: u64,
        offset: u64,
    ) -> Result<(), Error> {
        match used.take(offset / SECTOR_LEN, self.grains.table_len().div_ceil(SECTOR_LEN)) {
            Some(at) => check.corrupt(io, VmdkFinding::TableShared { extent: self.extent, index, at }),
            None => Ok(()),
        }
    }

    /// Holds a table against the redundant directory's, and takes that one's place.
    fn copy(
        &self,
        io: &mut dyn Findings,
        check: &mut Check,
        used: &mut Occupied,
        table: &Table<'_>,
        (place, bytes): (Place, &[u8]),
    ) -> Result<(), Error> {
        let is_both = matches!((table.place, place), (Place::At(_), Place::At(_)));
        if used.is_first() && (!is_both || bytes != table.bytes) {
            check.corrupt(io, VmdkFinding::RedundantTable { extent: self.extent, index: table.index })?;
        }
        match place {
            // One table for both is no second copy, and in nobody's place.
            Place::At(offset) if place != table.place => self.take_table(io, check, used, table.index, offset),
            _ => Ok(()),
        }
    }

    /// Takes the places of a table's grains.
    fn grains_of(
        &self,
        io: &mut dyn Findings,
        check: &mut Check,
        used: &mut Occupied,
        tables: &mut Tables,
        table: &Table<'_>,
    ) -> Result<(), Error> {
        let grains = self.grains;
        let base = table.index.saturating_mul(grains.table_entries);
        let mut found = Vec::new();
        for (entry, index) in grains.entries(table.bytes).into_iter().zip(base..) {
            let start = index.saturating_mul(grains.grain_size);
            // Entries past the end of the disk are nobody's.
            let len = grains.grain_size.min(grains.len.saturating_sub(start));
            match grains.grain_place(entry) {
                Place::Nowhere | Place::Zero => {}
                _ if len == 0 => {}
                Place::Broken if used.is_first() => {
                    check.corrupt(io, VmdkFinding::GrainUnreadable { sector: self.sector_of(index) })?;
                }
                Place::Broken => {}
                Place::At(offset) => found.push(Grain { index, offset, len }),
            }
        }
        if grains.is_compressed() {
            for some in found.chunks_mut(MARKERS) {
                self.markers(io, check, used, tables, some)?;
            }
        }
        for Grain { index, offset, len } in found {
            let sector = self.sector_of(index);
            if offset.saturating_add(len) > self.file_len {
                if used.is_first() {
                    check.corrupt(io, VmdkFinding::GrainPastEnd { sector })?;
                }
            } else if let Some(at) = used.take(offset / SECTOR_LEN, len.div_ceil(SECTOR_LEN)) {
                check.corrupt(io, VmdkFinding::GrainShared { sector, at })?;
            }
        }
        Ok(())
    }

    /// Reads the markers of compressed grains, which are as long as these say.
    fn markers(
        &self,
        io: &mut dyn Findings,
        check: &mut Check,
        used: &Occupied,
        tables: &mut Tables,
        found: &mut [Grain],
    ) -> Result<(), Error> {
        let Form::Hosted { compressed: Some(MARKER_LEN), .. } = self.grains.form else {
            // Only the stream tells where it ends.
            found.iter_mut().for_each(|grain| grain.len = 1);
            return Ok(());
        };
        let offsets: Vec<u64> = found.iter().map(|grain| grain.offset).collect();
        tables.take(SECTOR_LEN.saturating_mul(offsets.len() as u64))?;
        let read = io.read_each(self.grains.disk, &offsets, usize::try_from(MARKER_LEN).unwrap_or(0))?;
        for (grain, bytes) in found.iter_mut().zip(read) {
            let sector = self.sector_of(grain.index);
            grain.len = 1;
            let Some((place, len)) = marker(&bytes).filter(|_| grain.offset < self.file_len) else { continue };
            let whole = MARKER_LEN.saturating_add(len.into());
            let is_len = len > 0 && grain.offset.saturating_add(whole) <= self.file_len;
            if is_len {
                grain.len = whole;
            }
            if used.is_first() && place != grain.index.saturating_mul(self.grains.grain_sectors()) {
                check.corrupt(io, VmdkFinding::MarkerPlace { sector, found: place })?;
            }
            if used.is_first() && !is_len {
                check.corrupt(io, VmdkFinding::MarkerLen { sector, len })?;
            }
        }
        Ok(())
    }

    fn sector_of(&self, grain: u64) -> u64 {
        self.start.saturating_add(grain.saturating_mul(self.grains.grain_sectors()))
    }
}

/// A grain that is in the file.
struct Grain {
    /// Its number in the extent.
    index: u64,
    /// First byte.
    offset: u64,
    /// Bytes of the file that are its own.
    len: u64,
}

/// What a marker says: a sector, and bytes of a stream.
fn marker(bytes: &[u8]) -> Option<(u64, u32)> {
    let (place, rest) = bytes.split_first_chunk::<8>()?;
    let len = rest.first_chunk::<4>()?;
    Some((u64::from_le_bytes(*place), u32::from_le_bytes(*len)))
}
