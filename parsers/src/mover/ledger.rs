//! Who gets which cluster: in the order of the disk, whichever lane comes first.
//!
//! A lane deposits which parts of a stretch need a place and goes on with the next stretch; clusters are
//! handed out as soon as all stretches before have been deposited. So a lane that the host does not run for a while holds up the others only
//! when they are [`super::WAITING_MAX`] stretches ahead.

use crate::qcow2::create::{Placed, Writer};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::Error;

/// Deposits and what has come of them.
pub struct Ledger {
    writer: Writer,
    /// The first stretch that has not been deposited.
    next: u64,
    /// Later stretches: their parts with content.
    waiting: BTreeMap<u64, Vec<Range<u64>>>,
    /// Earlier ones: their places, until they are collected.
    placed: BTreeMap<u64, Vec<Placed>>,
}

impl Ledger {
    /// A ledger for a new image.
    #[must_use]
    pub const fn new(writer: Writer) -> Self {
        Self { writer, next: 0, waiting: BTreeMap::new(), placed: BTreeMap::new() }
    }

    /// Takes in which ranges of the disk need a place for stretch `number`, ascending.
    ///
    /// # Errors
    /// The writer's.
    pub fn deposit(&mut self, number: u64, ranges: Vec<Range<u64>>) -> Result<(), Error> {
        self.waiting.insert(number, ranges);
        while let Some(ranges) = self.waiting.remove(&self.next) {
            let mut placed = Vec::with_capacity(ranges.len());
            for range in ranges {
                placed.push(self.writer.place(range)?);
            }
            self.placed.insert(self.next, placed);
            self.next = self.next.saturating_add(1);
        }
        Ok(())
    }

    /// The places of stretch `number`, one a range, once they are known.
    pub fn collect(&mut self, number: u64) -> Option<Vec<Placed>> {
        self.placed.remove(&number)
    }

    /// The writer, when everything has been collected.
    #[must_use]
    pub fn into_writer(self) -> Writer {
        self.writer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::create::Layout;
    use crate::store::Budget;
    use instar_abi::request::{self, DiskId, Qcow2Options};

    fn ledger() -> Ledger {
        let given = request::Budget { heap_bytes: 1 << 20, read_bytes: 0, steps: 0, depth: 0 };
        let layout = Layout::try_from(&Qcow2Options::default()).unwrap();
        Ledger::new(Writer::new(&mut Budget::from(given), layout, 4 << 30, DiskId(0), u64::MAX).unwrap())
    }

    #[test]
    fn clusters_do_not_depend_on_the_order_of_deposits() {
        let cluster = |start: u64| start..start + 65536;
        let stretches: Vec<Vec<Range<u64>>> = vec![
            vec![cluster(0), cluster(65536)],
            vec![],
            vec![cluster(1 << 30)],
            vec![cluster(2 << 30), cluster(3 << 30)],
        ];
        let placed = |order: [u64; 4]| {
            let mut ledger = ledger();
            for number in order {
                ledger.deposit(number, stretches[number as usize].clone()).unwrap();
            }
            [0, 1, 2, 3].map(|number| ledger.collect(number).expect("placed"))
        };
        let expected = placed([0, 1, 2, 3]);
        for order in [[3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 3, 1]] {
            assert_eq!(placed(order), expected);
        }
        let mut early = ledger();
        early.deposit(1, vec![cluster(65536)]).unwrap();
        assert_eq!(early.collect(1), None);
        early.deposit(0, vec![]).unwrap();
        assert!(early.collect(1).is_some_and(|placed| placed.len() == 1));
    }
}
