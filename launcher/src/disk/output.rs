//! A file that a run makes.
#![forbid(unsafe_code)]

use super::bytes::FileBytes;
use super::copy::{self, Piece};
use super::{Disk, Segments, check_range};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;

/// A new image: empty at first, it grows as it is written, up to its capacity.
///
/// What the file held before stays until the guest first writes or flushes, so that a run that ends
/// before (the source can't be read, a name is refused) destroys nothing.
#[derive(Debug)]
pub struct OutputFile {
    bytes: FileBytes,
    capacity: u64,
    emptied: OnceLock<Result<(), i32>>, // an error is the host's errno
}

impl OutputFile {
    /// A disk of at most `capacity` bytes in `file`. A file that is empty now is never cut, so that the
    /// call for it is made only where something is in the way.
    #[must_use]
    pub fn new(file: impl Into<FileBytes>, capacity: u64) -> Self {
        let bytes = file.into();
        let emptied = OnceLock::new();
        if bytes.file().metadata().is_ok_and(|metadata| metadata.len() == 0) {
            emptied.get_or_init(|| Ok(()));
        }
        Self { bytes, capacity, emptied }
    }

    /// Cuts what was there before, once. A failure stays one.
    fn empty(&self) -> io::Result<()> {
        let cut = || self.bytes.file().set_len(0).map_err(|error| error.raw_os_error().unwrap_or(0));
        self.emptied.get_or_init(cut).map_err(io::Error::from_raw_os_error)
    }
}

impl Disk for OutputFile {
    fn sectors(&self) -> u64 {
        self.capacity / 512
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        check_range(offset, into.len(), self.sectors())?;
        let read = if self.emptied.get().is_some() { self.bytes.read(offset, into)? } else { 0 };
        into.zero_from(read);
        Ok(())
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        check_range(offset, from.len(), self.sectors())?;
        self.empty()?;
        self.bytes.write(offset, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.empty()?;
        self.bytes.flush()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.bytes.fds()
    }

    fn copy_in(&self, offset: u64, from: Piece<'_>) -> io::Result<()> {
        check_range(offset, from.len, self.sectors())?;
        self.empty()?;
        copy::to_file(self.bytes.file().as_fd(), offset, from)
    }

    fn finish(&self, len: u64) -> io::Result<()> {
        if len > self.capacity {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.file().set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use std::io::Write as _;

    fn output(before: &[u8], capacity: u64) -> OutputFile {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(before).expect("written");
        OutputFile::new(file, capacity)
    }

    fn len(disk: &OutputFile) -> u64 {
        disk.bytes.file().metadata().expect("open").len()
    }

    fn content(disk: &OutputFile, len: usize) -> Vec<u8> {
        let mut memory = Memory::new(&[len], 0xEE);
        disk.read(0, &mut memory).expect("in range");
        memory.to_vec()
    }

    #[test]
    fn a_run_that_writes_nothing_destroys_nothing() {
        let disk = output(b"precious", 4096);
        assert_eq!(content(&disk, 512), vec![0; 512]);
        assert_eq!(len(&disk), 8);
        drop(disk);
    }

    #[test]
    fn the_first_write_or_flush_empties_the_file() {
        let disk = output(&[9; 3000], 4096);
        disk.write(1024, &Memory::new(&[256, 256], 1)).expect("in range");
        assert_eq!(content(&disk, 2048), [vec![0; 1024], vec![1; 512], vec![0; 512]].concat());
        let disk = output(&[9; 3000], 4096);
        disk.flush().expect("possible");
        assert_eq!(len(&disk), 0);
    }

    #[test]
    fn nothing_is_written_past_the_capacity() {
        let disk = output(b"", 4096);
        disk.write(3584, &Memory::new(&[512], 1)).expect("the last sector");
        assert!(disk.write(4096, &Memory::new(&[512], 1)).is_err());
        assert!(disk.write(3584, &Memory::new(&[1024], 1)).is_err());
        assert!(disk.write(u64::MAX - 511, &Memory::new(&[512], 1)).is_err());
        assert_eq!(len(&disk), 4096);
        assert!(disk.finish(4097).is_err());
        disk.finish(1000).expect("allowed");
        assert_eq!(len(&disk), 1000);
    }
}
