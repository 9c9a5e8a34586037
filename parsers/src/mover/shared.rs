//! What lanes share: the next stretch, the target, and the first error.

use super::lane::Lane;
use super::stretch::{Source, Stretch};
use super::target::Target;
use super::{STRETCH_UNITS, UNIT, WAITING_MAX};
use crate::store::Queue;
use core::sync::atomic::{AtomicBool, Ordering};
use instar_abi::error::Error;
use instar_abi::request::Disk;
use instar_io::{Blocks, Env};
use spin::Mutex;

/// A part of the work after which progress is told. Only a single lane works in sections: a reply needs the
/// environment, which is lent out while several lanes run, and cores are started once a run.
const SECTION_LEN_MIN: u64 = 256 << 20;
/// Most sections of a disk.
const SECTIONS_MAX: u64 = 64;
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
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Shared<'_> {
    /// The next stretch; `None` at the end of the section, or when a lane has failed.
    ///
    /// # Errors
    /// The chain's.
    pub fn take<B: Blocks>(&self, queue: &mut Queue<'_, B>) -> Result<Option<Stretch>, Error> {
        if self.has_failed() {
            return Ok(None);
        }
        self.source.lock().take(queue, self.disks, STRETCH_UNITS)
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

/// How far the disk has been moved, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Bytes passed.
    pub done: u64,
    /// All of it.
    pub total: u64,
}

/// Everything has been moved and nothing is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved;

/// Moves a whole disk, on all lanes that are worth it; on a single lane `progress` is called now and then.
///
/// # Errors
/// The first error of any lane, or of `progress`.
pub fn run<E: Env>(
    env: &mut E,
    source: Source,
    target: &Target,
    disks: &[Disk],
    content_len: u64,
    mut progress: impl FnMut(&mut E, Section) -> Result<(), Error>,
) -> Result<Moved, Error> {
    let lanes = if content_len < LANES_LEN_MIN { 1 } else { env.lanes().max(1) };
    let shared = Shared {
        source: Mutex::new(source),
        target,
        disks,
        waiting_max: WAITING_MAX.checked_div(lanes).unwrap_or(0).max(1),
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
    };
    if lanes > 1 {
        shared.source.lock().start_section(u64::MAX);
        env.run_lanes(&|_, blocks| {
            if let Err(error) = Lane::new(&shared, blocks).run() {
                shared.fail(error);
            }
        });
        let failed = shared.error.lock().take();
        return failed.map_or(Ok(Moved), Err);
    }
    let section_units = (target.virtual_size / SECTIONS_MAX).max(SECTION_LEN_MIN) / UNIT;
    loop {
        shared.source.lock().start_section(section_units);
        Lane::new(&shared, env.lane()).run()?;
        let (done, total) = shared.source.lock().progress();
        if done >= total {
            return Ok(Moved);
        }
        progress(env, Section { done, total })?;
    }
}
