//! The built-in machine: prepare, lock down, boot.

use super::{Job, MachineError};
use crate::disk::Disk;
use crate::disk::control::Control;
use crate::vmm::elf::Image;
use crate::vmm::run::{LastWords, Prepared, Setup};
use crate::vmm::sandbox::Calls;
use crate::vmm::shared::Stop;
use crate::vmm::strict::WholeSectors;
use crate::vmm::{process, sandbox};
use instar_abi::request::Access;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::sync::Arc;

/// Most descriptors of a process that serves one guest after another: a job's files and some of its own.
const DESCRIPTORS_MAX: u64 = 1024;

/// The machine of this process. The first run makes it and locks the process down for good; the next ones follow in it.
#[derive(Default)]
pub(super) struct Builtin {
    machine: Option<Prepared>,
    orders: Option<RawFd>,
}

impl Builtin {
    /// A machine for one run after another, which come through this socket.
    pub fn with_orders(orders: BorrowedFd<'_>) -> Self {
        Self { machine: None, orders: Some(orders.as_raw_fd()) }
    }

    /// Whether a run can follow the last.
    pub fn can_follow(&self) -> bool {
        self.orders.is_some() && self.machine.as_ref().is_some_and(Prepared::can_follow)
    }

    pub fn run(
        &mut self,
        job: &Job<'_>,
        nonce: [u8; 16],
        control: &Arc<Control>,
    ) -> Result<(Stop, Option<LastWords>), MachineError> {
        let image = Image::parse(job.image).map_err(MachineError::Image)?;
        if image.build_id != instar_abi::BUILD_ID {
            return Err(MachineError::BuildId { found: image.build_id });
        }
        let setup = Setup {
            image: &image,
            memory_len: job.limits.memory_len,
            lanes: job.request.lanes.into(),
            devices: devices(job, control),
            transport: job.transport,
            nonce,
            front: control.front(),
            time_limit: job.limits.time,
            large_pages: job.limits.large_pages,
        };
        if let Some(machine) = &mut self.machine {
            machine.follow(&setup).map_err(MachineError::Prepare)?;
            return Ok(machine.run());
        }
        let mut machine = Prepared::new(&setup).map_err(MachineError::Prepare)?;
        process::start_ticking().map_err(MachineError::Host)?;
        let (machine_calls, descriptors) = match self.orders {
            None => (sandbox::Machine::Once, 0),
            Some(orders) => (sandbox::Machine::InTurn { orders }, DESCRIPTORS_MAX),
        };
        // Silent about a kernel that lacks a layer: callers take any word on stderr for a failure; `doctor` tells.
        let _ = sandbox::close_doors(job.limits.largest_file, descriptors).map_err(MachineError::Sandbox)?;
        machine.start_threads().map_err(MachineError::Host)?;
        let calls = Calls { machine: machine_calls, copies: job.copies() };
        sandbox::filter_calls(calls).map_err(MachineError::Sandbox)?;
        Ok(self.machine.insert(machine).run())
    }
}

/// The control device, then the job's disks.
fn devices(job: &Job<'_>, control: &Arc<Control>) -> Vec<Arc<dyn Disk>> {
    let mut devices: Vec<Arc<dyn Disk>> = vec![Arc::<Control>::clone(control)];
    let lengths = job.request.disks.iter().map(|disk| match disk.access {
        Access::ReadOnly => disk.len,
        _ => u64::MAX,
    });
    devices.extend(job.disks.iter().cloned().zip(lengths).map(|(disk, len)| -> Arc<dyn Disk> {
        if job.transport.is_strict() { Arc::new(WholeSectors::new(disk, len)) } else { disk }
    }));
    devices
}
