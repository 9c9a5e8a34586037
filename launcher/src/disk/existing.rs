//! A file or block device that is there and is written to: `convert -n`.
#![forbid(unsafe_code)]

use super::bytes::FileBytes;
use super::copy::{self, Piece};
use super::{Disk, Segments, check_range};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

/// A target that keeps what is not written over, also beyond the end of the source. It grows where its capacity
/// allows: a raw one has its length for capacity.
#[derive(Debug)]
pub struct ExistingFile {
    bytes: FileBytes,
    capacity: u64,
}

/// What a target that is there holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Anything: zeros must be written, too.
    Unknown,
    /// Zeros, as the user says.
    Zeros,
}

impl ExistingFile {
    /// A disk of `file`, at most `capacity` bytes, whole sectors only.
    #[must_use]
    pub fn new(file: impl Into<FileBytes>, capacity: u64) -> Self {
        Self { bytes: file.into(), capacity }
    }
}

impl Disk for ExistingFile {
    fn sectors(&self) -> u64 {
        self.capacity / 512
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        check_range(offset, into.len(), self.sectors())?;
        let read = self.bytes.read(offset, into)?;
        into.zero_from(read);
        Ok(())
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        check_range(offset, from.len(), self.sectors())?;
        self.bytes.write(offset, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.bytes.flush()
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.bytes.fds()
    }

    fn copy_in(&self, offset: u64, from: Piece<'_>) -> io::Result<()> {
        check_range(offset, from.len, self.sectors())?;
        copy::to_file(self.bytes.file().as_fd(), offset, from)
    }

    /// It never becomes shorter.
    fn finish(&self, len: u64) -> io::Result<()> {
        if len > self.capacity {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let metadata = self.bytes.file().metadata()?;
        if metadata.is_file() && metadata.len() < len { self.bytes.file().set_len(len) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    #[test]
    fn it_grows_up_to_its_capacity() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1000).expect("grows");
        let disk = ExistingFile::new(file.try_clone().expect("a second one"), 4096);
        disk.write(1024, &Memory::new(&[512], 1)).expect("in range");
        let mut memory = Memory::new(&[1024], 0xEE);
        disk.read(1024, &mut memory).expect("in range");
        assert_eq!(memory.to_vec(), [vec![1; 512], vec![0; 512]].concat());
        disk.finish(700).expect("shorter: nothing to do");
        assert_eq!(file.metadata().expect("open").len(), 1536);
        disk.finish(3000).expect("longer");
        assert_eq!(file.metadata().expect("open").len(), 3000);
        assert!(disk.finish(4097).is_err());
    }

    #[test]
    fn its_length_and_what_is_not_written_stay() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[9; 2048]).expect("written");
        let disk = ExistingFile::new(file.try_clone().expect("a second one"), 2048);
        disk.write(512, &Memory::new(&[512], 1)).expect("in range");
        assert!(disk.write(2048, &Memory::new(&[512], 1)).is_err());
        disk.finish(1024).expect("shorter");
        assert!(disk.finish(2049).is_err());
        let mut bytes = Vec::new();
        file.rewind().expect("possible");
        file.read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes, [vec![9; 512], vec![1; 512], vec![9; 1024]].concat());
    }
}
