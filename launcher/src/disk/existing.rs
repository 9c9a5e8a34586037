//! A raw file or block device that is there and is written over: `convert -n`.
#![forbid(unsafe_code)]

use super::{Disk, Segments, check_range};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;

/// A target of fixed length.
#[derive(Debug)]
pub struct ExistingFile {
    file: File,
    len: u64,
    cleared: OnceLock<Result<(), i32>>, // an error is the host's errno
}

/// What becomes of the content that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It stays where nothing is written.
    Stays,
    /// It becomes zeros before the first write or flush: a hole, as qemu-img makes it.
    Goes,
}

impl ExistingFile {
    /// A disk of the first `len` bytes of `file`, whole sectors only.
    #[must_use]
    pub fn new(file: File, len: u64, content: Content) -> Self {
        let cleared = OnceLock::new();
        if content == Content::Stays {
            cleared.get_or_init(|| Ok(()));
        }
        Self { file, len, cleared }
    }

    /// Clears the file, once. A failure stays one.
    fn clear(&self) -> io::Result<()> {
        let cut = || {
            let cut = self.file.set_len(0).and_then(|()| self.file.set_len(self.len));
            cut.map_err(|error| error.raw_os_error().unwrap_or(0))
        };
        self.cleared.get_or_init(cut).map_err(io::Error::from_raw_os_error)
    }
}

impl Disk for ExistingFile {
    fn sectors(&self) -> u64 {
        self.len / 512
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        check_range(offset, into.len(), self.sectors())?;
        let read = if self.cleared.get().is_some() { into.read_file(self.file.as_fd(), offset)? } else { 0 };
        into.zero_from(read);
        Ok(())
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        check_range(offset, from.len(), self.sectors())?;
        self.clear()?;
        from.write_file(self.file.as_fd(), offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.clear()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    /// Its length is its own.
    fn finish(&self, len: u64) -> io::Result<()> {
        if len > self.len { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    fn written(content: Content) -> Vec<u8> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[9; 2048]).expect("written");
        let disk = ExistingFile::new(file.try_clone().expect("a second one"), 2048, content);
        disk.write(512, &Memory::new(&[512], 1)).expect("in range");
        assert!(disk.write(2048, &Memory::new(&[512], 1)).is_err());
        disk.finish(1024).expect("shorter");
        assert!(disk.finish(2049).is_err());
        let mut bytes = Vec::new();
        file.rewind().expect("possible");
        file.read_to_end(&mut bytes).expect("read");
        bytes
    }

    #[test]
    fn its_length_stays_and_its_content_as_asked() {
        assert_eq!(written(Content::Stays), [vec![9; 512], vec![1; 512], vec![9; 1024]].concat());
        assert_eq!(written(Content::Goes), [vec![0; 512], vec![1; 512], vec![0; 1024]].concat());
    }
}
