//! Running a job: the one door to the engines.
//!
//! [`run`] does what every run needs whatever the engine: a fresh nonce, the control device, decoding the
//! reply as the hostile bytes it is, and judging how the run ended.

mod builtin;
mod child;
mod choice;
mod engine;
mod images;
mod orders;
mod outside;
mod reply;
mod report;

pub use choice::Choice;
pub use engine::Engine;
pub use images::{Images, MissingImage};
pub use outside::{Accelerator, OutsideError, Program, ProgramError, QemuMachine, Running};
pub use reply::{Reply, ReplyFault};

use crate::disk::Disk;
use crate::disk::control::Control;
use crate::disk::copy::Copier;
use crate::vmm::elf::ElfError;
use crate::vmm::run::{LastWords, PrepareError};
use crate::vmm::sandbox::SandboxError;
use crate::vmm::shared::Stop;
use builtin::Builtin;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Op, Request};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use crate::vmm::run::Transport;

/// A job for a machine: what to run, on which disks, within which limits.
pub struct Job<'a> {
    /// The op image's bytes.
    pub image: &'a [u8],
    /// What the guest is asked.
    pub request: &'a Request,
    /// The job's disks, in the order of the request.
    pub disks: Vec<Arc<dyn Disk>>,
    /// Limits of the run.
    pub limits: Limits,
    /// How the guest sees its devices, on the built-in machine.
    pub transport: Transport,
    /// The program that makes the machine; `None`: the built-in one does.
    pub outside: Option<&'a Running>,
}

impl Job<'_> {
    /// Whether its guest may ask for copies.
    fn copies(&self) -> bool {
        matches!(&self.request.op, Op::Convert(convert) if convert.offload)
    }
}

/// What a run may use up on the host's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Guest memory in bytes, a multiple of 2 MiB.
    pub memory_len: u64,
    /// Bytes of reply.
    pub reply_len: u64,
    /// Wall clock.
    pub time: Duration,
    /// Bytes that any file may grow to; `None`: the job writes nothing.
    pub largest_file: Option<u64>,
    /// Memory for much data: large pages.
    pub large_pages: bool,
}

/// Why a run gave no end of its own.
#[derive(Debug)]
pub enum MachineError {
    /// The op image is damaged or not one.
    Image(ElfError),
    /// Launcher and op image were built from different sources.
    BuildId {
        /// The image's.
        found: [u8; 32],
    },
    /// The request is too long to be handed over.
    RequestTooLong,
    /// No randomness from the host.
    Random(io::Error),
    /// The machine could not be made.
    Prepare(PrepareError),
    /// The process could not lock itself down.
    Sandbox(SandboxError),
    /// A timer or thread was refused.
    Host(io::Error),
    /// The guest died and said how.
    Died(LastWords),
    /// The guest's reply broke the contract.
    Reply(ReplyFault),
    /// The run stopped without a last frame.
    NoEnd(Stop),
    /// The program that made the machine.
    Outside(OutsideError),
    /// The process that ran the guest was ended by this signal; SIGSYS: it tried something forbidden.
    ChildKilled {
        /// The signal.
        signal: i32,
    },
}

/// Runs a job in this process, which is locked down for good before the guest boots.
///
/// Every frame but the last goes to `on_frame` as it arrives; strings in it are the guest's.
///
/// # Errors
/// [`MachineError`]: the guest did not come to an end of its own.
pub fn run(job: &Job<'_>, on_frame: impl FnMut(Frame) + Send + 'static) -> Result<End, MachineError> {
    run_in(&mut Builtin::default(), job, on_frame)
}

/// The same; unless the machine is a program's, it is `builtin`, as the run before has left it.
fn run_in(
    builtin: &mut Builtin,
    job: &Job<'_>,
    on_frame: impl FnMut(Frame) + Send + 'static,
) -> Result<End, MachineError> {
    let nonce = job.outside.map_or_else(nonce, |outside| Ok(outside.nonce()))?;
    let request = job.request.encode().map_err(|_| MachineError::RequestTooLong)?;
    let mut reply = Reply::new(on_frame);
    if job.copies() {
        reply = reply.copying(Copier::new(&job.request.disks, &job.disks));
    }
    let reply = Arc::new(Mutex::new(reply));
    let sink = {
        let reply = Arc::clone(&reply);
        move |batch: &[u8]| reply.lock().unwrap_or_else(PoisonError::into_inner).take_batch(batch)
    };
    let control = Control::new(nonce, &request, job.limits.reply_len, Box::new(sink))
        .map_err(|_| MachineError::RequestTooLong)?;
    let control = Arc::new(control);
    let (stop, last_words) = match job.outside {
        None => builtin.run(job, nonce, &control)?,
        Some(outside) => {
            let is_over = || reply.lock().unwrap_or_else(PoisonError::into_inner).is_over() || control.is_broken();
            outside.serve(job, &control, &is_over)?
        }
    };
    let mut reply = reply.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(fault) = reply.fault().or(control.is_broken().then_some(ReplyFault::OutOfOrder)) {
        return Err(MachineError::Reply(fault));
    }
    match (last_words, reply.take_end()) {
        (Some(last_words), _) => Err(MachineError::Died(last_words)),
        (None, Some(end)) if stop == Stop::PowerOff => Ok(end),
        (None, _) => Err(MachineError::NoEnd(stop)),
    }
}

/// A fresh one for every run.
fn nonce() -> Result<[u8; 16], MachineError> {
    let mut nonce = [0; 16];
    rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| MachineError::Random(error.into()))?;
    Ok(nonce)
}
