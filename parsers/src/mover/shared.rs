//! What lanes share: the next stretch, the target, and the first error.

use super::WAITING_MAX;
use super::lane::Lane;
use super::stretch::{Source, Stretch};
use super::target::Target;
use crate::store::Queue;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use instar_abi::error::Error;
use instar_abi::reply::Frame;
use instar_abi::request::Disk;
use instar_io::{Blocks, Env};
use spin::Mutex;

/// Most frames of progress of a job.
const PROGRESS_MAX: u64 = 100;
/// Fewest bytes between two of them.
const PROGRESS_LEN_MIN: u64 = 4 << 20;
/// Below this much content one lane is enough: another core costs more than it brings.
const LANES_LEN_MIN: u64 = 4 << 20;

/// What lanes share.
pub struct Shared<'a> {
    source: Mutex<Source>,
    /// Where units go.
    pub target: &'a Target,
    /// The job's disks.
    pub disks: &'a [Disk],
    /// Stretches that a lane may keep while their clusters are not known.
    pub waiting_max: usize,
    passed: AtomicU64,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Shared<'_> {
    /// The next stretch; `None` at the end of the disk, or when a lane has failed.
    ///
    /// # Errors
    /// The chain's.
    pub fn take<B: Blocks>(&self, queue: &mut Queue<'_, B>) -> Result<Option<Stretch>, Error> {
        if self.has_failed() {
            return Ok(None);
        }
        // Whoever has it may wait for tables, or for the host to let it run.
        let mut source = loop {
            match self.source.try_lock() {
                Some(source) => break source,
                None => queue.relax(),
            }
        };
        let stretch = source.take(queue, self.disks, self.target.group());
        self.passed.store(source.passed(), Ordering::Relaxed);
        stretch
    }

    /// Bytes of the disk that have been passed, if they are worth telling to someone who knows of `told`.
    pub fn news(&self, told: u64) -> Option<Frame> {
        let total = self.target.virtual_size;
        let done = self.passed.load(Ordering::Relaxed);
        let step = total.div_ceil(PROGRESS_MAX).max(PROGRESS_LEN_MIN);
        (done.saturating_sub(told) >= step && done < total).then_some(Frame::Progress { done, total })
    }

    /// Whether any lane has failed: what others wait for may never come.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn fail(&self, error: Error) {
        self.error.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }
}

/// Everything has been moved and nothing is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved;

/// Moves a whole disk, on all lanes that are worth it. Lane 0 tells of progress meanwhile, but not of the end.
///
/// # Errors
/// The first error of any lane.
pub fn run<E: Env>(
    env: &mut E,
    source: Source,
    target: &Target,
    disks: &[Disk],
    content_len: u64,
) -> Result<Moved, Error> {
    let lanes = if content_len < LANES_LEN_MIN { 1 } else { env.lanes().max(1) };
    let shared = Shared {
        source: Mutex::new(source),
        target,
        disks,
        waiting_max: WAITING_MAX.checked_div(lanes).unwrap_or(0).max(1),
        passed: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    if lanes == 1 {
        Lane::new(&shared, 0, env.lane()).run()?;
        return Ok(Moved);
    }
    env.run_lanes(&|index, blocks| {
        if let Err(error) = Lane::new(&shared, index, blocks).run() {
            shared.fail(error);
        }
    });
    shared.error.into_inner().map_or(Ok(Moved), Err)
}
