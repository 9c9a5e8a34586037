//! The engine that the launcher's jobs run on: in this process, or in a child of it.
//!
//! A job for a program of others' ([`super::outside`]) always runs in a child: this process stays to kill the
//! program and to clean up behind it.
//!
//! A job with nothing more to open runs here and locks this very process down. Any other runs in a
//! child ([`super::child`]), which locks itself down in this process's place. The child stays for the next run where
//! it can, until the job is over.

use super::child::{Watched, Worker, close_others};
use super::report::Last;
use super::{Choice, Images, Job, MachineError, Running, Transport, run};
use crate::disk::Disk;
use crate::job::{self, Machine, NoEnd, Then};
use crate::vmm::process;
use instar_abi::reply::{End, Frame};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs jobs, on the built-in machine unless another is chosen.
pub struct Engine {
    /// Why a run gave no end, in words: an error does not get out of the child that met it.
    words: fn(&MachineError) -> String,
    transport: Transport,
    choice: Choice,
    image: Option<&'static [u8]>,
    errno: Option<i32>,     // behind the end of the last run
    worker: Option<Worker>, // waits
}

impl Engine {
    /// An engine on the table transport, which words a child's failures by `words`.
    #[must_use]
    pub const fn new(words: fn(&MachineError) -> String) -> Self {
        Self { words, transport: Transport::Table, choice: Choice::Builtin, image: None, errno: None, worker: None }
    }

    /// The same, whose guests see their devices otherwise where the machine is the built-in one.
    #[must_use]
    pub fn on(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// The same, which boots this op image whatever the operation.
    #[must_use]
    pub fn booting(self, image: &'static [u8]) -> Self {
        Self { image: Some(image), ..self }
    }

    fn job<'a>(&self, job: &'a job::Job) -> Result<Job<'a>, NoEnd> {
        let image = match self.image {
            Some(image) => image,
            None => Images::find(job.op).map_err(|_| NoEnd::NoImage { op: job.op })?,
        };
        let (request, limits, transport) = (&job.request, job.limits, self.transport);
        Ok(Job { image, request, disks: Vec::new(), limits, transport, outside: None })
    }

    fn run_in_child(
        &mut self,
        watched: &Watched<'_>,
        disks: &[Arc<dyn Disk>],
        on_frame: &mut dyn FnMut(Frame),
    ) -> Result<Last, NoEnd> {
        if let Some(signal) = process::stop_signal() {
            return Err(NoEnd::Stopped(signal));
        }
        let waiting = self.worker.take().and_then(|worker| Some((worker.can_run(&watched.job, disks)?, worker)));
        let worker = match waiting {
            Some((kept, mut worker)) => {
                worker.order(&watched.job, disks, kept)?;
                worker
            }
            None => {
                Worker::start(watched, disks, self.words).map_err(|error| NoEnd::Machine(MachineError::Host(error)))?
            }
        };
        let (last, worker) = worker.finish(on_frame, &watched.job)?;
        self.worker = worker;
        Ok(last)
    }
}

impl Machine for Engine {
    fn run(&mut self, job: &job::Job, then: Then, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
        let disks = &job.disks;
        let watched = Watched::new(self.job(job)?, disks);
        let running = match self.choice.program() {
            Some(program) => {
                // Before there is anything to clean up.
                self.catch_signals()?;
                Some(Running::start(program, &watched.job).map_err(NoEnd::Machine)?)
            }
            None => None,
        };
        let watched = watched.on(running.as_ref());
        let last = match then {
            Then::Finish if running.is_none() => run_here(&watched, on_frame),
            Then::Finish | Then::GoOn => self.run_in_child(&watched, disks, on_frame),
        }?;
        self.errno = last.errno;
        Ok(last.end)
    }

    fn rest(&mut self) {
        self.worker = None;
    }

    fn host_errno(&self) -> Option<i32> {
        self.errno
    }

    fn choose(&mut self, choice: Choice) {
        self.choice = choice;
    }

    fn catch_signals(&mut self) -> Result<(), NoEnd> {
        process::catch_signals().map_err(|error| NoEnd::Machine(MachineError::Host(error)))
    }

    fn stop_signal(&self) -> Option<i32> {
        process::stop_signal()
    }
}

fn run_here(watched: &Watched<'_>, on_frame: &mut dyn FnMut(Frame)) -> Result<Last, NoEnd> {
    close_others(&watched.job, &[]);
    let frames = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&frames);
    let end = run(&watched.job, move |frame| sink.lock().unwrap_or_else(PoisonError::into_inner).push(frame));
    frames.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(on_frame);
    let end = end.map_err(NoEnd::Machine)?;
    Ok(Last { errno: watched.errno(&end), end, waits: false })
}
