//! Disks that fail on purpose, for tests of everything above them.
#![forbid(unsafe_code)]

use super::copy::{self, Piece};
use super::{Disk, Segments};
use rustix::io::Errno;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// `EIO`, and nothing is done.
    Io,
    /// `ENOSPC`, a write after the first half of it.
    Full,
}

/// A disk with sectors that can't be read: `EIO`, as often as it is tried.
pub struct BadSectors {
    disk: Arc<dyn Disk>,
    bad: Range<u64>,
}

impl BadSectors {
    /// `disk`, but its bytes `bad` can't be read.
    #[must_use]
    pub const fn new(disk: Arc<dyn Disk>, bad: Range<u64>) -> Self {
        Self { disk, bad }
    }
}

impl Disk for BadSectors {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        match offset < self.bad.end && self.bad.start < offset.saturating_add(into.len()) {
            true => Err(Errno::IO.into()),
            false => self.disk.read(offset, into),
        }
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        self.disk.write(offset, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.disk.fds()
    }
}

/// A disk whose n-th request fails.
pub struct Faulty {
    disk: Arc<dyn Disk>,
    fails_at: u64,
    failing: Failing,
    requests: AtomicU64,
}

impl Faulty {
    /// `disk`, but its request number `fails_at` (reads, writes, flushes and copies counted from 0) fails.
    #[must_use]
    pub const fn new(disk: Arc<dyn Disk>, fails_at: u64, failing: Failing) -> Self {
        Self { disk, fails_at, failing, requests: AtomicU64::new(0) }
    }

    fn next(&self) -> io::Result<&dyn Disk> {
        if self.requests.fetch_add(1, Ordering::Relaxed) != self.fails_at {
            return Ok(&*self.disk);
        }
        let errno = match self.failing {
            Failing::Io => Errno::IO,
            Failing::Full => Errno::NOSPC,
        };
        Err(errno.into())
    }

    /// What of a write is done before it fails.
    fn write_half(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        let bytes = from.to_vec();
        match (self.failing, self.disk.fds().first()) {
            (Failing::Full, Some(&file)) => copy::write_all(file, offset, &bytes[..bytes.len() / 2]),
            _ => Ok(()),
        }
    }
}

impl Disk for Faulty {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        self.next()?.read(offset, into)
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        match self.next() {
            Ok(disk) => disk.write(offset, from),
            Err(error) => self.write_half(offset, from).and(Err(error)),
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.next()?.flush()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.disk.fds()
    }

    fn copy_in(&self, offset: u64, from: Piece<'_>) -> io::Result<()> {
        self.next()?.copy_in(offset, from)
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        self.disk.finish(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::SourceFile;
    use super::super::memory::Memory;
    use super::super::output::OutputFile;
    use super::*;

    #[test]
    fn only_the_chosen_request_fails() {
        let source = SourceFile::new(tempfile::tempfile().expect("a file"), 512);
        let disk = Faulty::new(Arc::new(source), 1, Failing::Io);
        let results = [(); 4].map(|()| disk.read(0, &mut Memory::new(&[512], 0)).is_ok());
        assert_eq!(results, [true, false, true, true]);
    }

    #[test]
    fn a_write_to_a_full_disk_leaves_its_first_half() {
        let file = tempfile::tempfile().expect("a file");
        let output = OutputFile::new(file.try_clone().expect("a second one"), 4096);
        let disk = Faulty::new(Arc::new(output), 0, Failing::Full);
        let error = disk.write(512, &Memory::new(&[512, 512], 7)).expect_err("fails");
        assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
        assert_eq!(file.metadata().expect("open").len(), 1024);
        disk.write(512, &Memory::new(&[512, 512], 7)).expect("the next one");
        assert_eq!(file.metadata().expect("open").len(), 1536);
    }
}
