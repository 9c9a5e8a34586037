//! A machine of one lane for operations that only read, over images of a few pieces: nothing of them is copied.

use crate::blocks::FuzzBlocks;
use instar_abi::reply::{Frame, decode_batch};
use instar_io::{Env, LaneWork, ReplyError};

/// The machine of one job.
pub struct SparseMachine<'i, 'a> {
    lane: FuzzBlocks<'i, 'a>,
    /// Every frame that the operation sent.
    pub frames: Vec<Frame>,
}

impl<'i, 'a> SparseMachine<'i, 'a> {
    /// A machine with these queues.
    #[must_use]
    pub const fn new(lane: FuzzBlocks<'i, 'a>) -> Self {
        Self { lane, frames: Vec::new() }
    }
}

impl<'i, 'a> Env for SparseMachine<'i, 'a> {
    type Lane = FuzzBlocks<'i, 'a>;

    fn lane(&mut self) -> &mut FuzzBlocks<'i, 'a> {
        &mut self.lane
    }

    fn lanes(&self) -> usize {
        1
    }

    fn run_lanes(&mut self, work: LaneWork<'_, FuzzBlocks<'i, 'a>>) {
        work(0, &mut self.lane);
    }

    fn reply(&mut self, batch: Vec<u8>) -> Result<(), ReplyError> {
        decode_batch(&batch, |frame| self.frames.push(frame)).expect("frames decode");
        Ok(())
    }
}
