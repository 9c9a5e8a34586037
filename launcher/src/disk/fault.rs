//! Disks that fail on purpose, for tests of everything above them.
#![forbid(unsafe_code)]

use super::copy::Piece;
use super::{Disk, Segments};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// A disk whose n-th request fails.
#[derive(Debug)]
pub struct Faulty<D> {
    disk: D,
    fails_at: u64,
    requests: AtomicU64,
}

impl<D: Disk> Faulty<D> {
    /// `disk`, but its request number `fails_at` (reads, writes, flushes and copies counted from 0) fails.
    pub const fn new(disk: D, fails_at: u64) -> Self {
        Self { disk, fails_at, requests: AtomicU64::new(0) }
    }

    fn next(&self) -> io::Result<&D> {
        match self.requests.fetch_add(1, Ordering::Relaxed) == self.fails_at {
            true => Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())),
            false => Ok(&self.disk),
        }
    }
}

impl<D: Disk> Disk for Faulty<D> {
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
        self.next()?.write(offset, from)
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
    use super::*;

    #[test]
    fn only_the_chosen_request_fails() {
        let disk = Faulty::new(SourceFile::new(tempfile::tempfile().expect("a file"), 512), 1);
        let results = [(); 4].map(|()| disk.read(0, &mut Memory::new(&[512], 0)).is_ok());
        assert_eq!(results, [true, false, true, true]);
    }
}
