//! Cached windows over a lane's queue.

use super::{Budget, Queue, ReadAt, check_range};
use crate::align;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::Error;
use instar_abi::request::{Disk, DiskId, HostExtent};
use instar_io::{Action, BlockRequest, Blocks, SECTOR_LEN};

/// Bytes of the window that a miss fetches: the entries of a 16 KiB table piece map 128 MiB of a disk.
pub const WINDOW_LEN: u64 = 16 << 10;
/// Windows kept for each disk: an upper table, a lower one, and what is fetched ahead of it. With fewer, a chain whose layers
/// are asked in turns reads the same windows again for each cluster.
const WINDOWS_PER_DISK: usize = 8;
/// Fewest windows kept, 512 KiB in all.
const WINDOWS_MIN: usize = 32;
/// Most windows kept, 8 MiB in all: those of a chain of 64 layers.
const WINDOWS_MAX: usize = 512;
/// Reads of at least this many bytes go past the cache.
const DIRECT_LEN: usize = 4 * WINDOW_LEN as usize;
/// Most bytes of one request past the cache.
const DIRECT_LEN_MAX: u64 = 1 << 20;

/// A piece of a disk, sector-aligned.
struct Window {
    disk: DiskId,
    start: u64,
    bytes: Vec<u8>,
    used: u64,
}

impl Window {
    /// The cached bytes from `offset` on, if it lies within the window.
    fn from(&self, disk: DiskId, offset: u64) -> Option<&[u8]> {
        let within = offset.checked_sub(self.start).filter(|_| self.disk == disk)?;
        self.bytes.get(usize::try_from(within).ok()?..).filter(|bytes| !bytes.is_empty())
    }
}

/// Windows read before, least recently used ones replaced first. Outlives the [`Store`]s over it.
#[derive(Default)]
pub struct Cache {
    windows: Vec<Window>,
    now: u64,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub const fn new() -> Self {
        Self { windows: Vec::new(), now: 0 }
    }

    /// Copies what a window has of `offset..` to the front of `buf`; bytes copied, 0 on a miss.
    fn copy(&mut self, disk: DiskId, offset: u64, buf: &mut [u8]) -> usize {
        self.now = self.now.wrapping_add(1);
        for (index, window) in self.windows.iter_mut().enumerate() {
            if let Some(bytes) = window.from(disk, offset) {
                let len = bytes.len().min(buf.len());
                if let (Some(to), Some(from)) = (buf.get_mut(..len), bytes.get(..len)) {
                    to.copy_from_slice(from);
                }
                window.used = self.now;
                // What is asked for again is found at once, however many windows there are.
                self.windows.swap(0, index);
                return len;
            }
        }
        0
    }

    /// Keeps a window, in place of the one that was used longest ago where there are `max`.
    fn insert(&mut self, max: usize, disk: DiskId, start: u64, bytes: Vec<u8>) {
        let window = Window { disk, start, bytes, used: self.now };
        if self.windows.len() < max {
            self.windows.push(window);
        } else if let Some(oldest) = self.windows.iter_mut().min_by_key(|window| window.used) {
            *oldest = window;
        }
    }
}

/// [`ReadAt`] over a lane's queue.
pub struct Store<'a, 'q, B: Blocks> {
    /// The queue; other requests may be in flight on it.
    pub queue: &'a mut Queue<'q, B>,
    /// What has been read before.
    pub cache: &'a mut Cache,
    /// What may still be used up.
    pub budget: &'a mut Budget,
    /// The job's disks.
    pub disks: &'a [Disk],
}

impl<B: Blocks> Store<'_, '_, B> {
    fn disk(&self, disk: DiskId) -> Option<&Disk> {
        self.disks.get(usize::try_from(disk.0).ok()?)
    }

    fn windows_max(&self) -> usize {
        self.disks.len().saturating_mul(WINDOWS_PER_DISK).clamp(WINDOWS_MIN, WINDOWS_MAX)
    }

    /// Fetches sector-aligned ranges in one batch.
    fn fetch(&mut self, ranges: &[(DiskId, Range<u64>)]) -> Result<Vec<Vec<u8>>, Error> {
        let mut tokens = Vec::with_capacity(ranges.len());
        for (disk, range) in ranges {
            let len = range.end.saturating_sub(range.start);
            self.budget.take_read(len)?;
            let segments = vec![vec![0; usize::try_from(len).unwrap_or(0)]];
            let request = BlockRequest { disk: disk.0, action: Action::Read, offset: range.start, segments };
            tokens.push(self.queue.submit(request)?);
        }
        self.queue.kick();
        // Every token is waited for, also after an error: nothing of ours stays in flight.
        let mut fetched = Ok(Vec::with_capacity(tokens.len()));
        for token in tokens {
            match (self.queue.wait(token), &mut fetched) {
                (Ok(segments), Ok(fetched)) => fetched.push(segments.into_iter().next().unwrap_or_default()),
                (Err(error), Ok(_)) => fetched = Err(error),
                (_, Err(_)) => {}
            }
        }
        fetched
    }

    /// The `len` bytes at each of `offsets`, past the cache and in one batch; what lies past the end of the disk reads as
    /// zeros. The caller bounds both.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`], but never out of range.
    pub fn read_each(&mut self, disk: DiskId, offsets: &[u64], len: usize) -> Result<Vec<Vec<u8>>, Error> {
        self.budget.take_steps(1)?;
        let disk_end = up_to_sector(self.len(disk));
        let mut all = Vec::with_capacity(offsets.len());
        if len as u64 > DIRECT_LEN_MAX {
            for offset in offsets {
                let mut bytes = vec![0; len];
                (self as &mut dyn ReadAt).read_padded(disk, *offset, &mut bytes)?;
                all.push(bytes);
            }
            return Ok(all);
        }
        let range = |offset: u64| {
            let end = up_to_sector(offset.saturating_add(len as u64)).min(disk_end);
            align::down(offset, SECTOR_LEN).min(end)..end
        };
        let inside: Vec<_> =
            offsets.iter().map(|offset| (disk, range(*offset))).filter(|(_, range)| !range.is_empty()).collect();
        let mut fetched = self.fetch(&inside)?.into_iter();
        for offset in offsets {
            let range = range(*offset);
            let mut bytes = if range.is_empty() { Vec::new() } else { fetched.next().unwrap_or_default() };
            let skip = usize::try_from(offset.saturating_sub(range.start)).unwrap_or(usize::MAX).min(bytes.len());
            if skip > 0 {
                bytes.drain(..skip);
            }
            bytes.resize(len, 0);
            all.push(bytes);
        }
        Ok(all)
    }

    fn read_direct(&mut self, disk: DiskId, mut offset: u64, mut buf: &mut [u8]) -> Result<(), Error> {
        while !buf.is_empty() {
            let start = align::down(offset, SECTOR_LEN);
            let end = up_to_sector(offset.saturating_add(buf.len() as u64));
            let end = end.min(start.saturating_add(DIRECT_LEN_MAX));
            let fetched = self.fetch(&[(disk, start..end)])?;
            let skip = usize::try_from(align::within(offset, SECTOR_LEN)).unwrap_or(0);
            let bytes = fetched.first().and_then(|bytes| bytes.get(skip..)).unwrap_or_default();
            let len = bytes.len().min(buf.len());
            let Some((head, tail)) = buf.split_at_mut_checked(len).filter(|_| len > 0) else { break };
            head.copy_from_slice(bytes.get(..len).unwrap_or_default());
            buf = tail;
            offset = offset.saturating_add(len as u64);
        }
        Ok(())
    }
}

impl<B: Blocks> ReadAt for Store<'_, '_, B> {
    fn len(&self, disk: DiskId) -> u64 {
        self.disk(disk).map_or(0, |disk| disk.len)
    }

    fn read_at(&mut self, disk: DiskId, mut offset: u64, mut buf: &mut [u8]) -> Result<(), Error> {
        let disk_len = self.len(disk);
        check_range(disk, offset, buf.len(), disk_len)?;
        self.budget.take_steps(1)?;
        if buf.len() >= DIRECT_LEN {
            return self.read_direct(disk, offset, buf);
        }
        while !buf.is_empty() {
            let len = self.cache.copy(disk, offset, buf);
            if len == 0 {
                let start = align::down(offset, WINDOW_LEN);
                let end = start.saturating_add(WINDOW_LEN).min(up_to_sector(disk_len));
                let fetched = self.fetch(&[(disk, start..end)])?;
                for bytes in fetched {
                    self.cache.insert(self.windows_max(), disk, start, bytes);
                }
                continue;
            }
            buf = buf.split_at_mut_checked(len).unwrap_or_default().1;
            offset = offset.saturating_add(len as u64);
        }
        Ok(())
    }

    fn prefetch(&mut self, ranges: &[(DiskId, Range<u64>)]) -> Result<(), Error> {
        let mut missing: Vec<(DiskId, Range<u64>)> = Vec::with_capacity(ranges.len());
        for (disk, range) in ranges {
            let start = align::down(range.start, SECTOR_LEN);
            let end = range.end.min(self.len(*disk)).min(start.saturating_add(WINDOW_LEN));
            let known = |offset: u64| {
                self.cache.windows.iter().any(|window| window.from(*disk, offset).is_some())
                    || missing.iter().any(|(other, range)| other == disk && range.contains(&offset))
            };
            if start < end && !(known(start) && known(end.saturating_sub(1))) {
                missing.push((*disk, start..up_to_sector(end)));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let fetched = self.fetch(&missing)?;
        for ((disk, range), bytes) in missing.iter().zip(fetched) {
            self.cache.insert(self.windows_max(), *disk, range.start, bytes);
        }
        Ok(())
    }

    fn budget(&mut self) -> &mut Budget {
        self.budget
    }

    fn host_data(&self, disk: DiskId) -> Option<&[HostExtent]> {
        self.disk(disk)?.data.as_deref()
    }

    fn host_allocated(&self, disk: DiskId) -> Option<u64> {
        self.disk(disk)?.allocated
    }
}

/// The end of the sector that `end` ends in; disks are shorter than 2^63 bytes.
fn up_to_sector(end: u64) -> u64 {
    align::up(end, SECTOR_LEN).unwrap_or(end)
}
