//! A disk as the narrowest machines show it.
#![forbid(unsafe_code)]

use crate::disk::{Disk, Segments, copy};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A disk whose partial last sector is hidden.
pub struct WholeSectors {
    disk: Arc<dyn Disk>,
    sectors: u64,
}

impl WholeSectors {
    /// The whole sectors among the first `len` bytes of a disk.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, len: u64) -> Self {
        let sectors = disk.sectors().min(len / 512);
        Self { disk, sectors }
    }
}

impl Disk for WholeSectors {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        self.disk.read(offset, into)
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

    fn copy_in(&self, offset: u64, from: copy::Piece<'_>) -> io::Result<()> {
        self.disk.copy_in(offset, from)
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        self.disk.finish(len)
    }
}
