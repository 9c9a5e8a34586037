//! Who gets which cluster: in the order of the disk, whichever lane comes first; or, where the user does not care, in
//! the order in which lanes come.
//!
//! A lane deposits which parts of a stretch need a place and goes on with the next stretch; clusters are
//! handed out as soon as all stretches before have been deposited. So a lane that the host does not run for a while holds up the others only
//! when they are [`super::WAITING_MAX`] stretches ahead. In any order clusters are handed out at once, as long as no
//! more L2 tables wait for their last entries than memory has room for.

use super::stretch::Mark;
use crate::qcow2::create::Writer;
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
    /// One for each plain range: consecutive parts of it, by place in the file and bytes.
    pub placed: Vec<Vec<(u64, u64)>>,
    /// Streams and tables that are complete.
    pub complete: Vec<(u64, Vec<u8>)>,
    /// What the launcher copies: from, first byte there, first byte of the target, bytes.
    pub copies: Vec<(DiskId, u64, u64, u64)>,
}

/// Bytes of L2 tables from which on stretches take their turns in any order, too; one table may always wait.
const TABLES_LEN_MAX: u64 = 2 << 20;
/// Stretches that may be placed ahead of the first one that has not been deposited.
const AHEAD_MAX: u64 = 256;

/// Deposits and what has come of them.
pub struct Ledger {
    writer: Writer,
    /// Stretches need not take turns.
    any_order: bool,
    /// The first stretch that has not been deposited.
    next: u64,
    /// Where the content of those before it ends: nothing more comes before that.
    settled: u64,
    /// Later stretches: their parts with content.
    waiting: SmallMap<u64, Vec<Content>>,
    /// Later stretches that have been placed: where their content ends.
    ahead: SmallMap<u64, u64>,
    /// Stretches that have been placed: their places, until they are collected.
    placed: SmallMap<u64, Places>,
}

impl Ledger {
    /// A ledger for a new image.
    #[must_use]
    pub fn new(writer: Writer, any_order: bool) -> Self {
        let (waiting, ahead, placed) = (SmallMap::default(), SmallMap::default(), SmallMap::default());
        Self { writer, any_order, next: 0, settled: 0, waiting, ahead, placed }
    }

    /// Takes in the content of stretch `number`, ascending.
    ///
    /// # Errors
    /// The writer's.
    pub fn deposit(&mut self, number: u64, content: Vec<Content>) -> Result<(), Error> {
        if number != self.next {
            if self.any_order && self.has_room(number) {
                self.ahead.insert(number, end(&content));
                return self.place(number, content);
            }
            self.waiting.insert(number, content);
            return Ok(());
        }
        let mut next = Some(content);
        loop {
            if let Some(content) = next.take() {
                self.settled = self.settled.max(end(&content));
                self.place(self.next, content)?;
            } else if let Some(end) = self.ahead.remove(&self.next) {
                self.settled = self.settled.max(end);
            } else {
                break;
            }
            self.next = self.next.saturating_add(1);
            next = self.waiting.remove(&self.next);
        }
        let tables = self.writer.settle(self.settled);
        if let Some(places) = self.placed.get_mut(&number) {
            places.complete.extend(tables);
        }
        Ok(())
    }

    fn has_room(&self, number: u64) -> bool {
        number.saturating_sub(self.next) < AHEAD_MAX && self.writer.tables_len() <= TABLES_LEN_MAX
    }

    /// Hands out the clusters of a stretch.
    fn place(&mut self, number: u64, content: Vec<Content>) -> Result<(), Error> {
        let mut places = Places::default();
        for content in content {
            match content {
                Content::Plain(range) => places.placed.push(self.writer.place(range)?),
                Content::Stream(start, stream) => self.writer.pack(start, &stream, &mut places.complete)?,
                Content::Marked(range, Mark::Zero) => self.writer.zero(range)?,
                Content::Marked(range, Mark::Reserved) => self.writer.reserve(range)?,
                Content::Marked(range, Mark::Copy { disk, mut offset }) => {
                    for (at, len) in self.writer.place(range)? {
                        places.copies.push((disk, offset, at, len));
                        offset = offset.saturating_add(len);
                    }
                }
            }
        }
        places.complete.extend(self.writer.whole_sectors());
        self.placed.insert(number, places);
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

/// Where the content of a stretch ends: later ones have nothing before that.
fn end(content: &[Content]) -> u64 {
    content.last().map_or(0, |last| match last {
        Content::Plain(range) | Content::Marked(range, _) => range.end,
        Content::Stream(start, _) => *start,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::create::Layout;
    use crate::store::Budget;
    use instar_abi::request::{self, Qcow2Options};

    fn ledger(any_order: bool) -> Ledger {
        let given = request::Budget { heap_bytes: 1 << 20, read_bytes: 0, steps: 0, depth: 0 };
        let layout = Layout::try_from(&Qcow2Options::default()).unwrap();
        Ledger::new(Writer::new(&mut Budget::from(given), layout, 128 << 30, DiskId(0), u64::MAX).unwrap(), any_order)
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
            let mut ledger = ledger(false);
            for number in order {
                ledger.deposit(number, stretches[number as usize].clone()).unwrap();
            }
            let places = [0, 1, 2, 3].map(|number| ledger.collect(number).expect("placed"));
            // Whoever comes last writes what is complete.
            let mut complete: Vec<_> = places.iter().flat_map(|places| places.complete.clone()).collect();
            complete.sort_unstable();
            (places.map(|places| places.placed), complete)
        };
        let expected = placed([0, 1, 2, 3]);
        for order in [[3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 3, 1]] {
            assert_eq!(placed(order), expected);
        }
        let mut early = ledger(false);
        early.deposit(1, vec![cluster(65536)]).unwrap();
        assert_eq!(early.collect(1), None);
        early.deposit(0, vec![]).unwrap();
        assert!(early.collect(1).is_some_and(|places| places.placed.len() == 1));
    }
    #[test]
    fn in_any_order_a_later_stretch_gets_an_earlier_cluster() {
        let mut ledger = ledger(true);
        let cluster = |start: u64| vec![Content::Plain(start..start + 65536)];
        let offset = |ledger: &mut Ledger, number| ledger.collect(number).expect("placed").placed[0][0].0;
        ledger.deposit(1, cluster(65536)).unwrap();
        let later = offset(&mut ledger, 1);
        ledger.deposit(0, cluster(0)).unwrap();
        assert!(later < offset(&mut ledger, 0));
    }

    /// Each stretch has a table of its own: those that wait for the first one are few, and so are the tables.
    #[test]
    fn what_is_ahead_is_bounded() {
        for any_order in [false, true] {
            let mut ledger = ledger(any_order);
            let cluster = |number: u64| vec![Content::Plain(number << 30..(number << 30) + 65536)];
            for number in 1..100 {
                ledger.deposit(number, cluster(number)).unwrap();
            }
            assert!(ledger.writer.tables_len() <= TABLES_LEN_MAX + 65536, "{}", ledger.writer.tables_len());
            let ahead = (1..100).filter(|number| ledger.collect(*number).is_some()).count();
            assert_eq!(ahead, if any_order { 33 } else { 0 });
            ledger.deposit(0, cluster(0)).unwrap();
            // All but the last one.
            assert_eq!(ledger.collect(0).expect("placed").complete.len(), 99);
            assert_eq!(ledger.writer.tables_len(), 65536);
            assert!((1..100).filter_map(|number| ledger.collect(number)).all(|places| places.complete.is_empty()));
        }
        let mut dense = ledger(true);
        for number in 1..1000 {
            dense.deposit(number, vec![Content::Plain(number << 16..(number + 1) << 16)]).unwrap();
        }
        assert_eq!((1..1000).filter(|number| dense.collect(*number).is_some()).count() as u64, AHEAD_MAX - 1);
    }
}
