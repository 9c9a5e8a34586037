//! Reading metadata: positioned reads over the job's disks, under a budget.
//!
//! Parsers see [`ReadAt`] and nothing else. In a run it is a [`Store`]: a fixed number of cached
//! windows over a lane's [`Queue`]. Every batch of requests costs an exit from the guest, so an opener says
//! what it will look at ([`ReadAt::prefetch`]) and pays one.

mod budget;
mod cache;
mod part;
mod queue;
mod small_map;

pub use budget::Budget;
pub use cache::{Cache, Store, WINDOW_LEN};
pub use part::{Part, View};
pub use queue::{Queue, outcome};
pub use small_map::SmallMap;

use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{Error, ReadError};
use instar_abi::request::{DiskId, HostExtent};
use zerocopy::{FromBytes, IntoBytes};

/// Positioned reads over several disks.
pub trait ReadAt {
    /// Exact length of a disk in bytes; 0 for a disk that does not exist.
    fn len(&self, disk: DiskId) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] unless the whole range lies within the disk; I/O errors; [`Error::OutOfBudget`].
    fn read_at(&mut self, disk: DiskId, offset: u64, buf: &mut [u8]) -> Result<(), Error>;

    /// Says what will be read soon, so that it is fetched in one batch. Ranges may run past a disk's end.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`], but never out of range.
    fn prefetch(&mut self, ranges: &[(DiskId, Range<u64>)]) -> Result<(), Error>;

    /// What may still be used up.
    fn budget(&mut self) -> &mut Budget;

    /// Where the host sees data on a disk, sorted; `None`: unknown.
    fn host_data(&self, disk: DiskId) -> Option<&[HostExtent]>;

    /// Bytes that the host has set aside for a disk; `None`: unknown.
    fn host_allocated(&self, disk: DiskId) -> Option<u64>;
}

impl dyn ReadAt + '_ {
    /// Fills `buf` from `offset`; what lies past the end of the disk reads as zeros, as it does in QEMU.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`], but never out of range.
    pub fn read_padded(&mut self, disk: DiskId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let inside = self.len(disk).saturating_sub(offset);
        let inside = usize::try_from(inside).unwrap_or(usize::MAX).min(buf.len());
        let (head, tail) = buf.split_at_mut_checked(inside).unwrap_or_default();
        tail.fill(0);
        if head.is_empty() { Ok(()) } else { self.read_at(disk, offset, head) }
    }

    /// A wire structure at `offset`, zero-padded past the end of the disk.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`], but never out of range.
    pub fn read_wire<T: FromBytes + IntoBytes>(&mut self, disk: DiskId, offset: u64) -> Result<T, Error> {
        let mut wire = T::new_zeroed();
        self.read_padded(disk, offset, wire.as_mut_bytes())?;
        Ok(wire)
    }

    /// `len` bytes at `offset`, zero-padded past the end of the disk, paid for from the heap budget.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`], but never out of range.
    pub fn read_vec(&mut self, disk: DiskId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = self.budget().zeroed(len)?;
        self.read_padded(disk, offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// The error for a range that does not lie within a disk of `disk_len` bytes; `Ok` when it does.
pub(crate) fn check_range(disk: DiskId, offset: u64, len: usize, disk_len: u64) -> Result<(), Error> {
    let len = len as u64;
    match offset.checked_add(len) {
        Some(end) if end <= disk_len => Ok(()),
        _ => Err(Error::Read(ReadError::OutOfRange { disk, offset, len, disk_len })),
    }
}

#[cfg(test)]
mod tests;
