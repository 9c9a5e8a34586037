//! One lane: everything from taking a stretch to its writes.

use super::buffers::Buffers;
use super::filling::{Filling, Slot};
use super::salvage::{Reread, reread};
use super::shared::Shared;
use super::target::{Kept, Writes};
use super::{BUFFERS_MAX, STRETCH_UNITS, STRETCHES_AHEAD};
use crate::codec::{Decoder, Encoder};
use crate::store::{Queue, SmallMap, outcome};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_io::{BlockError, Blocks, Completion, Token};

/// A lane at work.
pub struct Lane<'a, 'q, B: Blocks> {
    shared: &'a Shared<'a>,
    index: usize,
    queue: Queue<'q, B>,
    buffers: Buffers,
    decoder: Decoder,
    encoder: Encoder,
    cluster: Vec<u8>,
    /// Stretches that are being read, in the order of the disk.
    fillings: VecDeque<Filling>,
    /// Reads in flight: the stretch that each fills, and how.
    reads: SmallMap<Token, (u64, Vec<Slot>)>,
    /// Writes of tables, whose buffers are not ours to keep.
    tables: SmallMap<Token, ()>,
    writes_left: usize,
    /// Stretches that may be read at a time.
    ahead: usize,
    /// Stretches that have been read, and whose clusters are not known yet.
    waiting: VecDeque<Kept>,
    /// Bytes of the disk that progress has told of.
    told: u64,
}

impl<'a, 'q, B: Blocks> Lane<'a, 'q, B> {
    /// A lane with nothing in flight.
    pub fn new(shared: &'a Shared<'a>, index: usize, blocks: &'q mut B) -> Self {
        let ahead = if blocks.overlaps() { STRETCHES_AHEAD } else { 1 };
        Self {
            shared,
            index,
            queue: Queue::new(blocks),
            buffers: Buffers::default(),
            decoder: shared.target.codecs.decoder(),
            encoder: shared.target.codecs.encoder(shared.target.compression()),
            cluster: Vec::new(),
            fillings: VecDeque::new(),
            reads: SmallMap::default(),
            tables: SmallMap::default(),
            writes_left: 0,
            ahead,
            waiting: VecDeque::new(),
            told: 0,
        }
    }

    /// Moves stretches until none is left, or any lane has failed.
    ///
    /// # Errors
    /// The first thing that goes wrong here. Nothing of this lane is in flight after success.
    pub fn run(&mut self) -> Result<(), Error> {
        while self.fillings.len() < self.ahead && self.start_next()? {}
        while let Some(filling) = self.fillings.front() {
            if filling.reads_left > 0 {
                self.finish_one()?;
                continue;
            }
            let Some(mut filling) = self.fillings.pop_front() else { break };
            filling.decode(&mut self.decoder, &mut self.cluster, self.shared.salvage)?;
            self.shared.lose(core::mem::take(&mut filling.lost));
            self.keep(filling)?;
            self.start_writes()?;
            self.wait_for_clusters(self.shared.waiting_max)?;
            self.start_next()?;
            self.tell();
        }
        self.wait_for_clusters(0)?;
        while self.writes_left > 0 {
            self.finish_one()?;
        }
        Ok(())
    }

    /// Submits the reads of the next stretch; false where there is none.
    fn start_next(&mut self) -> Result<bool, Error> {
        let Some(stretch) = self.shared.take(&mut self.queue)? else { return Ok(false) };
        // Whatever is finished by now gives its buffers back; usually that is all writes but those not started yet.
        while self.writes_left > 0
            && let Some(completion) = self.queue.poll_finished()
        {
            self.absorb(completion)?;
        }
        let max =
            self.waiting.len().saturating_mul(STRETCH_UNITS).saturating_add(self.ahead.saturating_mul(BUFFERS_MAX));
        while self.writes_left > 0 && self.buffers.out().saturating_add(stretch.units.len()) > max {
            self.finish_one()?;
        }
        let (filling, reads) = Filling::start(stretch, &mut self.buffers, self.shared.disks)?;
        for read in reads {
            let token = self.queue.submit(read.request)?;
            self.reads.insert(token, (filling.stretch.number, read.slots));
        }
        self.fillings.push_back(filling);
        Ok(true)
    }

    /// Lane 0 has the control device: it tells how far all lanes have come, with a kick that is due anyway.
    fn tell(&mut self) {
        if self.index == 0 {
            self.shared.progress.tell(&mut self.queue, &mut self.told);
        }
    }

    /// Keeps what is to be written of a stretch.
    fn keep(&mut self, filling: Filling) -> Result<(), Error> {
        let mut unused = Vec::new();
        let kept = self.shared.target.keep(filling.stretch, filling.units, &mut self.encoder, &mut unused)?;
        unused.into_iter().for_each(|buffer| self.buffers.give(buffer));
        self.waiting.push_back(kept);
        Ok(())
    }

    /// Waits until no more than `max` stretches are kept, or a lane has failed.
    fn wait_for_clusters(&mut self, max: usize) -> Result<(), Error> {
        while self.waiting.len() > max && !self.shared.has_failed() {
            self.queue.kick();
            self.queue.relax();
            self.start_writes()?;
        }
        Ok(())
    }

    /// Submits the writes of those kept stretches whose clusters are known.
    fn start_writes(&mut self) -> Result<(), Error> {
        while let Some(kept) = self.waiting.pop_front() {
            let mut unused = Vec::new();
            match self.shared.target.writes(kept, &mut unused) {
                Ok(writes) => self.submit(writes)?,
                Err(kept) => {
                    self.waiting.push_front(kept);
                    return Ok(());
                }
            }
            unused.into_iter().for_each(|buffer| self.buffers.give(buffer));
        }
        Ok(())
    }

    fn submit(&mut self, writes: Writes) -> Result<(), Error> {
        self.shared.add_copies(writes.copies);
        for request in writes.content {
            self.queue.submit(request)?;
            self.writes_left = self.writes_left.saturating_add(1);
        }
        for request in writes.tables {
            let token = self.queue.submit(request)?;
            self.tables.insert(token, ());
            self.writes_left = self.writes_left.saturating_add(1);
        }
        Ok(())
    }

    /// Waits for one request: a read fills its stretch, a write gives its buffers back.
    /// What has been submitted starts only now, when there is nothing else to do: a kick costs an exit.
    fn finish_one(&mut self) -> Result<(), Error> {
        let completion = match self.queue.poll_finished() {
            Some(completion) => completion,
            None => {
                self.queue.kick();
                self.queue.next_finished()
            }
        };
        self.absorb(completion)
    }

    fn absorb(&mut self, completion: Completion) -> Result<(), Error> {
        let read = self.reads.remove(&completion.token);
        let is_table = self.tables.remove(&completion.token).is_some();
        let Reread { segments, lost } = match completion.result {
            Err(BlockError::Io) if self.shared.salvage && read.is_some() => {
                reread(&mut self.queue, completion.request)?
            }
            _ => Reread { segments: outcome(completion)?, lost: Vec::new() },
        };
        match read {
            Some((number, slots)) => {
                let filling = self.fillings.iter_mut().find(|filling| filling.stretch.number == number);
                if let Some(filling) = filling {
                    filling.lose(&slots, &segments, &lost);
                    filling.absorb(&slots, segments);
                }
            }
            None => {
                self.writes_left = self.writes_left.saturating_sub(1);
                if !is_table {
                    segments.into_iter().for_each(|buffer| self.buffers.give(buffer));
                }
            }
        }
        Ok(())
    }
}
