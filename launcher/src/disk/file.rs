//! A file that is only read.
#![forbid(unsafe_code)]

use super::bytes::FileBytes;
use super::{Disk, Segments, check_range};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A file or block device opened for reading, with the length it had then.
///
/// Bytes past that length are zeros: in the partial last sector, and where the file has shrunk since.
#[derive(Debug)]
pub struct SourceFile {
    bytes: FileBytes,
    len: u64,
}

impl SourceFile {
    /// A disk of the first `len` bytes of `file`.
    #[must_use]
    pub fn new(file: impl Into<FileBytes>, len: u64) -> Self {
        Self { bytes: file.into(), len }
    }
}

impl AsFd for SourceFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bytes.file().as_fd()
    }
}

impl Disk for SourceFile {
    fn sectors(&self) -> u64 {
        self.len.div_ceil(512)
    }

    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        check_range(offset, into.len(), self.sectors())?;
        let read = self.bytes.read(offset, into)?;
        // The file may have grown since: what lies past the length is not part of the disk.
        into.zero_from(read.min(self.len.saturating_sub(offset)));
        Ok(())
    }

    fn write(&self, _: u64, _: &dyn Segments) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.bytes.fds()
    }

    fn source_len(&self) -> Option<u64> {
        Some(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use std::io::Write as _;

    fn source(content: &[u8], len: u64) -> SourceFile {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("written");
        SourceFile::new(file, len)
    }

    #[test]
    fn a_partial_last_sector_is_filled_with_zeros() {
        let disk = source(&[7; 700], 700);
        assert_eq!(disk.sectors(), 2);
        let mut memory = Memory::new(&[100, 924], 0xEE);
        disk.read(0, &mut memory).expect("in range");
        assert_eq!(memory.to_vec(), [vec![7; 700], vec![0; 324]].concat());
    }

    #[test]
    fn what_the_file_gained_after_the_open_is_not_shown() {
        let disk = source(&[7; 2048], 700);
        let mut memory = Memory::new(&[512], 0xEE);
        disk.read(512, &mut memory).expect("in range");
        assert_eq!(memory.to_vec(), [vec![7; 188], vec![0; 324]].concat());
    }

    #[test]
    fn what_the_file_lost_after_the_open_reads_as_zeros() {
        let disk = source(&[7; 10], 2048);
        let mut memory = Memory::new(&[1024], 0xEE);
        disk.read(512, &mut memory).expect("in range");
        assert_eq!(memory.to_vec(), vec![0; 1024]);
    }

    #[test]
    fn nothing_is_read_past_the_end_and_nothing_is_written() {
        let disk = source(&[7; 700], 700);
        assert!(disk.read(1024, &mut Memory::new(&[512], 0)).is_err());
        assert!(disk.read(512, &mut Memory::new(&[1024], 0)).is_err());
        assert!(disk.read(u64::MAX - 511, &mut Memory::new(&[512], 0)).is_err());
        assert!(disk.write(0, &Memory::new(&[512], 1)).is_err());
        let mut memory = Memory::new(&[512], 0xEE);
        disk.read(0, &mut memory).expect("in range");
        assert_eq!(memory.to_vec(), vec![7; 512]);
    }
}
