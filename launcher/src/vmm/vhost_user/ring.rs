//! One queue of a device, until it runs and while it does.

use super::Fault;
use crate::disk::Disk;
use crate::vmm::block::{Chains, GuestFault};
use crate::vmm::memory::Memory;
use crate::vmm::queue::{BlockQueue, Registers};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

/// A queue. Who serves it has it locked, and so has who changes it.
pub struct Ring {
    device: u32,
    disk: Arc<dyn Disk>,
    /// Entries.
    pub(super) size: u16,
    /// Descriptor table, available ring, used ring, in the machine's own addresses.
    pub(super) places: Option<[u64; 3]>,
    /// Where it starts.
    pub(super) start: u16,
    /// Tells of work.
    pub(super) kick: Option<Arc<File>>,
    /// Tells of work done.
    pub(super) call: Option<File>,
    pub(super) enabled: bool,
    running: Option<Running>,
}

/// A queue that runs.
struct Running {
    queue: BlockQueue,
    memory: Memory,
    /// The guest has been asked for no kicks.
    is_quiet: bool,
}

impl Ring {
    /// A queue of device `device` of a run that nobody has set up.
    pub(super) fn new(device: u32, disk: Arc<dyn Disk>) -> Self {
        Self { device, disk, size: 0, places: None, start: 0, kick: None, call: None, enabled: false, running: None }
    }

    /// Whether it runs.
    pub(super) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Sets it going.
    ///
    /// # Errors
    /// As [`BlockQueue::adopt`].
    pub(super) fn run(&mut self, registers: Registers, memory: &Memory) -> Result<(), GuestFault> {
        let queue = BlockQueue::adopt(self.device, registers, self.start, memory)?;
        self.running = Some(Running { queue, memory: memory.clone(), is_quiet: false });
        Ok(())
    }

    /// Stops it where it stands; whether it ran.
    pub(super) fn stop(&mut self) -> bool {
        let Some(Running { mut queue, memory, is_quiet }) = self.running.take() else { return false };
        self.start = queue.position();
        if is_quiet {
            // Whoever goes on with it finds out if its memory is gone.
            let _ = queue.want_kicks(true, &memory);
        }
        true
    }

    /// What tells of work, while it runs.
    pub fn kick(&self) -> Option<Arc<File>> {
        self.kick.clone().filter(|_| self.runs())
    }

    /// Takes a kick, which has come.
    ///
    /// # Errors
    /// It can't be read.
    pub fn take(&self, kick: &Arc<File>) -> Result<(), Fault> {
        // The queue may have been stopped meanwhile, and be going again with another.
        if self.kick().is_some_and(|own| Arc::ptr_eq(&own, kick)) {
            // It is readable, and may be anything that can be read.
            (&**kick).read(&mut [0; 8]).map_err(Fault::Kick)?;
        }
        Ok(())
    }

    /// Serves what is in it, at most a full ring, and asks for no kicks from now on; whether there was anything.
    ///
    /// # Errors
    /// The guest broke the contract; the run must end.
    pub fn serve(&mut self) -> Result<bool, Fault> {
        let Some(Running { queue, memory, is_quiet }) = &mut self.running else { return Ok(false) };
        if !*is_quiet {
            queue.want_kicks(false, memory).map_err(Fault::Guest)?;
            *is_quiet = true;
        }
        let before = queue.position();
        queue.serve(&*self.disk, Chains::Any, memory).map_err(Fault::Guest)?;
        let served = queue.position() != before;
        // Where nobody waits for it, nobody reads it either. Each call would wake a thread of the program's.
        if let Some(mut call) = self.call.as_ref().filter(|_| served && queue.wants_call(memory)) {
            let _ = call.write(&1u64.to_ne_bytes());
        }
        Ok(served)
    }

    /// Asks for kicks again; false where there is something to serve already.
    ///
    /// # Errors
    /// As [`Ring::serve`].
    pub fn rest(&mut self) -> Result<bool, Fault> {
        let Some(Running { queue, memory, is_quiet }) = &mut self.running else { return Ok(true) };
        *is_quiet = false;
        queue.want_kicks(true, memory).map_err(Fault::Guest)
    }
}
