//! What could not be read, and is zero in the output.

use crate::store::{Budget, ReadAt};
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::Error;
use instar_abi::reply::Unreadable;
use instar_abi::request::{DiskId, HostExtent};

/// Most ranges that are told apart: a frame of them is well below its limit.
pub const LOSSES_MAX: usize = 4096;

/// Ranges of the disk, joined where they touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Start and end, ascending and disjoint.
    ranges: Vec<(u64, u64)>,
}

impl Losses {
    /// Adds a range. When there are too many, it is joined with the one before, and what lies between counts as lost.
    pub fn add(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        let is_full = self.ranges.len() >= LOSSES_MAX;
        // Those that it touches, the one before among them where there is no room for another.
        let mut first = self.ranges.partition_point(|(_, before_end)| *before_end < start);
        let mut after = self.ranges.partition_point(|(next, _)| *next <= end);
        if is_full && first >= after {
            (first, after) = if first > 0 { (first.saturating_sub(1), first) } else { (0, 1) };
        }
        for (touched, touched_end) in self.ranges.drain(first..after.max(first)) {
            (start, end) = (start.min(touched), end.max(touched_end));
        }
        self.ranges.insert(first, (start, end));
    }

    /// All of them, ascending.
    #[must_use]
    pub fn into_ranges(self) -> Vec<Unreadable> {
        let range = |(start, end): (u64, u64)| Unreadable { offset: start, len: end.saturating_sub(start) };
        self.ranges.into_iter().map(range).collect()
    }
}

/// [`ReadAt`] that fetches ahead as far as that goes: a table that can't be read must not cost the ones before it.
pub struct Patient<'a>(pub &'a mut dyn ReadAt);

impl ReadAt for Patient<'_> {
    fn len(&self, disk: DiskId) -> u64 {
        self.0.len(disk)
    }

    fn read_at(&mut self, disk: DiskId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.0.read_at(disk, offset, buf)
    }

    fn prefetch(&mut self, ranges: &[(DiskId, Range<u64>)]) -> Result<(), Error> {
        match self.0.prefetch(ranges) {
            Err(Error::Read(_)) => Ok(()),
            result => result,
        }
    }

    fn budget(&mut self) -> &mut Budget {
        self.0.budget()
    }

    fn host_data(&self, disk: DiskId) -> Option<&[HostExtent]> {
        self.0.host_data(disk)
    }

    fn host_allocated(&self, disk: DiskId) -> Option<u64> {
        self.0.host_allocated(disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(ranges: &[Range<u64>]) -> Vec<(u64, u64)> {
        let mut losses = Losses::default();
        ranges.iter().cloned().for_each(|range| losses.add(range));
        losses.into_ranges().iter().map(|range| (range.offset, range.offset + range.len)).collect()
    }

    #[test]
    fn ranges_are_joined_where_they_touch() {
        assert_eq!(joined(&[10..20, 30..40, 5..5]), [(10, 20), (30, 40)]);
        assert_eq!(joined(&[10..20, 20..30]), [(10, 30)]);
        assert_eq!(joined(&[20..30, 10..20]), [(10, 30)]);
        assert_eq!(joined(&[10..20, 30..40, 15..35]), [(10, 40)]);
        assert_eq!(joined(&[10..40, 15..20]), [(10, 40)]);
        assert_eq!(joined(&[15..20, 30..40, 0..100]), [(0, 100)]);
    }

    #[test]
    fn their_number_is_bounded_and_none_is_forgotten() {
        let mut losses = Losses::default();
        for index in (0..3 * LOSSES_MAX as u64).rev() {
            losses.add(index * 1024..index * 1024 + 512);
        }
        let ranges = losses.into_ranges();
        assert!(ranges.len() <= LOSSES_MAX, "{}", ranges.len());
        for index in 0..3 * LOSSES_MAX as u64 {
            assert!(ranges.iter().any(|r| r.offset <= index * 1024 && index * 1024 + 512 <= r.offset + r.len));
        }
    }
}
