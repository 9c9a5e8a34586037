//! Copies from disk to disk that the host's kernel makes: `convert -C`.
//!
//! A guest names ranges ([`Frame::Copy`](instar_abi::reply::Frame::Copy)); they are held against the job before anything
//! is copied. Where files can share blocks, nothing is moved at all.
#![forbid(unsafe_code)]

use super::Disk;
use instar_abi::control::SECTOR_LEN;
use instar_abi::reply::CopyRange;
use instar_abi::request::{self, Access, DiskId};
use rustix::fs::copy_file_range;
use rustix::io::{Errno, preadv, pwritev};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Bytes a call: a rate is kept from one to the next, and a signal is not kept waiting for long.
const PIECE_LEN: u64 = 16 << 20;
/// Bytes of the buffer where the kernel does not copy.
const BUFFER_LEN: usize = 1 << 20;

/// Content to be copied, on a file.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The file.
    pub file: BorrowedFd<'a>,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Bytes of them that belong to the disk; the rest, of a partial last sector, is zeros.
    pub have: u64,
}

/// Why a copy was not made.
#[derive(Debug)]
pub enum CopyError {
    /// The range is none that the job allows.
    Forbidden,
    /// The host failed.
    Host(io::Error),
}

/// Copies between the disks of one job.
pub struct Copier {
    disks: Vec<(request::Disk, Arc<dyn Disk>)>,
}

impl Copier {
    /// For a job's disks, in the order of the request.
    #[must_use]
    pub fn new(request: &[request::Disk], disks: &[Arc<dyn Disk>]) -> Self {
        let described = request.iter().map(|disk| request::Disk { data: None, ..*disk });
        Self { disks: described.zip(disks.iter().cloned()).collect() }
    }

    /// Copies all ranges, or none if one of them is forbidden.
    ///
    /// # Errors
    /// [`CopyError`]; after a failure of the host's nothing is known of the ranges.
    pub fn copy(&self, ranges: &[CopyRange]) -> Result<(), CopyError> {
        if !ranges.iter().all(|range| self.allows(range)) {
            return Err(CopyError::Forbidden);
        }
        ranges.iter().try_for_each(|range| self.copy_one(range))
    }

    fn disk(&self, id: DiskId) -> Option<&(request::Disk, Arc<dyn Disk>)> {
        self.disks.get(usize::try_from(id.0).ok()?)
    }

    /// Whole sectors, from within a disk that is only read to within one that is written.
    fn allows(&self, range: &CopyRange) -> bool {
        let whole = [range.from_offset, range.to_offset, range.len].iter().all(|n| n.is_multiple_of(SECTOR_LEN));
        let within =
            |offset: u64, sectors: u64| offset.checked_add(range.len).is_some_and(|end| end / SECTOR_LEN <= sectors);
        let (Some((from, source)), Some((to, target))) = (self.disk(range.from), self.disk(range.to)) else {
            return false;
        };
        let access = from.access == Access::ReadOnly && matches!(to.access, Access::Output { .. });
        access && whole && within(range.from_offset, source.sectors()) && within(range.to_offset, target.sectors())
    }

    fn copy_one(&self, range: &CopyRange) -> Result<(), CopyError> {
        let (Some((from, source)), Some((_, target))) = (self.disk(range.from), self.disk(range.to)) else {
            return Err(CopyError::Forbidden);
        };
        let file = source.fds().first().copied().ok_or(CopyError::Forbidden)?;
        let mut done = 0;
        while done < range.len {
            let len = PIECE_LEN.min(range.len - done);
            let offset = range.from_offset + done;
            let piece = Piece { file, offset, len, have: len.min(from.len.saturating_sub(offset)) };
            target.copy_in(range.to_offset + done, piece).map_err(CopyError::Host)?;
            done += len;
        }
        Ok(())
    }
}

/// Copies a piece to `offset` of a file: by the kernel, else by reading and writing. What the file has lost since
/// is zeros.
///
/// # Errors
/// The host's.
pub(super) fn to_file(file: BorrowedFd<'_>, offset: u64, piece: Piece<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < piece.have {
        let left = usize::try_from(piece.have - done).unwrap_or(usize::MAX);
        let (mut from, mut to) = (piece.offset + done, offset + done);
        match copy_file_range(piece.file, Some(&mut from), file, Some(&mut to), left) {
            Ok(0) => break,
            Ok(copied) => done += copied as u64,
            Err(Errno::INTR) => {}
            // Two file systems, a block device, a kernel that can't. Whatever it is, reading and writing tell.
            Err(_) => break,
        }
    }
    let mut buffer = vec![0; BUFFER_LEN.min(usize::try_from(piece.len - done).unwrap_or(BUFFER_LEN))];
    while done < piece.have {
        let len = usize::try_from(piece.have - done).unwrap_or(usize::MAX).min(buffer.len());
        match preadv(piece.file, &mut [IoSliceMut::new(&mut buffer[..len])], piece.offset + done) {
            Ok(0) => break,
            Ok(read) => {
                write_all(file, offset + done, &buffer[..read])?;
                done += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    buffer.fill(0);
    while done < piece.len {
        let len = usize::try_from(piece.len - done).unwrap_or(usize::MAX).min(buffer.len());
        write_all(file, offset + done, &buffer[..len])?;
        done += len as u64;
    }
    Ok(())
}

/// Writes all bytes, by a call that a locked-down process has.
pub(super) fn write_all(file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match pwritev(file, &[IoSlice::new(&bytes[done..])], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::existing::ExistingFile;
    use super::super::file::SourceFile;
    use super::super::output::OutputFile;
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    const SOURCE: DiskId = DiskId(0);
    const TARGET: DiskId = DiskId(1);

    /// A source of 3,000 bytes and a target of at most 8,192 on the same file system.
    fn job(target: impl FnOnce(File) -> Arc<dyn Disk>) -> (Copier, File) {
        let (from, to) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        from.write_all_at(&[7; 4000], 0).expect("written");
        let described = [
            request::Disk::read_only(3000),
            request::Disk { len: 0, access: Access::Output { capacity: 8192 }, data: None, allocated: None },
        ];
        let target = target(to.try_clone().expect("a second one"));
        (Copier::new(&described, &[Arc::new(SourceFile::new(from, 3000)), target]), to)
    }

    fn range(from_offset: u64, to_offset: u64, len: u64) -> CopyRange {
        CopyRange { from: SOURCE, from_offset, to: TARGET, to_offset, len }
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().expect("open").len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    }

    #[test]
    fn ranges_are_copied_and_a_partial_last_sector_ends_in_zeros() {
        let new = |file: File| -> Arc<dyn Disk> { Arc::new(OutputFile::new(file, 8192)) };
        let (copier, to) = job(new);
        copier.copy(&[range(512, 1024, 1024), range(2560, 4096, 512)]).expect("allowed");
        let expected = [vec![0; 1024], vec![7; 1024], vec![0; 2048], vec![7; 440], vec![0; 72]].concat();
        assert_eq!(content(&to), expected);
        // Over what was there.
        let (copier, to) = job(|file| {
            file.write_all_at(&[9; 1024], 0).expect("written");
            Arc::new(ExistingFile::new(file, 8192))
        });
        copier.copy(&[range(2560, 0, 512)]).expect("allowed");
        assert_eq!(content(&to), [vec![7; 440], vec![0; 72], vec![9; 512]].concat());
    }

    #[test]
    fn what_is_not_the_jobs_is_not_copied() {
        for bad in [
            range(0, 0, 100),
            range(100, 0, 512),
            range(0, 100, 512),
            range(2560, 0, 1024),
            range(0, 8192, 512),
            range(0, u64::MAX - 511, 512),
            range(u64::MAX - 511, 0, 512),
            CopyRange { to: SOURCE, ..range(0, 0, 512) },
            CopyRange { from: TARGET, ..range(0, 0, 512) },
            CopyRange { from: DiskId(2), ..range(0, 0, 512) },
            CopyRange { to: DiskId(u32::MAX), ..range(0, 0, 512) },
        ] {
            let (copier, to) = job(|file| Arc::new(OutputFile::new(file, 8192)));
            // The good one before it is not made, either.
            let result = copier.copy(&[range(0, 0, 512), bad]);
            assert!(matches!(result, Err(CopyError::Forbidden)), "{bad:?}");
            assert!(content(&to).is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn where_the_kernel_does_not_copy_it_is_read_and_written() {
        // From a file of a kernel's file system to one of another.
        let Ok(from) = File::open("/proc/self/exe") else { return };
        let Ok(to) = tempfile::tempfile_in("/dev/shm") else {
            println!("skipped: needs a file system in memory");
            return;
        };
        let len = from.metadata().expect("open").len();
        let piece = Piece { file: std::os::fd::AsFd::as_fd(&from), offset: 0, len: len + 512, have: len };
        to_file(std::os::fd::AsFd::as_fd(&to), 4096, piece).expect("copied");
        let copied = content(&to);
        let mut expected = vec![0; 4096];
        expected.extend(std::fs::read("/proc/self/exe").expect("read"));
        expected.resize(expected.len() + 512, 0);
        assert!(copied == expected);
    }

    #[test]
    fn a_failing_target_is_an_error_of_the_hosts() {
        let (copier, _) = job(|_| Arc::new(SourceFile::new(tempfile::tempfile().expect("a file"), 8192)));
        assert!(matches!(copier.copy(&[range(0, 0, 512)]), Err(CopyError::Host(_))));
    }
}
