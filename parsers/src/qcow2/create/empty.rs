//! Ranges without bytes: zeros that hide what is below, and clusters that are only reserved.

use super::Writer;
use crate::align;
use crate::qcow2::wire::entry;
use core::ops::Range;
use instar_abi::error::Error;

impl Writer {
    /// Makes `range`, whole granules of which nothing has been placed before, read as zeros whatever is below.
    ///
    /// # Errors
    /// [`WriteError::Capacity`](instar_abi::error::WriteError::Capacity).
    pub fn zero(&mut self, range: Range<u64>) -> Result<(), Error> {
        for (start, part) in clusters(range, self.layout.cluster_size()) {
            let place = if self.is_preallocated { self.cluster(start)? | entry::COPIED } else { 0 };
            let table = self.table(start)?;
            if self.layout.extended_l2 {
                self.set_subclusters(start, part, ZERO_BITS);
            } else {
                self.tables.set(table, self.word(start), place | entry::ZERO);
            }
        }
        Ok(())
    }

    /// Gives clusters to `range`, whole granules of which nothing has been placed before, without content.
    ///
    /// # Errors
    /// [`WriteError::Capacity`](instar_abi::error::WriteError::Capacity).
    pub fn reserve(&mut self, range: Range<u64>) -> Result<(), Error> {
        for (start, _) in clusters(range, self.layout.cluster_size()) {
            self.cluster(start)?;
        }
        Ok(())
    }
}

/// The clusters of a range: where each starts, and the part of it that is in the range, counted from there.
pub fn clusters(range: Range<u64>, cluster_size: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        let start = align::down(at, cluster_size);
        let end = start.saturating_add(cluster_size).min(range.end);
        let part = at.saturating_sub(start)..end.saturating_sub(start);
        (at < end).then(|| {
            at = end;
            (start, part)
        })
    })
}

/// Where an extended entry's bits for zero are: above those for allocated.
pub const ZERO_BITS: u32 = 32;
