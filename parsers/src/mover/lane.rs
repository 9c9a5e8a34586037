//! One lane: everything from taking a stretch to its writes.

use super::BUFFERS_MAX;
use super::buffers::Buffers;
use super::filling::{Filling, Slot};
use super::shared::Shared;
use crate::codec::Decoder;
use crate::store::{Queue, outcome};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_io::{Blocks, Completion, Token};

/// A lane at work.
pub struct Lane<'a, 'q, B: Blocks> {
    shared: &'a Shared<'a>,
    queue: Queue<'q, B>,
    buffers: Buffers,
    decoder: Decoder,
    cluster: Vec<u8>,
    reads: BTreeMap<Token, Vec<Slot>>,
    /// Writes of tables, whose buffers are not ours to keep.
    tables: BTreeSet<Token>,
    writes_left: usize,
}

impl<'a, 'q, B: Blocks> Lane<'a, 'q, B> {
    /// A lane with nothing in flight.
    pub fn new(shared: &'a Shared<'a>, blocks: &'q mut B) -> Self {
        Self {
            shared,
            queue: Queue::new(blocks),
            buffers: Buffers::default(),
            decoder: Decoder::default(),
            cluster: Vec::new(),
            reads: BTreeMap::new(),
            tables: BTreeSet::new(),
            writes_left: 0,
        }
    }

    /// Moves stretches until none is left in this section, or any lane has failed.
    ///
    /// # Errors
    /// The first thing that goes wrong here. Nothing of this lane is in flight after success.
    pub fn run(&mut self) -> Result<(), Error> {
        let mut current = self.start_next()?;
        self.queue.kick();
        while let Some(mut filling) = current {
            while filling.reads_left > 0 {
                self.finish_one(Some(&mut filling))?;
            }
            filling.decode(&mut self.decoder, &mut self.cluster)?;
            if !self.start_writes(filling)? {
                break;
            }
            current = self.start_next()?;
            self.queue.kick();
        }
        while self.writes_left > 0 {
            self.finish_one(None)?;
        }
        Ok(())
    }

    /// Submits the reads of the next stretch.
    fn start_next(&mut self) -> Result<Option<Filling>, Error> {
        let Some(stretch) = self.shared.take(&mut self.queue)? else { return Ok(None) };
        // Whatever is finished by now gives its buffers back; usually that is all writes but those not started yet.
        while self.writes_left > 0
            && let Some(completion) = self.queue.poll_finished()
        {
            self.absorb(completion, None)?;
        }
        while self.writes_left > 0 && self.buffers.out().saturating_add(stretch.units.len()) > BUFFERS_MAX {
            self.queue.kick();
            self.finish_one(None)?;
        }
        let (filling, reads) = Filling::start(stretch, &mut self.buffers, self.shared.disks)?;
        for read in reads {
            let token = self.queue.submit(read.request)?;
            self.reads.insert(token, read.slots);
        }
        Ok(Some(filling))
    }

    /// Submits the writes of a stretch; `false` when another lane has failed.
    fn start_writes(&mut self, filling: Filling) -> Result<bool, Error> {
        let mut unused = Vec::new();
        let number = filling.stretch.number;
        let Some(turn) = self.shared.turn(number) else { return Ok(false) };
        let writes = self.shared.target.writes(&filling.stretch.units, filling.units, &mut unused)?;
        drop(turn);
        unused.into_iter().for_each(|buffer| self.buffers.give(buffer));
        for request in writes.content {
            self.queue.submit(request)?;
            self.writes_left = self.writes_left.saturating_add(1);
        }
        for request in writes.tables {
            let token = self.queue.submit(request)?;
            self.tables.insert(token);
            self.writes_left = self.writes_left.saturating_add(1);
        }
        Ok(true)
    }

    /// Waits for one request: a read goes into `filling`, a write gives its buffers back.
    fn finish_one(&mut self, filling: Option<&mut Filling>) -> Result<(), Error> {
        let completion = self.queue.next_finished();
        self.absorb(completion, filling)
    }

    fn absorb(&mut self, completion: Completion, filling: Option<&mut Filling>) -> Result<(), Error> {
        let slots = self.reads.remove(&completion.token);
        let is_table = self.tables.remove(&completion.token);
        let segments = outcome(completion)?;
        match (slots, filling) {
            (Some(slots), Some(filling)) => filling.absorb(&slots, segments),
            // Reads are in flight only while there is a stretch that they fill.
            (Some(_), None) => {}
            (None, _) => {
                self.writes_left = self.writes_left.saturating_sub(1);
                if !is_table {
                    segments.into_iter().for_each(|buffer| self.buffers.give(buffer));
                }
            }
        }
        Ok(())
    }
}
