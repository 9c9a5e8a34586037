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
use std::sync::Arc;

pub(super) fn run(
    job: &Job<'_>,
    nonce: [u8; 16],
    control: &Arc<Control>,
) -> Result<(Stop, Option<LastWords>), MachineError> {
    let image = Image::parse(job.image).map_err(MachineError::Image)?;
    if image.build_id != instar_abi::BUILD_ID {
        return Err(MachineError::BuildId { found: image.build_id });
    }
    let mut devices: Vec<Arc<dyn Disk>> = vec![Arc::<Control>::clone(control)];
    let lengths = job.request.disks.iter().map(|disk| match disk.access {
        Access::ReadOnly => disk.len,
        _ => u64::MAX,
    });
    devices.extend(job.disks.iter().cloned().zip(lengths).map(|(disk, len)| -> Arc<dyn Disk> {
        if job.transport.is_strict() { Arc::new(WholeSectors::new(disk, len)) } else { disk }
    }));
    let setup = Setup {
        image: &image,
        memory_len: job.limits.memory_len,
        lanes: job.request.lanes.into(),
        devices,
        transport: job.transport,
        nonce,
        front: control.front(),
        time_limit: job.limits.time,
        large_pages: job.limits.large_pages,
    };
    let mut machine = Prepared::new(&setup).map_err(MachineError::Prepare)?;
    process::start_ticking().map_err(MachineError::Host)?;
    // Silent about a kernel that lacks a layer: callers take any word on stderr for a failure; `doctor` tells.
    let _ = sandbox::close_doors(job.limits.largest_file).map_err(MachineError::Sandbox)?;
    machine.start_threads().map_err(MachineError::Host)?;
    sandbox::filter_calls(if job.copies() { Calls::AndCopies } else { Calls::Plain }).map_err(MachineError::Sandbox)?;
    Ok(machine.run())
}
