//! Engines that are programs of others: QEMU, cloud-hypervisor, Firecracker.
//!
//! ```text
//! this process   a private directory with the op image and a socket a device; starts the program, kills it, removes the
//!                directory; reads the child's frames
//! the child      locked down; serves the devices at the sockets (vmm::vhost_user), decodes the reply, ends when the
//!                program has ended
//! the guardian   waits for the first to end; if that was no good end, does what is left of its work
//! the program    gets the image, the sockets and the kernel's command line: never a file of the job's
//! ```
//! How a run went is in the reply on the control device, as ever; what the program says of itself is shown when there is
//! none.
#![forbid(unsafe_code)]

mod cloud_hypervisor;
mod directory;
mod firecracker;
mod program;
mod qemu;

pub use program::{Accelerator, Program, ProgramError, QemuMachine, kvm};

use super::{Job, MachineError};
use crate::disk::Disk;
use crate::disk::control::Control;
use crate::vmm::elf::Image;
use crate::vmm::memory_file::MemoryFile;
use crate::vmm::outside::Outside;
use crate::vmm::run::{LastWords, last_words};
use crate::vmm::sandbox::{self, Calls};
use crate::vmm::shared::Stop;
use crate::vmm::vhost_user::{self, Backend, Fault};
use directory::Directory;
use instar_abi::layout;
use program::Plan;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};

/// Why there is no run, or no end of it.
#[derive(Debug)]
pub enum OutsideError {
    /// The program can't be used.
    Program(ProgramError),
    /// The directory for sockets and image can't be made.
    Directory(io::Error),
    /// The program ended, and its guest had not said that all is done.
    Ended {
        /// The program's name.
        program: &'static str,
        /// What it printed last.
        said: Vec<u8>,
    },
    /// The program broke the protocol of its devices.
    Protocol {
        /// The program's name.
        program: &'static str,
        /// The device, 0 for the control device.
        device: usize,
        /// How, in the protocol's words.
        error: String,
        /// What it printed last.
        said: Vec<u8>,
    },
}

/// A program that has been started for one run. Dropped, it is gone, and so is its directory.
pub struct Running {
    program: Program,
    nonce: [u8; 16],
    lanes: usize,
    ends: Mutex<Option<Ends>>,
    memory: MemoryFile,
    /// What of it much data will go through.
    busy: Range<u64>,
    _process: Outside,
    _directory: Directory,
}

/// What the child serves.
struct Ends {
    listeners: Vec<UnixListener>,
    program: vhost_user::Program,
}

/// Descriptors that a device may come to: socket, kick, call and error descriptors, pieces of memory.
const DESCRIPTORS_A_DEVICE: u64 = 48;
/// Bytes of memory that a lane's buffers take when it moves much data.
const BUSY_A_LANE: u64 = 12 << 20;
/// Descriptors that may be open already.
const DESCRIPTORS_BEFORE: u64 = 1024;

impl Running {
    /// Starts the program for a job. It waits for its devices.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn start(program: Program, job: &Job<'_>) -> Result<Self, MachineError> {
        let failed = |error| MachineError::Outside(error);
        let (needed, most) = (job.disks.len() + 1, program.devices_max());
        if needed > most {
            return Err(failed(OutsideError::Program(ProgramError::Devices { name: program.name(), needed, most })));
        }
        let memory = MemoryFile::new(job.limits.memory_len).map_err(MachineError::Host)?;
        let (directory, guardian) = Directory::new().map_err(OutsideError::Directory).map_err(failed)?;
        let nonce = super::nonce()?;
        let started = || -> io::Result<_> {
            let kernel = directory.write("kernel", job.image)?;
            let sockets: Vec<_> = (0..=job.disks.len()).map(|index| directory.path().join(index.to_string())).collect();
            let listeners = sockets.iter().map(UnixListener::bind).collect::<io::Result<Vec<_>>>()?;
            Ok((kernel, sockets, listeners))
        };
        let (kernel, sockets, listeners) = started().map_err(OutsideError::Directory).map_err(failed)?;
        let lanes = usize::from(job.request.lanes).clamp(1, program.lanes_max());
        let plan = Plan {
            directory: &directory,
            kernel: &kernel,
            sockets: &sockets,
            memory_mib: job.limits.memory_len >> 20,
            memory: memory.as_fd().as_raw_fd(),
            lanes,
            // The boot code looks for the first word.
            line: format!(
                "apic=1 nonce={:032x} lanes={lanes} serial=1 chains=long {}",
                u128::from_be_bytes(nonce),
                program.words()
            ),
        };
        let mut command = program.command(&plan).map_err(OutsideError::Program).map_err(failed)?;
        let asked = program.ask().map_err(OutsideError::Program).map_err(failed)?;
        let kept = program.takes_memory().then(|| memory.as_fd());
        let (process, ends) = Outside::start(&mut command, guardian, kept)
            .map_err(|error| failed(OutsideError::Program(program.could_not_start(error))))?;
        let ends = Mutex::new(Some(Ends { listeners, program: ends }));
        let is_busy = job.limits.large_pages && program.takes_memory();
        let busy_len = if is_busy { BUSY_A_LANE * lanes as u64 } else { 0 };
        let busy = layout::HEAP_SECOND_PAGE..layout::HEAP_SECOND_PAGE + busy_len;
        let running = Self { program, nonce, lanes, ends, memory, busy, _process: process, _directory: directory };
        // It has been starting meanwhile. Where it can't be used, it is gone with `running`.
        asked.answer().map_err(OutsideError::Program).map_err(failed)?;
        Ok(running)
    }

    /// The run's nonce.
    pub(super) fn nonce(&self) -> [u8; 16] {
        self.nonce
    }

    /// The descriptors that the child needs.
    pub(super) fn fds(&self) -> Vec<RawFd> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let fds = |ends: &Ends| {
            let listeners = ends.listeners.iter().map(|listener| listener.as_raw_fd());
            listeners.chain([ends.program.end.as_raw_fd(), ends.program.output.as_raw_fd()]).collect()
        };
        ends.as_ref().map(fds).unwrap_or_default()
    }

    fn take_ends(&self) -> Option<Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives up this process's ends of the devices: the child has them. It has time for the guest's memory instead, as long
    /// as the program starts.
    pub(super) fn leave_to_child(&self) {
        drop(self.take_ends());
        self.memory.make_large(&self.busy);
    }

    /// Locks this process down and serves the devices until the run is over.
    pub(super) fn serve(
        &self,
        job: &Job<'_>,
        control: &Arc<Control>,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(Stop, Option<LastWords>), MachineError> {
        let name = self.program.name();
        let image = Image::parse(job.image).map_err(MachineError::Image)?;
        if image.build_id != instar_abi::BUILD_ID {
            return Err(MachineError::BuildId { found: image.build_id });
        }
        let Some(Ends { listeners, program }) = self.take_ends() else {
            return Err(MachineError::Host(io::ErrorKind::NotConnected.into()));
        };
        let mut disks: Vec<Arc<dyn Disk>> = vec![Arc::<Control>::clone(control)];
        disks.extend(job.disks.iter().cloned());
        let descriptors = DESCRIPTORS_BEFORE + DESCRIPTORS_A_DEVICE * disks.len() as u64;
        let devices = listeners.into_iter().zip(disks).collect();
        let mut backend = Backend::new(devices, self.lanes, program).map_err(MachineError::Host)?;
        let _ = sandbox::close_doors(job.limits.largest_file, descriptors).map_err(MachineError::Sandbox)?;
        backend.start_threads().map_err(MachineError::Host)?;
        let calls = Calls { machine: sandbox::Machine::Outside, copies: job.copies() };
        sandbox::filter_calls(calls).map_err(MachineError::Sandbox)?;
        let outcome = match backend.serve(job.limits.time, is_over) {
            Ok(outcome) => outcome,
            Err((Fault::Guest(fault), _)) => return Ok((Stop::GuestFault(fault), None)),
            Err((Fault::Protocol { device, error }, said)) => {
                let error = error.to_string();
                return Err(MachineError::Outside(OutsideError::Protocol { program: name, device, error, said }));
            }
            Err((Fault::Kick(error) | Fault::Host(error), _)) => return Err(MachineError::Host(error)),
        };
        let last_words = outcome.memory.as_ref().and_then(last_words);
        if outcome.stop == Stop::PowerOff && last_words.is_none() && !is_over() {
            return Err(MachineError::Outside(OutsideError::Ended { program: name, said: outcome.said }));
        }
        Ok((outcome.stop, last_words))
    }
}
