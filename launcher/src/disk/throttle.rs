//! A disk that is written no faster than asked: `convert -r`.
#![forbid(unsafe_code)]

use super::copy::Piece;
use super::{Disk, Segments};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A disk whose writes wait for their turn.
pub struct Throttled {
    disk: Arc<dyn Disk>,
    rate: NonZeroU64, // bytes a second
    free_at: Mutex<Instant>,
}

impl Throttled {
    /// `disk`, written at `rate` bytes a second at most.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, rate: NonZeroU64) -> Self {
        Self { disk, rate, free_at: Mutex::new(Instant::now()) }
    }

    /// Takes a turn of `len` bytes and waits for its end.
    fn wait(&self, len: u64) {
        let nanos = u128::from(len) * 1_000_000_000 / u128::from(self.rate.get());
        let turn = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let end = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            // A day is longer than any run.
            *free_at = (*free_at).max(now) + turn.min(Duration::from_secs(24 * 3600));
            *free_at
        };
        std::thread::sleep(end.saturating_duration_since(now));
    }
}

impl Disk for Throttled {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        self.disk.read(offset, into)
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        self.wait(from.len());
        self.disk.write(offset, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.disk.flush()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.disk.fds()
    }

    fn copy_in(&self, offset: u64, from: Piece<'_>) -> io::Result<()> {
        self.wait(from.len);
        self.disk.copy_in(offset, from)
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        self.disk.finish(len)
    }
}
