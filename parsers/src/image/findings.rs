//! What a check needs: bytes to read, somebody to tell, and bounds.

use crate::align;
use crate::store::{Budget, ReadAt};
use alloc::vec::Vec;
use instar_abi::check::Finding;
use instar_abi::error::{Error, Resource};
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

/// How far a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What qemu-img looks at, in its order, up to where it stops.
    AsQemuImg,
    /// Everything.
    Whole,
}

/// Bytes of tables that a check has read, and how many it may.
#[derive(Clone, Copy, Debug)]
pub struct Tables {
    taken: u64,
    max: u64,
}

impl Tables {
    /// Bytes that a check may read, whatever the size of the file: 4 GiB.
    const LEN_MIN: u64 = 4 << 30;
    /// Bytes that a check may read for a byte of the file, each pass over it counted: an image has as many tables only with
    /// thousands of snapshots.
    const PER_BYTE: u64 = 32;

    /// Of an image in a file of `file_len` bytes.
    #[must_use]
    pub const fn of(file_len: u64) -> Self {
        Self { taken: 0, max: file_len.saturating_mul(Self::PER_BYTE).saturating_add(Self::LEN_MIN) }
    }

    /// Bytes so far.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// Pays for tables that are to be read.
    ///
    /// # Errors
    /// [`Resource::ReadBytes`]: no honest image has as many.
    pub fn take(&mut self, len: u64) -> Result<(), Error> {
        self.taken = self.taken.saturating_add(len);
        if self.taken > self.max { Err(Error::OutOfBudget(Resource::ReadBytes)) } else { Ok(()) }
    }
}

/// Which units of a file are in use, a bit each, for a window of the file: a file of more units is gone through once for
/// each window.
pub struct Occupied {
    /// The first unit.
    start: u64,
    /// Units of the window.
    len: u64,
    /// Units of the file.
    total: u64,
    words: Vec<u64>,
}

/// Units of a window, 32 MiB of heap: with sectors it covers 128 GiB of a file.
const WINDOW: u64 = 1 << 28;
const WORD_BITS: u64 = 64;

impl Occupied {
    /// Nothing in use of a file of `total` units.
    ///
    /// # Errors
    /// The heap's budget is used up.
    pub fn new(budget: &mut Budget, total: u64) -> Result<Self, Error> {
        Self::with_window(budget, total, WINDOW)
    }

    fn with_window(budget: &mut Budget, total: u64, window: u64) -> Result<Self, Error> {
        let len = total.min(window);
        let count = usize::try_from(len.div_ceil(WORD_BITS)).unwrap_or(usize::MAX);
        budget.take_heap((count as u64).saturating_mul(8))?;
        Ok(Self { start: 0, len, total, words: alloc::vec![0; count] })
    }

    /// Gives the heap back.
    pub fn drop_into(self, budget: &mut Budget) {
        budget.give_heap((self.words.len() as u64).saturating_mul(8));
    }

    /// Whether this is the first window: what has nothing to do with places is told then.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.start == 0
    }

    /// Goes on to the next window, with nothing in use; whether there is one.
    pub fn next_window(&mut self) -> bool {
        self.start = self.start.saturating_add(self.len);
        self.words.fill(0);
        self.start < self.total
    }

    /// Takes `len` units from `first` on, as far as they lie in the window; the first of them that was in use already.
    pub fn take(&mut self, first: u64, len: u64) -> Option<u64> {
        let end = first.saturating_add(len).min(self.start.saturating_add(self.len)).saturating_sub(self.start);
        let mut at = first.max(self.start).saturating_sub(self.start);
        let mut twice = None;
        while at < end {
            let within = align::within(at, WORD_BITS);
            let count = WORD_BITS.saturating_sub(within).min(end.saturating_sub(at));
            let ones = if count == WORD_BITS { u64::MAX } else { 1u64.wrapping_shl(count as u32).wrapping_sub(1) };
            let mask = ones.wrapping_shl(within as u32);
            let index = usize::try_from(align::units(at, WORD_BITS)).unwrap_or(usize::MAX);
            let Some(word) = self.words.get_mut(index) else { break };
            if *word & mask != 0 && twice.is_none() {
                let base = at.saturating_sub(within).saturating_add((*word & mask).trailing_zeros().into());
                twice = Some(base.saturating_add(self.start));
            }
            *word |= mask;
            at = at.saturating_add(count);
        }
        twice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_abi::request;

    fn budget() -> Budget {
        Budget::from(request::Budget { heap_bytes: 1 << 20, read_bytes: 0, steps: 0, depth: 0 })
    }

    /// Against a set of numbers.
    #[test]
    fn what_is_taken_twice_is_the_first_that_was() {
        for window in [64, 100, 1 << 20] {
            let budget = &mut budget();
            let mut occupied = Occupied::with_window(budget, 1000, window).unwrap();
            let mut start = 0;
            loop {
                let end = 1000.min(start + window);
                let mut known = std::collections::BTreeSet::new();
                for (first, len) in
                    [(3, 1), (60, 10), (0, 0), (69, 200), (3, 1), (128, 64), (990, 100), (269, 1), (300, 64), (299, 70)]
                {
                    let units = || (first..first + len).filter(|unit| (start..end).contains(unit));
                    let expected = units().find(|unit| known.contains(unit));
                    known.extend(units());
                    assert_eq!(occupied.take(first, len), expected, "{first}+{len} of {start}..{end}");
                }
                assert_eq!(occupied.is_first(), start == 0);
                start += window;
                if !occupied.next_window() {
                    break;
                }
            }
            assert!(start >= 1000);
            assert_eq!(occupied.take(u64::MAX, u64::MAX), None);
            let before = budget.clone();
            occupied.drop_into(budget);
            assert_ne!(*budget, before);
        }
    }

    #[test]
    fn tables_are_bounded_by_the_file() {
        let mut tables = Tables::of(10);
        assert_eq!(tables.take((4 << 30) + 320), Ok(()));
        assert_eq!(tables.take(1), Err(Error::OutOfBudget(Resource::ReadBytes)));
        assert_eq!(tables.taken(), (4 << 30) + 321);
    }
}
