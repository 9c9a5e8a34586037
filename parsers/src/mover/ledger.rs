//! Who gets which cluster: in the order of the disk, whichever lane comes first.
//!
//! A lane deposits which parts of a stretch need a place and goes on with the next stretch; clusters are
//! handed out as soon as all stretches before have been deposited. So a lane that the host does not run for a while holds up the others only
//! when they are [`super::WAITING_MAX`] stretches ahead.

use super::stretch::Mark;
use crate::qcow2::create::{Placed, Writer};
use crate::store::SmallMap;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::Error;
use instar_abi::request::DiskId;

/// Content that needs a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A range of the disk, as it is.
    Plain(Range<u64>),
    /// The compressed cluster at a place of the disk.
    Stream(u64, Vec<u8>),
    /// A range of the disk without bytes.
    Marked(Range<u64>, Mark),
}

impl Content {
    /// Where it starts in the disk.
    #[must_use]
    pub const fn start(&self) -> u64 {
        match self {
            Self::Plain(range) | Self::Marked(range, _) => range.start,
            Self::Stream(start, _) => *start,
        }
    }
}

/// The places of a stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// One for each plain range.
    pub placed: Vec<Placed>,
    /// Streams, and tables that they or marks completed.
    pub complete: Vec<(u64, Vec<u8>)>,
    /// What the launcher copies: from, first byte there, first byte of the target, bytes.
    pub copies: Vec<(DiskId, u64, u64, u64)>,
}

/// Deposits and what has come of them.
pub struct Ledger {
    writer: Writer,
    /// The first stretch that has not been deposited.
    next: u64,
    /// Later stretches: their parts with content.
    waiting: SmallMap<u64, Vec<Content>>,
    /// Earlier ones: their places, until they are collected.
    placed: SmallMap<u64, Places>,
}

impl Ledger {
    /// A ledger for a new image.
    #[must_use]
    pub fn new(writer: Writer) -> Self {
        Self { writer, next: 0, waiting: SmallMap::default(), placed: SmallMap::default() }
    }

    /// Takes in the content of stretch `number`, ascending.
    ///
    /// # Errors
    /// The writer's.
    pub fn deposit(&mut self, number: u64, content: Vec<Content>) -> Result<(), Error> {
        self.waiting.insert(number, content);
        while let Some(content) = self.waiting.remove(&self.next) {
            let mut places = Places::default();
            for content in content {
                match content {
                    Content::Plain(range) => places.placed.push(self.writer.place(range)?),
                    Content::Stream(start, stream) => self.writer.pack(start, &stream, &mut places.complete)?,
                    Content::Marked(range, Mark::Zero) => self.writer.zero(range, &mut places.complete)?,
                    Content::Marked(range, Mark::Reserved) => self.writer.reserve(range, &mut places.complete)?,
                    Content::Marked(range, Mark::Copy { disk, mut offset }) => {
                        let placed = self.writer.place(range)?;
                        places.complete.extend(placed.tables);
                        for (at, len) in placed.parts {
                            places.copies.push((disk, offset, at, len));
                            offset = offset.saturating_add(len);
                        }
                    }
                }
            }
            places.complete.extend(self.writer.whole_sectors());
            self.placed.insert(self.next, places);
            self.next = self.next.saturating_add(1);
        }
        Ok(())
    }

    /// The places of stretch `number`, once they are known.
    pub fn collect(&mut self, number: u64) -> Option<Places> {
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
    use instar_abi::request::{self, Qcow2Options};

    fn ledger() -> Ledger {
        let given = request::Budget { heap_bytes: 1 << 20, read_bytes: 0, steps: 0, depth: 0 };
        let layout = Layout::try_from(&Qcow2Options::default()).unwrap();
        Ledger::new(Writer::new(&mut Budget::from(given), layout, 4 << 30, DiskId(0), u64::MAX).unwrap())
    }

    #[test]
    fn clusters_do_not_depend_on_the_order_of_deposits() {
        let cluster = |start: u64| Content::Plain(start..start + 65536);
        let stretches: Vec<Vec<Content>> = vec![
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
        assert!(early.collect(1).is_some_and(|places| places.placed.len() == 1));
    }
}
