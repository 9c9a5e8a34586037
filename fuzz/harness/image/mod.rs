//! Images of fuzz input behind the parsers' [`ReadAt`].

use instar_abi::check::Finding;
use instar_abi::error::{Error, ReadError};
use instar_abi::request::{self, DiskId, HostExtent};
use instar_parsers::image::Findings;
use instar_parsers::store::{Budget, ReadAt};
use std::borrow::Cow;
use std::ops::Range;

/// Reads of one input; an honest parser needs a few thousand.
pub const CALLS_MAX: u64 = 1_000_000;
/// Reads that a parser may still try once its budget has refused one.
pub const READS_AFTER_REFUSAL_MAX: u32 = 64;
/// What one input may use up: as `info` has it, with fewer steps so that a slow input is a finding sooner.
pub const BUDGET: request::Budget =
    request::Budget { heap_bytes: 64 << 20, read_bytes: 64 << 20, steps: 1 << 20, depth: 16 };

/// The unit in which a disk is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sectors {
    /// Any byte.
    Bytes,
    /// 512 bytes.
    #[default]
    Of512,
    /// 4096 bytes.
    Of4096,
}

impl Sectors {
    const fn len(self) -> u64 {
        match self {
            Self::Bytes => 1,
            Self::Of512 => 512,
            Self::Of4096 => 4096,
        }
    }
}

/// A sector past the end of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastEnd;

/// A disk of fuzz input: pieces at their places, zeros between them, and a length of its own.
#[derive(Clone, Debug, Default)]
pub struct FuzzImage<'a> {
    pieces: Vec<(u64, Cow<'a, [u8]>)>, // later ones lie over earlier ones
    len: u64,
    sectors: Sectors,
}

impl<'a> FuzzImage<'a> {
    /// A disk of just these bytes.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self::placed(data.len() as u64).with(0, data)
    }

    /// An empty disk of `len` bytes.
    #[must_use]
    pub fn placed(len: u64) -> Self {
        Self { pieces: Vec::new(), len, sectors: Sectors::default() }
    }

    /// The disk with `bytes` at `offset`, over what was there. The length stays.
    #[must_use]
    pub fn with(mut self, offset: u64, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        self.pieces.push((offset, bytes.into()));
        self
    }

    /// The disk with another length.
    #[must_use]
    pub fn with_len(mut self, len: u64) -> Self {
        self.len = len;
        self
    }

    /// The disk with other sectors.
    #[must_use]
    pub fn with_sectors(mut self, sectors: Sectors) -> Self {
        self.sectors = sectors;
        self
    }

    /// Bytes of the disk.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buf` from `offset`: zeros where nothing is placed and past the end.
    pub fn fill(&self, offset: u64, buf: &mut [u8]) {
        buf.fill(0);
        let end = offset.saturating_add(buf.len() as u64).min(self.len);
        for (start, bytes) in &self.pieces {
            let from = offset.max(*start);
            let to = end.min(start.saturating_add(bytes.len() as u64));
            if from < to {
                let len = (to - from) as usize;
                let (at, within) = ((from - offset) as usize, (from - start) as usize);
                buf[at..at + len].copy_from_slice(&bytes[within..within + len]);
            }
        }
    }

    /// The big-endian number at `offset`, of bytes that are zero past the end.
    #[must_use]
    pub fn be64(&self, offset: u64) -> u64 {
        let mut raw = [0; 8];
        self.fill(offset, &mut raw);
        u64::from_be_bytes(raw)
    }

    /// Reads one sector, zero-padded where the disk ends within it.
    ///
    /// # Errors
    /// [`PastEnd`]; `buf` is zeros then.
    pub fn read_sector(&self, index: u64, buf: &mut [u8]) -> Result<(), PastEnd> {
        buf.fill(0);
        let start = index.checked_mul(self.sectors.len()).filter(|start| *start < self.len).ok_or(PastEnd)?;
        self.fill(start, buf);
        Ok(())
    }
}

/// The disks of one input behind [`ReadAt`]: counts, bounds, and faults on purpose.
pub struct FuzzReader<'a> {
    disks: Vec<FuzzImage<'a>>,
    budget: Budget,
    calls: u64,
    after_refusal: Option<u32>,
    fault: Option<u64>,
    told: u64,
}

impl<'a> FuzzReader<'a> {
    /// A reader of these disks with the common budget.
    #[must_use]
    pub fn new(disks: Vec<FuzzImage<'a>>) -> Self {
        Self { disks, budget: BUDGET.into(), calls: 0, after_refusal: None, fault: None, told: 0 }
    }

    /// A reader with another budget.
    #[must_use]
    pub fn with_budget(mut self, budget: request::Budget) -> Self {
        self.budget = budget.into();
        self
    }

    /// A reader whose n-th read, counted from 0, fails with an I/O error.
    #[must_use]
    pub fn with_fault(mut self, n: u64) -> Self {
        self.fault = Some(n);
        self
    }

    /// Takes other disks; counts and budget start anew.
    pub fn replace(&mut self, disks: Vec<FuzzImage<'a>>) {
        *self = Self::new(disks);
    }

    /// Reads so far.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// Findings of checks so far.
    #[must_use]
    pub const fn told(&self) -> u64 {
        self.told
    }

    fn draw(&mut self, bytes: u64) -> Result<(), Error> {
        let drawn = self.budget.take_read(bytes);
        if drawn.is_err() {
            let count = self.after_refusal.map_or(0, |count| count + 1);
            self.after_refusal = Some(count);
            assert!(count <= READS_AFTER_REFUSAL_MAX, "reads on although its budget is gone");
        }
        drawn
    }
}

impl ReadAt for FuzzReader<'_> {
    fn len(&self, disk: DiskId) -> u64 {
        self.disks.get(disk.0 as usize).map_or(0, FuzzImage::len)
    }

    fn read_at(&mut self, disk: DiskId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let number = self.calls;
        self.calls += 1;
        assert!(self.calls <= CALLS_MAX, "more than {CALLS_MAX} reads");
        let (len, disk_len) = (buf.len() as u64, self.len(disk));
        let out = Error::Read(ReadError::OutOfRange { disk, offset, len, disk_len });
        let end = offset.checked_add(len).filter(|end| *end <= disk_len).ok_or(out.clone())?;
        let image = self.disks.get(disk.0 as usize).ok_or(out)?;
        let unit = image.sectors.len();
        let (first, last) = (offset / unit, end.div_ceil(unit));
        self.draw((last - first).saturating_mul(unit))?;
        if self.fault == Some(number) {
            return Err(Error::Read(ReadError::Io { disk, offset }));
        }
        let image = &self.disks[disk.0 as usize];
        if unit == 1 {
            image.fill(offset, buf);
            return Ok(());
        }
        let mut sector = [0; 4096];
        let sector = &mut sector[..unit as usize];
        for index in first..last {
            image.read_sector(index, sector).expect("a range within the disk has its sectors there");
            let start = index * unit;
            let from = offset.max(start);
            let to = end.min(start.saturating_add(unit));
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&sector[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }

    fn prefetch(&mut self, ranges: &[(DiskId, Range<u64>)]) -> Result<(), Error> {
        assert!(ranges.len() <= 64, "prefetches {} ranges at once", ranges.len());
        Ok(())
    }

    fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    fn host_data(&self, _: DiskId) -> Option<&[HostExtent]> {
        None
    }

    fn host_allocated(&self, _: DiskId) -> Option<u64> {
        None
    }
}

impl Findings for FuzzReader<'_> {
    fn read_each(&mut self, disk: DiskId, offsets: &[u64], len: usize) -> Result<Vec<Vec<u8>>, Error> {
        assert!(offsets.len() <= 64 && len <= 4 << 20, "reads {} times {len} bytes at once", offsets.len());
        let read = |offset: &u64| {
            let mut bytes = vec![0; len];
            (self as &mut dyn ReadAt).read_padded(disk, *offset, &mut bytes)?;
            Ok(bytes)
        };
        offsets.iter().map(read).collect()
    }

    fn tell_often(&mut self, _: Finding, times: u64) -> Result<(), Error> {
        self.told = self.told.saturating_add(times);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
