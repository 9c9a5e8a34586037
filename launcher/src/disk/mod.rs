//! The bytes behind every device, on every engine.
//!
//! A [`Disk`] knows its file, its length and its limits, and nothing of guests or rings. The data of a
//! request reaches it as [`Segments`]: memory of the guest's that only the machine may touch, and
//! that a file can be read into and written from without a copy.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod control;
pub mod copy;
pub mod existing;
pub mod fault;
pub mod file;
pub mod lock;
#[cfg(test)]
pub mod memory;
pub mod output;
pub mod pipe;
pub mod throttle;
pub mod witness;

use std::io;
use std::os::fd::BorrowedFd;

/// The memory of one request, in order. Implemented by the machine over guest memory.
#[expect(clippy::len_without_is_empty, reason = "nobody asks")]
pub trait Segments {
    /// Bytes of all segments.
    fn len(&self) -> u64;

    /// Reads from `offset` of a file until the segments are full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// The host's.
    fn read_file(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<u64>;

    /// Writes all segments to `offset` of a file.
    ///
    /// # Errors
    /// The host's; part may have been written then.
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()>;

    /// Copies `bytes` to byte `at` of the segments; what does not fit is left out.
    fn put(&mut self, at: u64, bytes: &[u8]);

    /// Copies out of the segments from byte `at` on; `bytes` lies within them.
    fn take(&self, at: u64, bytes: &mut [u8]);

    /// Sets everything from byte `at` on to zero.
    fn zero_from(&mut self, at: u64);

    /// A copy of all bytes.
    fn to_vec(&self) -> Vec<u8>;
}

/// The bytes behind one device. Every method may be called from several lanes at once.
pub trait Disk: Send + Sync {
    /// Length in 512-byte sectors, a partial last one counted whole. An output has its limit here.
    fn sectors(&self) -> u64;

    /// Whether the device is offered as read-only.
    fn read_only(&self) -> bool;

    /// Reads; bytes past the end, in a partial last sector or of an output not yet written, are zeros.
    ///
    /// # Errors
    /// The host's, or a range past [`Disk::sectors`].
    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()>;

    /// Writes.
    ///
    /// # Errors
    /// The host's, a read-only disk, or a range past [`Disk::sectors`].
    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()>;

    /// Makes all completed writes durable, as far as the job's cache mode asks for it.
    ///
    /// # Errors
    /// The host's.
    fn flush(&self) -> io::Result<()>;

    /// The file behind the disk, which the run keeps, first as content is copied out of it, then as it may be
    /// open besides; nothing where there is no file.
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Length in bytes of a file that is only read, which another process can make the same disk of from
    /// [`Disk::fds`]; `None`: this is another kind of disk.
    fn source_len(&self) -> Option<u64> {
        None
    }

    /// Copies content of another file here; the host's kernel does it where it can.
    ///
    /// # Errors
    /// The host's, a range past [`Disk::sectors`], or a disk that is no output.
    fn copy_in(&self, offset: u64, from: copy::Piece<'_>) -> io::Result<()> {
        let _ = (offset, from);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets the final length in bytes of an output, after a run that went well and flushed.
    ///
    /// # Errors
    /// The host's, a length past the capacity, or a disk that is no output.
    fn finish(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Whether `len` bytes at `offset` lie within `sectors`.
fn check_range(offset: u64, len: u64, sectors: u64) -> io::Result<()> {
    let end = offset.checked_add(len).map(|end| end.div_ceil(512));
    if end.is_some_and(|end| end <= sectors) { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}
