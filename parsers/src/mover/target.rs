//! Where units go.

use super::UNIT;
use super::ledger::{Content, Ledger};
use super::stretch::Stretch;
use super::zero::{data_runs, is_zero};
use crate::align;
use crate::codec::Encoder;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{Error, WriteError};
use instar_abi::request::DiskId;
use instar_io::{Action, BlockRequest, SECTOR_LEN};
use spin::Mutex;

/// Most bytes of one write.
const WRITE_LEN_MAX: u64 = super::STRETCH_UNITS as u64 * UNIT;

/// A new image.
pub struct Target {
    /// Its disk.
    pub disk: DiskId,
    /// Bytes that the disk may come to hold.
    pub capacity: u64,
    /// Virtual size in bytes.
    pub virtual_size: u64,
    /// Bytes that it had before, 0 for a new one.
    pub old_len: u64,
    /// Shortest run of zeros that becomes a hole; 0: none does.
    pub sparse_len: u32,
    /// Its format.
    pub format: Format,
}

/// What differs between formats.
pub enum Format {
    /// A unit goes where it is on the disk.
    Raw,
    /// Clusters are handed out in order.
    Qcow2 {
        /// What content is allocated by, in bytes.
        granule: u64,
        /// Bytes of a cluster, where clusters are compressed.
        compress: Option<u64>,
        /// Who gets which.
        ledger: Box<Mutex<Ledger>>,
    },
}

/// What is left of a stretch: units that are written as soon as their place is known.
pub struct Kept {
    number: u64,
    units: Vec<KeptUnit>,
}

/// A unit, and the parts of it that are written.
struct KeptUnit {
    start: u64,
    bytes: Vec<u8>,
    runs: Vec<Range<usize>>,
}

/// What is written for a stretch.
pub struct Writes {
    /// Units and parts of units: their buffers are the lane's.
    pub content: Vec<BlockRequest>,
    /// Tables that are complete: their buffers are not.
    pub tables: Vec<BlockRequest>,
}

fn write(disk: DiskId, offset: u64, bytes: Vec<u8>) -> BlockRequest {
    BlockRequest { disk: disk.0, action: Action::Write, offset, segments: vec![bytes] }
}

/// Writes of neighbouring bytes, joined.
struct Joined {
    disk: DiskId,
    requests: Vec<BlockRequest>,
}

impl Joined {
    fn push(&mut self, offset: u64, bytes: Vec<u8>) {
        if let Some(last) = self.requests.last_mut()
            && last.offset.checked_add(last.len()) == Some(offset)
            && last.len() < WRITE_LEN_MAX
        {
            last.segments.push(bytes);
            return;
        }
        self.requests.push(write(self.disk, offset, bytes));
    }

    /// Parts of a unit, each with its place: the unit's own buffer where that is all of it, or copies.
    fn push_unit(&mut self, bytes: Vec<u8>, places: Vec<(Range<usize>, u64)>, unused: &mut Vec<Vec<u8>>) {
        if let [(run, offset)] = places.as_slice()
            && run.len() == bytes.len()
        {
            self.push(*offset, bytes);
            return;
        }
        for (run, offset) in places {
            self.push(offset, bytes.get(run).unwrap_or_default().to_vec());
        }
        unused.push(bytes);
    }
}

impl Target {
    /// What a stretch is made of, in bytes: a cluster that is compressed is in one stretch.
    pub fn group(&self) -> u64 {
        match &self.format {
            Format::Qcow2 { compress: Some(cluster_size), .. } => (*cluster_size).max(UNIT),
            _ => UNIT,
        }
    }

    /// Decides which parts of a stretch are written; the buffers of units without any go to `unused`.
    ///
    /// # Errors
    /// [`WriteError::Capacity`].
    pub fn keep(
        &self,
        stretch: Stretch,
        units: Vec<Vec<u8>>,
        encoder: &mut Encoder,
        unused: &mut Vec<Vec<u8>>,
    ) -> Result<Kept, Error> {
        if let Format::Qcow2 { compress: Some(cluster_size), ledger, .. } = &self.format {
            let (kept, content) = self.compress(stretch, units, *cluster_size, encoder, unused);
            ledger.lock().deposit(kept.number, content)?;
            return Ok(kept);
        }
        let mut kept = Kept { number: stretch.number, units: Vec::with_capacity(units.len()) };
        for (start, bytes) in stretch.units.into_iter().zip(units) {
            let runs = self.runs(start, &bytes)?;
            if runs.is_empty() {
                unused.push(bytes);
            } else {
                kept.units.push(KeptUnit { start, bytes, runs });
            }
        }
        if let Format::Qcow2 { ledger, .. } = &self.format {
            let on_disk = |unit: &KeptUnit, run: &Range<usize>| {
                unit.start.saturating_add(run.start as u64)..unit.start.saturating_add(run.end as u64)
            };
            let on_disk = |unit, run| Content::Plain(on_disk(unit, run));
            let content = kept.units.iter().flat_map(|unit| unit.runs.iter().map(move |run| on_disk(unit, run)));
            ledger.lock().deposit(kept.number, content.collect())?;
        }
        Ok(kept)
    }

    /// Compresses a stretch cluster by cluster; units are kept for what does not become smaller.
    fn compress(
        &self,
        stretch: Stretch,
        units: Vec<Vec<u8>>,
        cluster_size: u64,
        encoder: &mut Encoder,
        unused: &mut Vec<Vec<u8>>,
    ) -> (Kept, Vec<Content>) {
        let mut kept = Kept { number: stretch.number, units: Vec::new() };
        let mut content = Vec::new();
        let len = usize::try_from(cluster_size.min(UNIT)).unwrap_or(usize::MAX);
        let units_of_cluster = usize::try_from(cluster_size.div_ceil(UNIT)).unwrap_or(1).max(1);
        let mut units = stretch.units.into_iter().zip(units).peekable();
        while units.peek().is_some() {
            let group: Vec<(u64, Vec<u8>)> = units.by_ref().take(units_of_cluster).collect();
            if let [(start, unit)] = group.as_slice() {
                let mut runs = Vec::new();
                for (index, cluster) in unit.chunks(len).enumerate() {
                    let at = index.saturating_mul(len);
                    let start = start.saturating_add(at as u64);
                    if start >= self.virtual_size || (self.sparse_len != 0 && is_zero(cluster)) {
                        continue;
                    }
                    content.push(match encoder.encode(cluster) {
                        Some(stream) => Content::Stream(start, stream),
                        None => {
                            runs.push(at..at.saturating_add(len));
                            Content::Plain(start..start.saturating_add(len as u64))
                        }
                    });
                }
                let plain = group.into_iter().map(|(start, bytes)| KeptUnit { start, bytes, runs: runs.clone() });
                if runs.is_empty() {
                    unused.extend(plain.map(|unit| unit.bytes))
                } else {
                    kept.units.extend(plain)
                }
                continue;
            }
            let start = group.first().map_or(0, |(start, _)| *start);
            if self.sparse_len != 0 && group.iter().all(|(_, unit)| is_zero(unit)) {
                unused.extend(group.into_iter().map(|(_, unit)| unit));
                continue;
            }
            let cluster: Vec<u8> = group.iter().flat_map(|(_, unit)| unit.iter().copied()).collect();
            if let Some(stream) = encoder.encode(&cluster) {
                content.push(Content::Stream(start, stream));
                unused.extend(group.into_iter().map(|(_, unit)| unit));
            } else {
                for (start, bytes) in group {
                    content.push(Content::Plain(start..start.saturating_add(UNIT)));
                    kept.units.push(KeptUnit { start, runs: core::iter::once(0..bytes.len()).collect(), bytes });
                }
            }
        }
        (kept, content)
    }

    /// The parts of a unit that are written, whole granules of the format.
    fn runs(&self, start: u64, bytes: &[u8]) -> Result<Vec<Range<usize>>, Error> {
        let left = self.virtual_size.saturating_sub(start);
        let granule = match &self.format {
            Format::Raw => {
                let end = start.saturating_add(left.min(UNIT));
                if end > self.capacity {
                    return Err(Error::Write(WriteError::Capacity { disk: self.disk, end }));
                }
                SECTOR_LEN
            }
            Format::Qcow2 { granule, .. } => (*granule).min(UNIT),
        };
        let len = usize::try_from(align::up(left, granule).unwrap_or(left).min(UNIT)).unwrap_or(0);
        let bytes = bytes.get(..len).unwrap_or_default();
        if self.sparse_len == 0 {
            return Ok(Vec::from_iter((len > 0).then_some(0..len)));
        }
        if granule == UNIT {
            return Ok(Vec::from_iter((!is_zero(bytes)).then_some(0..len)));
        }
        let runs = data_runs(bytes, usize::try_from(self.sparse_len).unwrap_or(usize::MAX));
        Ok(to_granules(runs, usize::try_from(granule).unwrap_or(usize::MAX)))
    }

    /// The writes of a stretch, and in `unused` the buffers that nothing is written from; the stretch again while its
    /// clusters are not known.
    ///
    /// # Errors
    /// No failure: the stretch itself.
    pub fn writes(&self, kept: Kept, unused: &mut Vec<Vec<u8>>) -> Result<Writes, Kept> {
        let mut joined = Joined { disk: self.disk, requests: Vec::new() };
        let mut tables = Vec::new();
        match &self.format {
            Format::Raw => {
                for unit in kept.units {
                    let places = unit.runs.iter().map(|run| (run.clone(), unit.start.saturating_add(run.start as u64)));
                    let places = places.collect();
                    joined.push_unit(unit.bytes, places, unused);
                }
            }
            Format::Qcow2 { ledger, .. } => {
                let Some(places) = ledger.lock().collect(kept.number) else { return Err(kept) };
                tables.extend(places.packed.into_iter().map(|(at, bytes)| write(self.disk, at, bytes)));
                let mut placed = places.placed.into_iter();
                for KeptUnit { bytes, runs, .. } in kept.units {
                    let mut places = Vec::with_capacity(runs.len());
                    for (run, placed) in runs.into_iter().zip(&mut placed) {
                        let mut at = run.start;
                        for (offset, len) in placed.parts {
                            let end = at.saturating_add(usize::try_from(len).unwrap_or(0));
                            places.push((at..end, offset));
                            at = end;
                        }
                        tables.extend(placed.tables.into_iter().map(|(at, table)| write(self.disk, at, table)));
                    }
                    joined.push_unit(bytes, places, unused);
                }
            }
        }
        Ok(Writes { content: joined.requests, tables })
    }
}

/// Runs widened to whole granules, a power of two.
fn to_granules(runs: Vec<Range<usize>>, granule: usize) -> Vec<Range<usize>> {
    let mut wide: Vec<Range<usize>> = Vec::with_capacity(runs.len());
    for run in runs {
        let start = run.start.saturating_sub(run.start.checked_rem(granule).unwrap_or(0));
        let end = run.end.checked_next_multiple_of(granule).unwrap_or(run.end);
        match wide.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => wide.push(start..end),
        }
    }
    wide
}
