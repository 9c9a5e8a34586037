//! Where units go.

use super::UNIT;
use super::ledger::{Content, Ledger};
use super::stretch::{Mark, Stretch, Zeros};
use super::zero::{data_runs, is_zero};
use crate::align;
use crate::codec::{Codecs, Encoder};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{Error, WriteError};
use instar_abi::reply::CopyRange;
use instar_abi::request::{Compression, DiskId};
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
    /// What there is for compressed clusters, those of the sources included.
    pub codecs: Codecs,
    /// What zeros become that are found only after reading.
    pub zeros: Zeros,
    /// What its stretches are made of where it matters what belongs to them, in bytes.
    pub granule: Option<u64>,
}

/// What differs between formats.
pub enum Format {
    /// A unit goes where it is on the disk.
    Raw,
    /// Clusters are handed out in order.
    Qcow2 {
        /// What content is allocated by, in bytes.
        granule: u64,
        /// Bytes of a cluster and its codec, where clusters are compressed.
        compress: Option<(u64, Compression)>,
        /// The external data file.
        data_disk: Option<DiskId>,
        /// Who gets which.
        ledger: Box<Mutex<Ledger>>,
    },
}

/// What is left of a stretch: units that are written as soon as their place is known.
pub struct Kept {
    number: u64,
    units: Vec<KeptUnit>,
    /// What the launcher copies, where no ledger knows of it.
    copies: Vec<CopyRange>,
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
    /// What the launcher is to copy.
    pub copies: Vec<CopyRange>,
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
    /// What a stretch is made of, in bytes: a cluster that is compressed, or a granule, is in one stretch.
    pub fn group(&self) -> u64 {
        let compress = match &self.format {
            Format::Qcow2 { compress: Some((cluster_size, _)), .. } => *cluster_size,
            _ => 0,
        };
        compress.max(self.granule.unwrap_or(0)).max(UNIT)
    }

    /// The codec of clusters that are written.
    pub fn compression(&self) -> Option<Compression> {
        match &self.format {
            Format::Qcow2 { compress, .. } => compress.map(|(_, compression)| compression),
            Format::Raw => None,
        }
    }

    /// Decides which parts of a stretch are written; the buffers of units without any go to `unused`.
    ///
    /// # Errors
    /// [`WriteError::Capacity`].
    pub fn keep(
        &self,
        mut stretch: Stretch,
        units: Vec<Vec<u8>>,
        encoder: &mut Encoder,
        unused: &mut Vec<Vec<u8>>,
    ) -> Result<Kept, Error> {
        let (covered, marks) = (core::mem::take(&mut stretch.covered), core::mem::take(&mut stretch.marks));
        let Format::Qcow2 { compress, ledger, .. } = &self.format else {
            let mut kept = self.keep_plain(stretch, units, &covered, unused)?;
            kept.copies = marks.iter().filter_map(|(range, mark)| self.copy(range, *mark)).collect();
            return Ok(kept);
        };
        let (kept, mut content) = match compress {
            Some((cluster_size, _)) => self.compress(stretch, units, &covered, *cluster_size, encoder, unused),
            None => {
                let kept = self.keep_plain(stretch, units, &covered, unused)?;
                let at = |unit: &KeptUnit, at: usize| unit.start.saturating_add(at as u64);
                let plain = |unit, run: &Range<usize>| Content::Plain(at(unit, run.start)..at(unit, run.end));
                let content = kept.units.iter().flat_map(|unit| unit.runs.iter().map(move |run| plain(unit, run)));
                let content = content.collect();
                (kept, content)
            }
        };
        if let (Zeros::Mark(mark), Some(granule)) = (self.zeros, self.granule) {
            let empty = empty_parts(&covered, &content, granule);
            content.extend(empty.into_iter().map(|range| Content::Marked(range, mark)));
        }
        content.extend(marks.into_iter().map(|(range, mark)| Content::Marked(range, mark)));
        content.sort_unstable_by_key(Content::start);
        ledger.lock().deposit(kept.number, content)?;
        Ok(kept)
    }

    /// Keeps those parts of units that are written as they are.
    fn keep_plain(
        &self,
        stretch: Stretch,
        units: Vec<Vec<u8>>,
        covered: &[Range<u64>],
        unused: &mut Vec<Vec<u8>>,
    ) -> Result<Kept, Error> {
        let mut kept = Kept { number: stretch.number, units: Vec::with_capacity(units.len()), copies: Vec::new() };
        for (start, bytes) in stretch.units.into_iter().zip(units) {
            let runs = if self.granule.is_some() {
                self.covered_runs(start, &bytes, covered)?
            } else {
                self.runs(start, &bytes)?
            };
            if runs.is_empty() {
                unused.push(bytes);
            } else {
                kept.units.push(KeptUnit { start, bytes, runs });
            }
        }
        Ok(kept)
    }

    fn copy(&self, range: &Range<u64>, mark: Mark) -> Option<CopyRange> {
        let Mark::Copy { disk: from, offset: from_offset } = mark else { return None };
        let len = range.end.saturating_sub(range.start);
        Some(CopyRange { from, from_offset, to: self.disk, to_offset: range.start, len })
    }

    /// As [`Target::runs`], of the covered parts of a unit only.
    fn covered_runs(&self, start: u64, bytes: &[u8], covered: &[Range<u64>]) -> Result<Vec<Range<usize>>, Error> {
        let end = start.saturating_add(bytes.len() as u64);
        let within = |at: u64| usize::try_from(at.clamp(start, end).saturating_sub(start)).unwrap_or(0);
        let mut all = Vec::new();
        let first = covered.partition_point(|range| range.end <= start);
        for range in covered.get(first..).unwrap_or_default().iter().take_while(|range| range.start < end) {
            let (from, to) = (within(range.start), within(range.end));
            let to = to.next_multiple_of(SECTOR_LEN as usize);
            let part = bytes.get(from..to).unwrap_or_default();
            let runs = self.runs(start.saturating_add(from as u64), part)?;
            all.extend(runs.into_iter().map(|run| from.saturating_add(run.start)..from.saturating_add(run.end)));
        }
        Ok(all)
    }

    /// Compresses a stretch cluster by cluster; units are kept for what does not become smaller.
    fn compress(
        &self,
        stretch: Stretch,
        units: Vec<Vec<u8>>,
        covered: &[Range<u64>],
        cluster_size: u64,
        encoder: &mut Encoder,
        unused: &mut Vec<Vec<u8>>,
    ) -> (Kept, Vec<Content>) {
        let mut kept = Kept { number: stretch.number, units: Vec::new(), copies: Vec::new() };
        let mut content = Vec::new();
        let is_covered = |start: u64| self.granule.is_none() || covered.iter().any(|range| range.contains(&start));
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
                    let is_skipped = start >= self.virtual_size || !is_covered(start);
                    if is_skipped || (self.sparse_len != 0 && is_zero(cluster)) {
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

    /// The parts of a unit or of a part of one that are written, whole granules of the format.
    fn runs(&self, start: u64, bytes: &[u8]) -> Result<Vec<Range<usize>>, Error> {
        let left = self.virtual_size.saturating_sub(start);
        let room = bytes.len() as u64;
        let (granule, rounding) = match &self.format {
            Format::Raw => {
                let end = start.saturating_add(left.min(room));
                if end > self.capacity {
                    return Err(Error::Write(WriteError::Capacity { disk: self.disk, end }));
                }
                (SECTOR_LEN, SECTOR_LEN)
            }
            // A data file ends with the disk.
            Format::Qcow2 { granule, data_disk: Some(_), .. } => ((*granule).min(UNIT), SECTOR_LEN),
            Format::Qcow2 { granule, .. } => ((*granule).min(UNIT), (*granule).min(UNIT)),
        };
        let len = usize::try_from(align::up(left, rounding).unwrap_or(left).min(room)).unwrap_or(0);
        let bytes = bytes.get(..len).unwrap_or_default();
        if self.sparse_len == 0 {
            return Ok(Vec::from_iter((len > 0).then_some(0..len)));
        }
        if granule >= room {
            return Ok(Vec::from_iter((!is_zero(bytes)).then_some(0..len)));
        }
        let runs = data_runs(bytes, usize::try_from(self.sparse_len).unwrap_or(usize::MAX));
        Ok(to_granules(runs, usize::try_from(granule).unwrap_or(usize::MAX), len))
    }

    /// The writes of a stretch, and in `unused` the buffers that nothing is written from; the stretch again while its
    /// clusters are not known.
    ///
    /// # Errors
    /// No failure: the stretch itself.
    pub fn writes(&self, kept: Kept, unused: &mut Vec<Vec<u8>>) -> Result<Writes, Kept> {
        let content_disk = match &self.format {
            Format::Qcow2 { data_disk: Some(disk), .. } => *disk,
            _ => self.disk,
        };
        let mut joined = Joined { disk: content_disk, requests: Vec::new() };
        let mut tables = Vec::new();
        let mut copies = Vec::new();
        match &self.format {
            Format::Raw => {
                copies = kept.copies;
                for unit in kept.units {
                    let places = unit.runs.iter().map(|run| (run.clone(), unit.start.saturating_add(run.start as u64)));
                    let places = places.collect();
                    joined.push_unit(unit.bytes, places, unused);
                }
            }
            Format::Qcow2 { ledger, .. } => {
                let Some(places) = ledger.lock().collect(kept.number) else { return Err(kept) };
                tables.extend(places.complete.into_iter().map(|(at, bytes)| write(self.disk, at, bytes)));
                copies.extend(places.copies.into_iter().map(|(from, from_offset, to_offset, len)| CopyRange {
                    from,
                    from_offset,
                    to: content_disk,
                    to_offset,
                    len,
                }));
                let mut placed = places.placed.into_iter();
                for KeptUnit { bytes, runs, .. } in kept.units {
                    let mut places = Vec::with_capacity(runs.len());
                    for (run, parts) in runs.into_iter().zip(&mut placed) {
                        let mut at = run.start;
                        for (offset, len) in parts {
                            let end = at.saturating_add(usize::try_from(len).unwrap_or(0));
                            places.push((at..end, offset));
                            at = end;
                        }
                    }
                    joined.push_unit(bytes, places, unused);
                }
            }
        }
        Ok(Writes { content: joined.requests, tables, copies })
    }
}

/// What is left of covered ranges without the granules that have content; both are ascending.
fn empty_parts(covered: &[Range<u64>], content: &[Content], granule: u64) -> Vec<Range<u64>> {
    let mut placed = content.iter().filter_map(|content| match content {
        Content::Plain(range) => Some(range.clone()),
        // A compressed cluster is a granule.
        Content::Stream(start, _) => Some(*start..start.saturating_add(granule)),
        Content::Marked(..) => None,
    });
    let mut next = placed.next();
    let mut empty = Vec::new();
    for range in covered {
        let mut at = range.start;
        while let Some(content) = next.clone().filter(|content| content.start < range.end) {
            let start = align::down(content.start, granule);
            if at < start {
                empty.push(at..start);
            }
            at = at.max(align::up(content.end, granule).unwrap_or(u64::MAX));
            next = placed.next();
        }
        if at < range.end {
            empty.push(at..range.end);
        }
    }
    empty
}

/// Runs widened to whole granules, a power of two; the last one ends with the unit.
fn to_granules(runs: Vec<Range<usize>>, granule: usize, len: usize) -> Vec<Range<usize>> {
    let mut wide: Vec<Range<usize>> = Vec::with_capacity(runs.len());
    for run in runs {
        let start = run.start.saturating_sub(run.start.checked_rem(granule).unwrap_or(0));
        let end = run.end.checked_next_multiple_of(granule).unwrap_or(run.end).min(len);
        match wide.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => wide.push(start..end),
        }
    }
    wide
}
