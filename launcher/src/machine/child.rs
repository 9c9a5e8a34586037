//! A child that runs jobs in this process's place: each locked down, one after another in one machine.
//!
//! The guest of a later run finds nothing of an earlier one: cleared memory, a vCPU that has never run, disks of its own.

use super::builtin::Builtin;
use super::report::{self, BEHIND_FRAMES, Last, Said, Writer};
use super::{Job, Limits, MachineError, ReplyFault, Running, Stop, Transport, orders, run_in};
use crate::disk::Disk;
use crate::disk::witness::Witness;
use crate::job::NoEnd;
use crate::vmm::process::{self, Bounds, Child, Ended};
use instar_abi::error::{Error, ReadError, WriteError};
use instar_abi::reply::{End, Frame};
use instar_abi::request::Access;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much longer than its guest a child may take: it makes the machine first.
const MARGIN: Duration = Duration::from_secs(30);

/// A job whose disks remember why requests failed.
pub(super) struct Watched<'a> {
    pub job: Job<'a>,
    witnesses: Vec<Arc<Witness>>,
}

impl<'a> Watched<'a> {
    /// `job`, on these disks.
    pub fn new(job: Job<'a>, disks: &[Arc<dyn Disk>]) -> Self {
        let witnesses: Vec<_> = disks.iter().map(|disk| Arc::new(Witness::new(Arc::clone(disk)))).collect();
        let disks = witnesses.iter().map(|disk| Arc::<Witness>::clone(disk) as Arc<dyn Disk>).collect();
        Self { job: Job { disks, ..job }, witnesses }
    }

    /// The same, on a machine outside if there is one.
    pub fn on(self, outside: Option<&'a Running>) -> Self {
        Self { job: Job { outside, ..self.job }, ..self }
    }

    /// What the host said of the request that the guest failed by, as far as it says which disk that was.
    pub fn errno(&self, end: &End) -> Option<i32> {
        let disk = match end {
            End::Failed(Error::Read(ReadError::Io { disk, .. }) | Error::Write(WriteError::Io { disk, .. })) => disk,
            _ => return None,
        };
        self.witnesses.get(usize::try_from(disk.0).ok()?)?.errno()
    }
}

/// Closes everything above standard error but the descriptors of the job's disks and these.
pub(super) fn close_others(job: &Job<'_>, more: &[i32]) {
    let disks = job.disks.iter().flat_map(|disk| disk.fds()).map(|fd| fd.as_raw_fd());
    let outside = job.outside.map(Running::fds).unwrap_or_default();
    process::close_others(&disks.chain(more.iter().copied()).chain(outside).collect::<Vec<_>>());
}

/// What the runs of one child have in common: it has locked itself down for them.
#[derive(PartialEq, Eq)]
struct Kind {
    image: *const [u8],
    limits: Limits,
    lanes: u8,
    transport: Transport,
    copies: bool,
}

impl Kind {
    fn of(job: &Job<'_>) -> Self {
        let Job { image, request, limits, transport, .. } = *job;
        Self { image, limits, lanes: request.lanes, transport, copies: job.copies() }
    }
}

/// A child, while it runs a job or waits for the next.
pub(super) struct Worker {
    child: Child,
    orders: OwnedFd,
    kind: Kind,
    disks: Vec<Arc<dyn Disk>>, // of its last run
}

fn bounds(limits: &Limits) -> Bounds {
    Bounds { len: limits.reply_len.saturating_add(BEHIND_FRAMES as u64), time: limits.time + MARGIN }
}

impl Worker {
    /// A new child, which runs this job at once. `disks` are the job's, without witnesses.
    pub fn start(
        watched: &Watched<'_>,
        disks: &[Arc<dyn Disk>],
        words: fn(&MachineError) -> String,
    ) -> io::Result<Self> {
        let job = &watched.job;
        let (orders, theirs) = orders::pair()?;
        let child = process::spawn(bounds(&job.limits), |pipe| {
            close_others(job, &[pipe.as_raw_fd(), theirs.as_raw_fd()]);
            child_main(watched, disks.to_vec(), pipe, &theirs, words)
        })?;
        if let Some(outside) = job.outside {
            outside.leave_to_child();
        }
        Ok(Self { child, orders, kind: Kind::of(job), disks: disks.to_vec() })
    }

    /// How many disks of its last run a child that waits has already, if it can run this job.
    pub fn can_run(&self, job: &Job<'_>, disks: &[Arc<dyn Disk>]) -> Option<usize> {
        let kept = disks.iter().zip(&self.disks).take_while(|(new, old)| Arc::ptr_eq(new, old)).count();
        let sources = disks[kept..].iter().all(|disk| disk.source_len().is_some());
        (job.outside.is_none() && self.kind == Kind::of(job) && sources).then_some(kept)
    }

    /// Has a child that waits run this job, of whose disks it has the first `kept`. One that does not take the order is
    /// dead when its report is read.
    ///
    /// # Errors
    /// It has said something since its last run: that would be read as the front of what it says of this one.
    pub fn order(&mut self, job: &Job<'_>, disks: &[Arc<dyn Disk>], kept: usize) -> Result<(), NoEnd> {
        self.is_silent()?;
        self.child.renew(bounds(&job.limits));
        self.disks = disks.to_vec();
        let sent = job.request.encode().map_err(io::Error::other);
        if sent.and_then(|request| orders::send(&self.orders, kept, &disks[kept..], &request)).is_err() {
            self.child.kill();
        }
        Ok(())
    }

    /// A child whose run is over has no more to say, unless somebody has taken it over.
    fn is_silent(&mut self) -> Result<(), NoEnd> {
        if self.child.has_more().map_err(|error| NoEnd::Machine(MachineError::Host(error)))? {
            self.child.kill();
            return Err(NoEnd::Machine(MachineError::Reply(ReplyFault::AfterEnd)));
        }
        Ok(())
    }

    /// Hands over the frames of the run and tells how it ended; with it comes the child, where it waits for the next job
    /// and has nothing to write. A report that goes on behind its end is refused.
    pub fn finish(mut self, on_frame: &mut dyn FnMut(Frame), job: &Job<'_>) -> Result<(Last, Option<Self>), NoEnd> {
        let host = |error| NoEnd::Machine(MachineError::Host(error));
        let said = report::read_frames(&mut self.child, on_frame);
        if let Said::End(last) = said {
            self.is_silent()?;
            let writes = job.request.disks.iter().any(|disk| disk.access != Access::ReadOnly);
            let goes_on = last.waits && (!writes || last.end == End::NeedsMore) && process::stop_signal().is_none();
            if goes_on {
                return Ok((last, Some(self)));
            }
            // It has said all it had to say.
            self.child.kill();
            return match self.child.wait().map_err(host)? {
                Ended::Stopped(signal) => Err(NoEnd::Stopped(signal)),
                Ended::Exited(_) | Ended::Signalled(_) => Ok((last, None)),
            };
        }
        if !matches!(said, Said::Nothing) {
            self.child.kill();
        }
        Err(match (self.child.wait().map_err(host)?, said) {
            (Ended::Stopped(signal), _) => NoEnd::Stopped(signal),
            (_, Said::Failed(words)) => NoEnd::Told(words),
            (_, Said::Unread(error)) => host(error),
            (_, Said::TooLate) => NoEnd::Machine(MachineError::NoEnd(Stop::TimeOut { rip: 0 })),
            (Ended::Signalled(signal), Said::Nothing) => NoEnd::Machine(MachineError::ChildKilled { signal }),
            _ => NoEnd::Machine(MachineError::Reply(ReplyFault::OutOfOrder)),
        })
    }
}

fn lock(report: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The child: runs the job, then what it is ordered, as long as its machine can be used again. Returns its exit status.
fn child_main(
    first: &Watched<'_>,
    mut disks: Vec<Arc<dyn Disk>>,
    pipe: File,
    orders: &OwnedFd,
    words: fn(&MachineError) -> String,
) -> i32 {
    let mut builtin = Builtin::with_orders(orders.as_fd());
    let report = Arc::new(Mutex::new(Writer::new(pipe)));
    let mut one = |watched: &Watched<'_>| {
        let frames = Arc::clone(&report);
        // A frame that does not get through is missed by who reads the report.
        let end = run_in(&mut builtin, &watched.job, move |frame| drop(lock(&frames).frame(&frame)));
        let last = end.map(|end| Last { errno: watched.errno(&end), waits: builtin.can_follow(), end });
        let waits = last.as_ref().is_ok_and(|last| last.waits);
        lock(&report).outcome(last.map_err(|error| words(&error))).map(|()| waits)
    };
    let mut sent = one(first);
    loop {
        match sent {
            Ok(true) => {}
            Ok(false) => return 0,
            Err(_) => return 1,
        }
        match orders::receive(orders.as_fd()) {
            Ok(Some(order)) => {
                disks.truncate(order.kept);
                disks.extend(order.disks);
                let Job { image, limits, transport, .. } = first.job;
                let job = Job { image, request: &order.request, disks: Vec::new(), limits, transport, outside: None };
                sent = one(&Watched::new(job, &disks));
            }
            Ok(None) => return 0,
            Err(_) => return 1,
        }
    }
}

#[cfg(test)]
mod tests;
