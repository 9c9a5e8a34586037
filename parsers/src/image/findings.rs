//! What a check needs: bytes to read, and somebody to tell.

use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::check::Finding;
use instar_abi::error::Error;
use instar_abi::request::DiskId;

/// The disks of a job, and where findings go.
pub trait Findings: ReadAt {
    /// The `len` bytes at each of `offsets` of a disk, read at once; what lies past its end reads as zeros. The caller
    /// bounds both.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`], but never out of range.
    fn read_each(&mut self, disk: DiskId, offsets: &[u64], len: usize) -> Result<Vec<Vec<u8>>, Error>;

    /// Takes a finding, in its order.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn tell(&mut self, finding: Finding) -> Result<(), Error> {
        self.tell_often(finding, 1)
    }

    /// Takes the same finding `times` times.
    ///
    /// # Errors
    /// As [`Findings::tell`].
    fn tell_often(&mut self, finding: Finding, times: u64) -> Result<(), Error>;
}
