//! References, counted for a window of the file's clusters.

use crate::store::Budget;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use instar_abi::error::Error;

/// A count that does not fit a byte is in the map.
const ELSEWHERE: u8 = u8::MAX;
/// Bytes of heap that an entry of the map is taken for.
const SPILL_LEN: u64 = 64;

/// References to the clusters of a window, a byte each: nearly all have one or none.
pub struct Counts {
    /// The first cluster.
    start: u64,
    near: Vec<u8>,
    far: BTreeMap<u64, u64>,
    /// The largest count.
    max: u64,
    /// Counts below it just go up.
    near_max: u8,
}

impl Counts {
    /// No references to `len` clusters from `start` on, which can be counted up to `max`.
    ///
    /// # Errors
    /// The heap's budget is used up.
    pub fn new(budget: &mut Budget, start: u64, len: usize, max: u64) -> Result<Self, Error> {
        let near_max = u8::try_from(max).unwrap_or(u8::MAX).min(ELSEWHERE.saturating_sub(1));
        Ok(Self { start, near: budget.zeroed(len)?, far: BTreeMap::new(), max, near_max })
    }

    /// A window of no clusters.
    pub const fn empty() -> Self {
        Self { start: 0, near: Vec::new(), far: BTreeMap::new(), max: 0, near_max: 0 }
    }

    /// Nothing counted, from `start` on.
    pub fn restart(&mut self, budget: &mut Budget, start: u64) {
        self.start = start;
        self.near.fill(0);
        budget.give_heap(SPILL_LEN.saturating_mul(self.far.len() as u64));
        self.far.clear();
    }

    /// The clusters of the window: the first, and the one after the last.
    pub const fn window(&self) -> (u64, u64) {
        (self.start, self.start.saturating_add(self.near.len() as u64))
    }

    /// Bytes of heap that the window takes.
    pub const fn heap_len(&self) -> u64 {
        self.near.len() as u64
    }

    /// References to a cluster; 0 outside of the window.
    pub fn of(&self, cluster: u64) -> u64 {
        match self.near.get(self.index(cluster)) {
            Some(&ELSEWHERE) => self.far.get(&cluster).copied().unwrap_or(0),
            Some(&count) => count.into(),
            None => 0,
        }
    }

    /// One reference more, where that is simple: whether it was, or is none of this window's.
    #[inline]
    pub fn add_one(&mut self, cluster: u64) -> bool {
        let index = self.index(cluster);
        match self.near.get_mut(index) {
            Some(count) if *count < self.near_max => {
                *count = count.wrapping_add(1);
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    /// More references to a cluster; how many can't be counted.
    ///
    /// # Errors
    /// The heap's budget is used up.
    pub fn add(&mut self, budget: &mut Budget, cluster: u64, references: u64) -> Result<u64, Error> {
        let before = self.of(cluster);
        let index = self.index(cluster);
        let Some(near) = self.near.get_mut(index) else { return Ok(0) };
        let added = references.min(self.max.saturating_sub(before));
        let count = before.saturating_add(added);
        match u8::try_from(count) {
            Ok(count) if count != ELSEWHERE => *near = count,
            _ => {
                if *near != ELSEWHERE {
                    budget.take_heap(SPILL_LEN)?;
                    *near = ELSEWHERE;
                }
                self.far.insert(cluster, count);
            }
        }
        Ok(references.saturating_sub(added))
    }

    fn index(&self, cluster: u64) -> usize {
        usize::try_from(cluster.wrapping_sub(self.start)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_abi::error::Resource;
    use instar_abi::request;

    fn budget(heap_bytes: u64) -> Budget {
        Budget::from(request::Budget { heap_bytes, read_bytes: 0, steps: 0, depth: 0 })
    }

    #[test]
    fn every_count_up_to_the_largest_is_exact() {
        for max in [1, 3, 15, 254, 255, 256, 65535, u64::MAX] {
            let budget = &mut budget(1 << 20);
            let mut counts = Counts::new(budget, 100, 10, max).unwrap();
            for expected in 1..=700u64 {
                let lost = match counts.add_one(105) {
                    true => 0,
                    false => counts.add(budget, 105, 1).unwrap(),
                };
                assert_eq!((counts.of(105), lost), (expected.min(max), u64::from(expected > max)), "{max}");
            }
            assert_eq!(counts.add(budget, 109, 1000).unwrap(), 1000 - max.min(1000));
            assert_eq!(counts.of(109), max.min(1000));
            assert_eq!([104, 106, 99, 110, u64::MAX].map(|cluster| counts.of(cluster)), [0; 5]);
            counts.restart(budget, 200);
            assert_eq!([105, 109, 205, 209].map(|cluster| counts.of(cluster)), [0; 4]);
        }
    }

    #[test]
    fn what_is_outside_of_the_window_is_not_counted() {
        let budget = &mut budget(10);
        let mut counts = Counts::new(budget, 100, 10, 65535).unwrap();
        for cluster in [0, 99, 110, u64::MAX] {
            assert!(counts.add_one(cluster));
            assert_eq!(counts.add(budget, cluster, 5).unwrap(), 0);
        }
        assert_eq!((counts.window(), counts.of(110)), ((100, 110), 0));
        let error = counts.add(budget, 100, 255);
        assert_eq!(error, Err(Error::OutOfBudget(Resource::Heap)), "the map is paid for");
    }
}
