//! What the host said of requests that failed.
//!
//! A guest learns that a request failed, not why: virtio-blk has one status for it. Whoever words the guest's error
//! asks the disk's witness.
#![forbid(unsafe_code)]

use super::copy::Piece;
use super::{Disk, Segments};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// A disk that remembers the errno of its last request that the host refused.
pub struct Witness {
    disk: Arc<dyn Disk>,
    errno: AtomicI32, // 0: none yet
}

impl Witness {
    /// `disk`, watched from now on.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, errno: AtomicI32::new(0) }
    }

    /// The host's errno of the last request that failed; `None`: none did, or for no reason of the host's.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        Some(self.errno.load(Ordering::Relaxed)).filter(|&errno| errno != 0)
    }

    fn note(&self, result: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &result {
            self.errno.store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
        }
        result
    }
}

impl Disk for Witness {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        self.note(self.disk.read(offset, into))
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        self.note(self.disk.write(offset, from))
    }

    fn flush(&self) -> io::Result<()> {
        self.note(self.disk.flush())
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.disk.fds()
    }

    fn copy_in(&self, offset: u64, from: Piece<'_>) -> io::Result<()> {
        self.note(self.disk.copy_in(offset, from))
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        self.disk.finish(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::{Failing, Faulty};
    use super::super::file::SourceFile;
    use super::super::memory::Memory;
    use super::*;

    #[test]
    fn the_errno_of_a_failed_request_is_remembered() {
        let source = SourceFile::new(tempfile::tempfile().expect("a file"), 512);
        let witness = Witness::new(Arc::new(Faulty::new(Arc::new(source), 1, Failing::Io)));
        let read = |offset| witness.read(offset, &mut Memory::new(&[512], 0)).is_ok();
        assert!(read(0));
        assert_eq!(witness.errno(), None);
        assert!(!read(0) && read(0));
        assert_eq!(witness.errno(), Some(rustix::io::Errno::IO.raw_os_error()));
        // A range that a guest got wrong is not the host's affair.
        assert!(!read(1 << 20));
        assert_eq!(witness.errno(), None);
    }
}
