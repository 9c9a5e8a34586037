//! [`Blocks`] and [`Env`] over disks in memory.

use instar_abi::reply::{CopyRange, Frame, decode_batch};
use instar_abi::request::{Access, Budget, Disk, DiskId, Layer, LayerId, Op, RawGate, Request};
use instar_io::{
    Action, BlockError, BlockRequest, Blocks, Completion, Env, LaneWork, ReplyError, SECTOR_LEN, SubmitError, Token,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A disk in memory; shared by all lanes.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Bytes written, one flag a sector.
    written: Arc<Mutex<Vec<bool>>>,
}

impl MemoryDisk {
    /// A disk with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(Mutex::new(bytes)), written: Arc::default() }
    }

    /// What it holds now.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    /// Empties it.
    pub fn truncate(&self) {
        self.bytes.lock().unwrap().clear();
    }

    /// Bytes of all sectors ever written.
    pub fn written(&self) -> u64 {
        self.written.lock().unwrap().iter().filter(|written| **written).count() as u64 * SECTOR_LEN
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        let bytes = self.bytes.lock().unwrap();
        buf.fill(0);
        let from = (offset as usize).min(bytes.len());
        let len = buf.len().min(bytes.len() - from);
        buf[..len].copy_from_slice(&bytes[from..from + len]);
    }

    fn write(&self, offset: u64, buf: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap();
        let end = offset as usize + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(buf);
        let mut written = self.written.lock().unwrap();
        let sectors = offset as usize / 512..end / 512;
        if written.len() < sectors.end {
            written.resize(sectors.end, false);
        }
        written[sectors].fill(true);
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The n-th request, from 0, over all lanes, fails with an I/O error.
    Request(u64),
    /// The n-th reply is refused.
    Reply(u64),
    /// Reads that touch these bytes of a disk fail with an I/O error.
    Bytes {
        /// The disk.
        disk: u32,
        /// First byte.
        start: u64,
        /// The byte after the last.
        end: u64,
    },
    /// Reads that touch these bytes of disk 0 do not finish before something has been written.
    Late {
        /// First byte.
        start: u64,
        /// The byte after the last.
        end: u64,
    },
}

/// State that all lanes share.
#[derive(Clone, Default)]
struct Shared {
    requests: Arc<AtomicU64>,
    kicks: Arc<AtomicU64>,
    most_in_flight: Arc<AtomicU64>,
    fault: Fault,
    reverse: bool,
    posted: Arc<Mutex<Vec<Frame>>>,
    has_written: Arc<AtomicBool>,
}

/// One lane's queues.
pub struct FakeLane {
    disks: Vec<(MemoryDisk, Disk)>,
    shared: Shared,
    next: u64,
    submitted: Vec<(Token, BlockRequest)>,
    started: Vec<(Token, BlockRequest)>,
    depth: usize,
    idle_polls: u32,
}

impl FakeLane {
    fn serve(&self, request: &mut BlockRequest) -> Result<(), BlockError> {
        let number = self.shared.requests.fetch_add(1, Ordering::SeqCst);
        if self.shared.fault == Fault::Request(number) {
            return Err(BlockError::Io);
        }
        if let (Fault::Bytes { disk, start, end }, Action::Read) = (self.shared.fault, request.action)
            && (disk, request.offset < end, start < request.offset + request.len()) == (request.disk, true, true)
        {
            return Err(BlockError::Io);
        }
        if let (Fault::Late { start, end }, Action::Read, 0) = (self.shared.fault, request.action, request.disk)
            && start < request.offset + request.len()
            && request.offset < end
        {
            self.wait_for_a_write();
        }
        let (memory, disk) = &self.disks[request.disk as usize];
        let capacity = match disk.access {
            Access::ReadOnly => disk.len.next_multiple_of(SECTOR_LEN),
            Access::Output { capacity } => capacity,
        };
        if request.offset + request.len() > capacity {
            return Err(BlockError::Io);
        }
        let mut offset = request.offset;
        for segment in &mut request.segments {
            match (request.action, disk.access) {
                (Action::Read, _) => memory.read(offset, segment),
                (Action::Write, Access::Output { .. }) => {
                    memory.write(offset, segment);
                    self.shared.has_written.store(true, Ordering::SeqCst);
                }
                (Action::Write, Access::ReadOnly) => return Err(BlockError::Io),
                (Action::Flush, _) => {}
            }
            offset += segment.len() as u64;
        }
        Ok(())
    }
}

impl FakeLane {
    fn wait_for_a_write(&self) {
        let start = Instant::now();
        while !self.shared.has_written.load(Ordering::SeqCst) {
            assert!(start.elapsed() < Duration::from_secs(60), "no other lane writes");
            std::thread::yield_now();
        }
    }

    /// What the launcher does for a range.
    fn copy(&self, range: &CopyRange) {
        let (from, from_disk) = &self.disks[range.from.0 as usize];
        let (to, to_disk) = &self.disks[range.to.0 as usize];
        assert!(range.len > 0 && (range.from_offset | range.to_offset | range.len).is_multiple_of(SECTOR_LEN));
        assert!(range.from_offset + range.len <= from_disk.len, "{range:?} past the end of {from_disk:?}");
        let Access::Output { capacity } = to_disk.access else { panic!("{range:?} to a source") };
        assert!(range.to_offset + range.len <= capacity, "{range:?} past {capacity}");
        let mut bytes = vec![0; range.len as usize];
        from.read(range.from_offset, &mut bytes);
        to.write(range.to_offset, &bytes);
    }
}

impl Blocks for FakeLane {
    fn submit(&mut self, request: BlockRequest) -> Result<Token, SubmitError> {
        let aligned = |len: u64| len.is_multiple_of(SECTOR_LEN);
        let sound = (request.disk as usize) < self.disks.len()
            && aligned(request.offset)
            && request.segments.iter().all(|segment| !segment.is_empty() && aligned(segment.len() as u64))
            && request.is_empty() == (request.action == Action::Flush);
        if !sound {
            return Err(SubmitError::Malformed(request));
        }
        if self.submitted.len() + self.started.len() >= self.depth {
            return Err(SubmitError::Full(request));
        }
        let token = Token(self.next);
        self.next += 1;
        self.submitted.push((token, request));
        Ok(token)
    }

    fn kick(&mut self) {
        self.shared.kicks.fetch_add(1, Ordering::SeqCst);
        self.started.append(&mut self.submitted);
        self.shared.most_in_flight.fetch_max(self.started.len() as u64, Ordering::SeqCst);
    }

    fn poll(&mut self) -> Option<Completion> {
        if self.started.is_empty() {
            self.idle_polls += 1;
            assert!(self.idle_polls < 1000, "waits for nothing, or for what was never started");
            return None;
        }
        self.idle_polls = 0;
        let at = if self.shared.reverse { self.started.len() - 1 } else { 0 };
        let (token, mut request) = self.started.remove(at);
        let result = self.serve(&mut request);
        Some(Completion { token, request, result })
    }

    /// Requests that finish in any order are those of a device that works meanwhile.
    fn overlaps(&self) -> bool {
        self.shared.reverse
    }

    fn post(&mut self, batch: Vec<u8>) {
        assert!(batch.len().is_multiple_of(SECTOR_LEN as usize));
        let mut posted = self.shared.posted.lock().expect("not poisoned");
        decode_batch(&batch, |frame| posted.push(frame)).expect("frames decode");
    }
}

/// The machine of a job.
pub struct Machine {
    lanes: Vec<FakeLane>,
    shared: Shared,
    replies: u64,
    /// Frames received.
    pub frames: Vec<Frame>,
}

impl Machine {
    /// A machine for `request` over `disks`.
    pub fn new(request: &Request, disks: &[MemoryDisk]) -> Self {
        Self::with_fault(request, disks, Fault::None, false)
    }

    /// A machine in which something goes wrong, or requests finish in reverse order.
    pub fn with_fault(request: &Request, disks: &[MemoryDisk], fault: Fault, reverse: bool) -> Self {
        assert_eq!(request.disks.len(), disks.len());
        let shared = Shared { fault, reverse, ..Shared::default() };
        let lane = |_| FakeLane {
            disks: disks.iter().cloned().zip(request.disks.iter().cloned()).collect(),
            shared: shared.clone(),
            next: 0,
            submitted: Vec::new(),
            started: Vec::new(),
            depth: 64,
            idle_polls: 0,
        };
        Self { lanes: (0..request.lanes).map(lane).collect(), shared, replies: 0, frames: Vec::new() }
    }

    /// Requests served so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Kicks so far: each is an exit of the guest.
    pub fn kicks(&self) -> u64 {
        self.shared.kicks.load(Ordering::SeqCst)
    }

    /// The most requests of a lane that were started and not finished.
    pub fn most_in_flight(&self) -> u64 {
        self.shared.most_in_flight.load(Ordering::SeqCst)
    }
}

impl Machine {
    /// Frames posted while lanes ran.
    pub fn posted(&self) -> Vec<Frame> {
        self.shared.posted.lock().expect("not poisoned").clone()
    }
}

impl Env for Machine {
    type Lane = FakeLane;

    fn lane(&mut self) -> &mut FakeLane {
        &mut self.lanes[0]
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn run_lanes(&mut self, work: LaneWork<'_, FakeLane>) {
        std::thread::scope(|scope| {
            for (index, lane) in self.lanes.iter_mut().enumerate() {
                scope.spawn(move || work(index, lane));
            }
        });
    }

    fn reply(&mut self, batch: Vec<u8>) -> Result<(), ReplyError> {
        let number = self.replies;
        self.replies += 1;
        if self.shared.fault == Fault::Reply(number) {
            return Err(ReplyError);
        }
        assert!(batch.len().is_multiple_of(SECTOR_LEN as usize));
        let first = self.frames.len();
        decode_batch(&batch, |frame| self.frames.push(frame)).expect("frames decode");
        for frame in &self.frames[first..] {
            if let Frame::Copy(ranges) = frame {
                assert!((1..=256).contains(&ranges.len()), "{} ranges", ranges.len());
                ranges.iter().for_each(|range| self.lanes[0].copy(range));
            }
        }
        Ok(())
    }
}

/// A job over disks that are only read, one layer a disk.
pub fn request(op: Op, disks: &[MemoryDisk]) -> Request {
    let layer = |index: usize| Layer::new(DiskId(index as u32), None, RawGate::Partitioned);
    let disk = |disk: &MemoryDisk| Disk::read_only(disk.bytes().len() as u64);
    Request {
        op,
        disks: disks.iter().map(disk).collect(),
        layers: (0..disks.len()).map(layer).collect(),
        answers: Vec::new(),
        budget: Budget { heap_bytes: 64 << 20, read_bytes: 256 << 20, steps: 1 << 24, depth: 16 },
        seed: [7; 32],
        now: 1_700_000_000,
        lanes: 1,
    }
}

/// The op that describes layer 0.
pub const INFO: Op = Op::Info { image: LayerId(0), details: false };
