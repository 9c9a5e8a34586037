//! A raw image that goes down a pipe, in order.
#![forbid(unsafe_code)]

use super::{Disk, Segments, check_range};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Mutex;

/// An output that takes every byte once, from the first to the last. What is left out in between is zeros.
#[derive(Debug)]
pub struct PipeOutput {
    file: File,
    capacity: u64,
    sent: Mutex<u64>, // bytes
}

/// Bytes of zeros a write.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl PipeOutput {
    /// A disk of at most `capacity` bytes that go to `file`.
    #[must_use]
    pub const fn new(file: File, capacity: u64) -> Self {
        Self { file, capacity, sent: Mutex::new(0) }
    }

    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // A tick of the machine's clock interrupts a write to a pipe that nobody empties.
            match (&self.file).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Disk for PipeOutput {
    fn sectors(&self) -> u64 {
        self.capacity / 512
    }

    fn read_only(&self) -> bool {
        false
    }

    /// What is sent is gone.
    fn read(&self, _: u64, _: &mut dyn Segments) -> io::Result<()> {
        Err(io::ErrorKind::NotSeekable.into())
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        check_range(offset, from.len(), self.sectors())?;
        // After a panic nobody knows what has been sent.
        let mut sent = self.sent.lock().map_err(|_| io::ErrorKind::BrokenPipe)?;
        let mut gap = offset.checked_sub(*sent).ok_or(io::ErrorKind::NotSeekable)?;
        while gap > 0 {
            let part = gap.min(ZEROS.len() as u64);
            self.send(&ZEROS[..part as usize])?;
            (gap, *sent) = (gap - part, *sent + part);
        }
        self.send(&from.to_vec())?;
        *sent += from.len();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.file.as_fd()]
    }

    /// Everything has been sent by the process that ran the guest.
    fn finish(&self, len: u64) -> io::Result<()> {
        if len > self.capacity { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use std::io::Read as _;

    fn pipe(capacity: u64) -> (PipeOutput, io::PipeReader) {
        let (reader, writer) = io::pipe().expect("a pipe");
        (PipeOutput::new(File::from(std::os::fd::OwnedFd::from(writer)), capacity), reader)
    }

    #[test]
    fn bytes_come_in_order_and_gaps_are_zeros() {
        let (disk, mut reader) = pipe(1 << 20);
        let taken = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).expect("read");
            bytes
        });
        disk.write(512, &Memory::new(&[512, 512], 1)).expect("the first");
        disk.write(200 << 10, &Memory::new(&[512], 2)).expect("the next");
        assert!(disk.write(512, &Memory::new(&[512], 3)).is_err(), "what is sent is sent");
        assert!(disk.write(1 << 20, &Memory::new(&[512], 3)).is_err(), "no more than its capacity");
        drop(disk);
        let zeros = (200 << 10) - 1536;
        let expected = [vec![0; 512], vec![1; 1024], vec![0; zeros], vec![2; 512]].concat();
        assert!(taken.join().expect("ends") == expected);
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (disk, reader) = pipe(1 << 20);
        drop(reader);
        let error = disk.write(0, &Memory::new(&[512], 1)).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
