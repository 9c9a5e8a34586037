//! What lanes share: the next stretch, the target, and the first error.

use super::WAITING_MAX;
use super::granules::COPY_LEN_MAX;
use super::lane::Lane;
use super::progress::Progress;
use super::stretch::{Source, Stretch, Wanted};
use super::target::Target;
use crate::store::Queue;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use instar_abi::error::{Error, WriteError};
use instar_abi::reply::{CopyRange, Frame, Unreadable, encode_frame, pad_batch};
use instar_abi::request::Disk;
use instar_io::{Blocks, Env};
use spin::Mutex;

/// Below this much content one lane is enough: another core costs more than it brings. Tests and fuzz targets have
/// little content, and want lanes all the same.
const LANES_LEN_MIN: u64 = if cfg!(any(test, feature = "invariants")) { 1 } else { 4 << 20 };

/// Ranges that the launcher is asked to copy at a time.
const COPIES_MAX: usize = 256;

/// What lanes share.
pub struct Shared<'a> {
    source: Mutex<Source>,
    /// Where units go.
    pub target: &'a Target,
    /// The job's disks.
    pub disks: &'a [Disk],
    /// Stretches that a lane may keep while their clusters are not known.
    pub waiting_max: usize,
    /// Whether content that can't be read is zero.
    pub salvage: bool,
    /// What the launcher is to copy and has not been asked for yet.
    copies: Mutex<Vec<CopyRange>>,
    /// How far all lanes have come.
    pub progress: Progress,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Shared<'_> {
    /// The next stretch; `None` at the end of the disk, when a lane has failed, or when the launcher must copy first.
    ///
    /// # Errors
    /// The chain's.
    pub fn take<B: Blocks>(&self, queue: &mut Queue<'_, B>) -> Result<Option<Stretch>, Error> {
        if self.has_failed() {
            return Ok(None);
        }
        let mut source = queue.lock(&self.source);
        let stretch = source.take(queue, self.disks, self.target.group());
        self.progress.pass(source.passed());
        stretch
    }

    /// Whether any lane has failed: what others wait for may never come.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Takes in what could not be read.
    pub fn lose(&self, lost: Vec<Range<u64>>) {
        if !lost.is_empty() {
            let mut source = self.source.lock();
            lost.into_iter().for_each(|range| source.losses.add(range));
        }
    }

    /// Takes in what the launcher is to copy.
    pub fn add_copies(&self, copies: Vec<CopyRange>) {
        if !copies.is_empty() {
            let mut all = self.copies.lock();
            copies.into_iter().for_each(|copy| join(&mut all, copy));
        }
    }

    /// Has the launcher copy what there is.
    fn copy<E: Env>(&self, env: &mut E) -> Result<(), Error> {
        let copies = core::mem::take(&mut *self.copies.lock());
        for copies in copies.chunks(COPIES_MAX) {
            let failed = copies.first().map(|first| WriteError::Io { disk: first.to, offset: first.to_offset });
            let mut batch = Vec::new();
            let sent = encode_frame(&Frame::Copy(copies.to_vec()), &mut batch).is_ok();
            pad_batch(&mut batch);
            if let (Some(failed), false) = (failed, sent && env.reply(batch).is_ok()) {
                return Err(Error::Write(failed));
            }
        }
        Ok(())
    }

    fn fail(&self, error: Error) {
        self.error.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }
}

/// Adds a range that the launcher copies, to the one before where it goes on.
fn join(copies: &mut Vec<CopyRange>, next: CopyRange) {
    if let Some(last) = copies.last_mut()
        && (last.from, last.to) == (next.from, next.to)
        && last.from_offset.checked_add(last.len) == Some(next.from_offset)
        && last.to_offset.checked_add(last.len) == Some(next.to_offset)
        && last.len.saturating_add(next.len) <= COPY_LEN_MAX
    {
        last.len = last.len.saturating_add(next.len);
    } else {
        copies.push(next);
    }
}

/// Everything has been moved and nothing is in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// What could not be read: ascending, each part as it counts in its source.
    pub lost: Vec<Unreadable>,
}

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
    let Wanted { offload, salvage, .. } = source.wanted;
    let lanes = if content_len < LANES_LEN_MIN || offload { 1 } else { env.lanes().max(1) };
    let shared = Shared {
        source: Mutex::new(source),
        target,
        disks,
        waiting_max: WAITING_MAX.checked_div(lanes).unwrap_or(0).max(1),
        salvage,
        copies: Mutex::new(Vec::new()),
        progress: Progress::new(target.virtual_size),
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    if lanes == 1 {
        loop {
            Lane::new(&shared, 0, env.lane()).run()?;
            shared.copy(env)?;
            if !offload || shared.source.lock().is_empty() {
                break;
            }
        }
    } else {
        env.run_lanes(&|index, blocks| {
            if let Err(error) = Lane::new(&shared, index, blocks).run() {
                shared.fail(error);
            }
        });
    }
    if let Some(error) = shared.error.into_inner() {
        return Err(error);
    }
    Ok(Moved { lost: shared.source.into_inner().into_lost() })
}
