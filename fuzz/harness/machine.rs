//! A machine for whole operations: sources of fuzz input, outputs in memory, one lane or several.

use crate::turns::Turns;
use instar_abi::reply::{CopyRange, Frame, decode_batch};
use instar_abi::request::{Access, Disk};
use instar_io::{
    Action, BlockError, BlockRequest, Blocks, Completion, Env, LaneWork, ReplyError, SECTOR_LEN, SubmitError, Token,
};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Requests that a lane may have under way, as the guest's queues have.
const DEPTH: usize = 64;
/// Polls in a row that find nothing; a lane that waits for itself would go on for ever.
const IDLE_POLLS_MAX: u32 = 1000;

/// Bytes at the front of each disk that turns are drawn from.
const SEED_LEN: usize = 64 << 10;

/// How long a lane waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// A disk's bytes, which all lanes share.
type Bytes = Arc<Mutex<Vec<u8>>>;

/// The machine of one job.
pub struct FuzzMachine {
    lanes: Vec<FuzzLane>,
    /// Every frame that the operation sent and waited for.
    pub frames: Vec<Frame>,
}

impl FuzzMachine {
    /// A machine with these disks and what they hold; its request number `fails_at`, over all lanes, fails.
    #[must_use]
    pub fn new(disks: &[(Disk, &[u8])], lanes: u8, fails_at: Option<u64>) -> Self {
        let disks: Vec<(Disk, Bytes)> =
            disks.iter().map(|(disk, bytes)| (disk.clone(), Arc::new(Mutex::new(bytes.to_vec())))).collect();
        let served = Arc::new(AtomicU64::new(0));
        let lane = |_| FuzzLane {
            disks: disks.clone(),
            served: Arc::clone(&served),
            fails_at,
            next: 0,
            submitted: VecDeque::new(),
            started: VecDeque::new(),
            idle_polls: 0,
            turns: None,
            overlaps: false,
        };
        let mut lanes: Vec<FuzzLane> = (0..lanes.max(1)).map(lane).collect();
        let overlaps = lanes[0].seed() & 1 == 0;
        lanes.iter_mut().for_each(|lane| lane.overlaps = overlaps);
        Self { lanes, frames: Vec::new() }
    }

    /// What a disk holds now.
    #[must_use]
    pub fn bytes(&self, disk: usize) -> Vec<u8> {
        self.lanes[0].disks[disk].1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests served so far.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.lanes[0].served.load(Ordering::Relaxed)
    }
}

/// A lane's queues; requests finish in the order in which they were started.
pub struct FuzzLane {
    disks: Vec<(Disk, Bytes)>,
    served: Arc<AtomicU64>,
    fails_at: Option<u64>,
    next: u64,
    submitted: VecDeque<(Token, BlockRequest)>,
    started: VecDeque<(Token, BlockRequest)>,
    idle_polls: u32,
    /// Where there are several lanes: whose turn it is, and which lane this is.
    turns: Option<(Arc<Turns>, usize)>,
    /// Drawn from the input: whether the device is one that works while the lane goes on.
    overlaps: bool,
}

impl FuzzLane {
    /// What is drawn from the input: a number of its disks' first bytes.
    fn seed(&self) -> u64 {
        let disks = self.disks.iter().map(|(_, bytes)| bytes.lock().unwrap_or_else(PoisonError::into_inner));
        disks.fold(0, |seed, bytes| {
            let front = bytes.iter().take(SEED_LEN).step_by(3);
            front.fold(seed ^ bytes.len() as u64, |seed, &byte| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte))
        })
    }

    fn step(&self, is_idle: bool) {
        if let Some((turns, lane)) = &self.turns {
            turns.step(*lane, is_idle);
        }
    }

    fn serve(&self, request: &mut BlockRequest) -> Result<(), BlockError> {
        let number = self.served.fetch_add(1, Ordering::Relaxed);
        if self.fails_at == Some(number) {
            return Err(BlockError::Io);
        }
        self.transfer(request)
    }

    fn transfer(&self, request: &mut BlockRequest) -> Result<(), BlockError> {
        let (disk, bytes) = &self.disks[request.disk as usize];
        let end = request.offset.checked_add(request.len()).ok_or(BlockError::Io)?;
        let limit = match disk.access {
            Access::ReadOnly => disk.len.next_multiple_of(SECTOR_LEN),
            Access::Output { capacity } => capacity,
        };
        assert!(end <= limit, "{request:?} leaves its disk of {limit} bytes");
        let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = request.offset as usize;
        for segment in &mut request.segments {
            match request.action {
                Action::Read => {
                    segment.fill(0);
                    let from = at.min(bytes.len());
                    let len = segment.len().min(bytes.len() - from);
                    segment[..len].copy_from_slice(&bytes[from..from + len]);
                }
                Action::Write => {
                    assert!(disk.access != Access::ReadOnly, "{request:?} to a source");
                    let end = at + segment.len();
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    bytes[at..end].copy_from_slice(segment);
                }
                Action::Flush => {}
            }
            at += segment.len();
        }
        Ok(())
    }
}

impl FuzzLane {
    /// What the launcher does for a range.
    fn copy(&self, range: &CopyRange) {
        let transfer = |disk: u32, action, offset, bytes| {
            let mut request = BlockRequest { disk, action, offset, segments: vec![bytes] };
            self.transfer(&mut request).expect("the range is within its disks");
            request.segments.remove(0)
        };
        let end = range.from_offset + range.len;
        assert!(range.len > 0 && end <= self.disks[range.from.0 as usize].0.len, "{range:?} past the end");
        let bytes = transfer(range.from.0, Action::Read, range.from_offset, vec![0; range.len as usize]);
        transfer(range.to.0, Action::Write, range.to_offset, bytes);
    }
}

impl Blocks for FuzzLane {
    fn submit(&mut self, request: BlockRequest) -> Result<Token, SubmitError> {
        let whole = |len: u64| len.is_multiple_of(SECTOR_LEN);
        let sound = (request.disk as usize) < self.disks.len()
            && whole(request.offset)
            && request.segments.iter().all(|segment| !segment.is_empty() && whole(segment.len() as u64))
            && request.is_empty() == (request.action == Action::Flush);
        assert!(sound, "malformed request: {request:?}");
        if self.submitted.len() + self.started.len() >= DEPTH {
            return Err(SubmitError::Full(request));
        }
        let token = Token(self.next);
        self.next += 1;
        self.submitted.push_back((token, request));
        Ok(token)
    }

    fn kick(&mut self) {
        self.started.append(&mut self.submitted);
        self.step(false);
    }

    fn poll(&mut self) -> Option<Completion> {
        self.step(false);
        let Some((token, mut request)) = self.started.pop_front() else {
            self.idle_polls += 1;
            assert!(self.idle_polls < IDLE_POLLS_MAX, "waits for what was never started");
            return None;
        };
        self.idle_polls = 0;
        let result = self.serve(&mut request);
        Some(Completion { token, request, result })
    }

    fn relax(&mut self) {
        self.step(true);
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }

    fn post(&mut self, batch: Vec<u8>) {
        decode_batch(&batch, |_| {}).expect("frames decode");
    }
}

impl Env for FuzzMachine {
    type Lane = FuzzLane;

    fn lane(&mut self) -> &mut FuzzLane {
        &mut self.lanes[0]
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn run_lanes(&mut self, work: LaneWork<'_, FuzzLane>) {
        if let [lane] = self.lanes.as_mut_slice() {
            // A thread an input is dear.
            return work(0, lane);
        }
        let turns = Arc::new(Turns::new(self.lanes.len(), self.lanes[0].seed(), PATIENCE));
        std::thread::scope(|scope| {
            for (index, lane) in self.lanes.iter_mut().enumerate() {
                let turns = Arc::clone(&turns);
                scope.spawn(move || {
                    let _entered = turns.enter(index);
                    lane.turns = Some((Arc::clone(&turns), index));
                    work(index, lane);
                    lane.turns = None;
                });
            }
        });
    }

    fn reply(&mut self, batch: Vec<u8>) -> Result<(), ReplyError> {
        let first = self.frames.len();
        decode_batch(&batch, |frame| self.frames.push(frame)).expect("frames decode");
        for frame in &self.frames[first..] {
            if let Frame::Copy(ranges) = frame {
                ranges.iter().for_each(|range| self.lanes[0].copy(range));
            }
        }
        Ok(())
    }
}
