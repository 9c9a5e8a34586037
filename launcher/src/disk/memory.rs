//! Plain memory as the segments of a request: what tests use in place of a guest's.
#![forbid(unsafe_code)]

use super::Segments;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;

/// Buffers of a request.
#[derive(Clone, Debug)]
pub struct Memory(Vec<Vec<u8>>);

impl Memory {
    /// Buffers of these lengths in bytes, filled with `byte`.
    pub fn new(lens: &[usize], byte: u8) -> Self {
        Self(lens.iter().map(|&len| vec![byte; len]).collect())
    }
}

impl Segments for Memory {
    fn len(&self) -> u64 {
        self.0.iter().map(|segment| segment.len() as u64).sum()
    }

    fn read_file(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<u64> {
        let file = File::from(file.try_clone_to_owned()?);
        let mut bytes = vec![0; self.to_vec().len()];
        let mut read = 0;
        while let more @ 1.. = file.read_at(&mut bytes[read..], offset + read as u64)? {
            read += more;
        }
        self.put(0, &bytes[..read]);
        Ok(read as u64)
    }

    fn write_file(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        File::from(file.try_clone_to_owned()?).write_all_at(&self.to_vec(), offset)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let skip = usize::try_from(at).expect("a test's offset");
        self.0.iter_mut().flatten().skip(skip).zip(bytes).for_each(|(byte, new)| *byte = *new);
    }

    fn take(&self, at: u64, bytes: &mut [u8]) {
        let skip = usize::try_from(at).expect("a test's offset");
        self.0.iter().flatten().skip(skip).zip(bytes).for_each(|(byte, into)| *into = *byte);
    }

    fn zero_from(&mut self, at: u64) {
        let skip = usize::try_from(at).expect("a test's offset");
        self.0.iter_mut().flatten().skip(skip).for_each(|byte| *byte = 0);
    }

    fn to_vec(&self) -> Vec<u8> {
        self.0.concat()
    }
}
