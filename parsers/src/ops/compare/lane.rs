//! One lane of a comparison.

use super::pair::Shared;
use crate::codec::{Codecs, Decoder};
use crate::mover::{BUFFERS_MAX, Buffers, Filling, Slot, Stretch, UNIT, is_zero};
use crate::store::{Queue, SmallMap, outcome};
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::Error;
use instar_abi::reply::Difference;
use instar_abi::request::Disk;
use instar_io::{Blocks, SECTOR_LEN, Token};

/// A lane at work.
pub struct Lane<'a, 'q, B: Blocks> {
    shared: &'a Shared,
    index: usize,
    queue: Queue<'q, B>,
    disks: &'a [Disk],
    buffers: Buffers,
    decoder: Decoder,
    cluster: Vec<u8>,
    reads: SmallMap<Token, (usize, Vec<Slot>)>,
    told: u64,
}

impl<'a, 'q, B: Blocks> Lane<'a, 'q, B> {
    /// A lane with nothing in flight.
    pub fn new(shared: &'a Shared, index: usize, blocks: &'q mut B, disks: &'a [Disk], codecs: Codecs) -> Self {
        Self {
            shared,
            index,
            queue: Queue::new(blocks),
            disks,
            buffers: Buffers::default(),
            decoder: codecs.decoder(),
            cluster: Vec::new(),
            reads: SmallMap::default(),
            told: 0,
        }
    }

    /// Compares stretches until none is left.
    pub fn run(&mut self) {
        while let Some((range, stretches)) = self.shared.take(&mut self.queue, self.disks) {
            self.compare(&range, stretches);
            self.tell();
        }
    }

    fn compare(&mut self, range: &Range<u64>, stretches: [Stretch; 2]) {
        let mut fillings = Vec::with_capacity(stretches.len());
        for (side, stretch) in stretches.into_iter().enumerate() {
            match self.start(side, stretch) {
                Ok(filling) => fillings.push(filling),
                Err(error) => return self.fail(side, range.start, error),
            }
        }
        self.queue.kick();
        while fillings.iter().any(|filling| filling.reads_left > 0) {
            let completion = self.queue.next_finished();
            let Some((side, slots)) = self.reads.remove(&completion.token) else { continue };
            let Some(filling) = fillings.get_mut(side) else { continue };
            match outcome(completion) {
                Ok(segments) => filling.absorb(&slots, segments),
                // The others are still in flight, and must not be taken for those of a later stretch.
                Err(error) => {
                    filling.absorb(&[], Vec::new());
                    self.fail(side, range.start, error);
                }
            }
        }
        for (side, filling) in fillings.iter_mut().enumerate() {
            if let Err(error) = filling.decode(&mut self.decoder, &mut self.cluster, false) {
                self.fail(side, range.start, error);
            }
        }
        if let [left, right] = fillings.as_slice()
            && let Some(at) = first_difference(range, left, right)
        {
            self.shared.differ(at, Difference::Content(at));
        }
        for filling in fillings {
            filling.units.into_iter().for_each(|unit| self.buffers.give(unit));
        }
    }

    fn start(&mut self, side: usize, stretch: Stretch) -> Result<Filling, Error> {
        debug_assert!(self.buffers.out() <= BUFFERS_MAX, "all come back after every stretch");
        let (filling, reads) = Filling::start(stretch, &mut self.buffers, self.disks)?;
        for read in reads {
            let token = self.queue.submit(read.request)?;
            self.reads.insert(token, (side, read.slots));
        }
        Ok(filling)
    }

    fn fail(&self, side: usize, offset: u64, error: Error) {
        let image = self.shared.id(side);
        self.shared.fail(offset, Error::Compare { image, offset, is_content: true, error: error.into() });
    }

    /// Lane 0 has the control device: it tells how far all lanes have come, with the next kick.
    fn tell(&mut self) {
        if self.index == 0 {
            self.shared.progress.tell(&mut self.queue, &mut self.told);
        }
    }
}

/// The first sector of `range` in which two sides differ; one without units is zero.
fn first_difference(range: &Range<u64>, left: &Filling, right: &Filling) -> Option<u64> {
    let units = if left.stretch.units.is_empty() { &right.stretch.units } else { &left.stretch.units };
    units.iter().enumerate().find_map(|(index, &start)| {
        // Only what the stretch covers: beyond, a unit holds anything.
        let part = |unit: u64| usize::try_from(unit.saturating_sub(start)).unwrap_or(usize::MAX).min(UNIT as usize);
        let bounds = part(range.start)..part(range.end);
        let [left, right] = [left, right].map(|side| side.units.get(index).and_then(|unit| unit.get(bounds.clone())));
        let at = match (left, right) {
            (Some(left), Some(right)) => differing_sector(left, right)?,
            (Some(bytes), None) | (None, Some(bytes)) => nonzero_sector(bytes)?,
            (None, None) => return None,
        };
        Some(start.max(range.start).saturating_add(at as u64))
    })
}

fn differing_sector(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    let sectors = left.chunks(SECTOR_LEN as usize).zip(right.chunks(SECTOR_LEN as usize));
    let index = sectors.into_iter().position(|(left, right)| left != right)?;
    Some(index.saturating_mul(SECTOR_LEN as usize))
}

fn nonzero_sector(bytes: &[u8]) -> Option<usize> {
    if is_zero(bytes) {
        return None;
    }
    let index = bytes.chunks(SECTOR_LEN as usize).position(|sector| !is_zero(sector))?;
    Some(index.saturating_mul(SECTOR_LEN as usize))
}
