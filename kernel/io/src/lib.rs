//! The seam between kernel and operations.
//!
//! Operations and the mover are generic over [`Blocks`] and [`Env`]. In the guest the kernel
//! implements both over virtio queues and the control device; on the host, tests and fuzz targets
//! implement them over files and memory. Nothing here knows a format or the ABI.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;

/// Unit of every request: 512 bytes. Offsets and lengths are multiples of it.
pub const SECTOR_LEN: u64 = 512;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill the segments from the disk.
    Read,
    /// Write the segments to the disk.
    Write,
    /// Make all completed writes of the disk durable; no segments.
    Flush,
}

/// A request with its own buffers, which come back with its completion.
///
/// `segments` are consecutive on the disk, starting at `offset`. None is empty; each length is a
/// multiple of [`SECTOR_LEN`].
pub struct BlockRequest {
    /// Index of the disk, as in the job's request.
    pub disk: u32,
    /// What to do.
    pub action: Action,
    /// First byte on the disk.
    pub offset: u64,
    /// The data, owned by the request while it is in flight.
    pub segments: Vec<Vec<u8>>,
}

/// Lengths, never content: a failed assertion must stay readable.
impl core::fmt::Debug for BlockRequest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { disk, action, offset, segments } = self;
        write!(f, "{action:?} of {} bytes in {} segments at {offset} of disk {disk}", self.len(), segments.len())
    }
}

impl BlockRequest {
    /// Bytes of all segments.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.segments.iter().fold(0u64, |sum, segment| sum.saturating_add(segment.len() as u64))
    }

    /// Whether the request carries no data, as a flush does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}

/// Names a request in flight; meaningful only to the [`Blocks`] that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A finished request.
#[derive(Debug)]
pub struct Completion {
    /// What `submit` returned for it.
    pub token: Token,
    /// The request with its buffers.
    pub request: BlockRequest,
    /// How it went. After an error the content of read buffers is unspecified.
    pub result: Result<(), BlockError>,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The device reported an I/O error.
    Io,
    /// The device does not know the request.
    Unsupported,
    /// The device broke the contract: wrong, short, repeated or late completion.
    Device,
}

/// Why a request was not accepted. The request comes back.
#[derive(Debug)]
pub enum SubmitError {
    /// The queue is full: `kick`, `poll`, and try again.
    Full(BlockRequest),
    /// The request is malformed: unknown disk, unaligned offset or length, empty segment.
    Malformed(BlockRequest),
}

/// A lane's queues, one on every disk. No call blocks.
pub trait Blocks {
    /// Accepts a request. It may not start before [`Blocks::kick`].
    ///
    /// # Errors
    /// See [`SubmitError`].
    fn submit(&mut self, request: BlockRequest) -> Result<Token, SubmitError>;

    /// Starts everything submitted since the last kick, in one batch.
    fn kick(&mut self);

    /// The next finished request, in any order; `None` when nothing has finished yet.
    fn poll(&mut self) -> Option<Completion>;

    /// This lane can only go on when another lane or a device has: called again and again while that is so. Machines
    /// with fewer free cores than lanes and devices let the others run.
    fn relax(&mut self) {
        core::hint::spin_loop();
    }

    /// Whether devices work while the lane goes on: then it pays to have more in flight than the lane waits for. False
    /// where a kick returns when all is done.
    fn overlaps(&self) -> bool {
        true
    }

    /// Sends one batch of reply frames, padded to whole sectors, with the next kick and without waiting: for
    /// progress while lanes run. A batch is left out while an earlier one is under way, and on every lane but
    /// lane 0, which alone has the control device.
    fn post(&mut self, batch: Vec<u8>);
}

/// What a lane runs: its index and its queues.
pub type LaneWork<'a, B> = &'a (dyn Fn(usize, &mut B) + Sync);

/// A machine as an operation sees it. Clock, seed and budgets are in the request.
pub trait Env {
    /// The queues of one lane.
    type Lane: Blocks;

    /// Queues of lane 0, for everything that is not moved in bulk.
    fn lane(&mut self) -> &mut Self::Lane;

    /// Lanes that [`Env::run_lanes`] will run, at least 1.
    fn lanes(&self) -> usize;

    /// Runs `work` once on every lane, lane 0 on the caller's own core, and returns when all have returned.
    fn run_lanes(&mut self, work: LaneWork<'_, Self::Lane>);

    /// Sends one batch of reply frames, padded to whole sectors, and waits until the launcher has it.
    ///
    /// # Errors
    /// [`ReplyError`] when the launcher refuses it; the run can only end then.
    fn reply(&mut self, batch: Vec<u8>) -> Result<(), ReplyError>;
}

/// The launcher did not take a reply: its limit is reached, or the control device failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyError;
