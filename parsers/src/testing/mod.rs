//! A machine for tests: disks in memory or in files, one lane or several, with faults on purpose.

mod builder;
pub mod foreign;
mod machine;
mod qemu;

pub use builder::{CLUSTER, L1, Qcow2Builder};
pub use machine::{FakeLane, Fault, INFO, Machine, MemoryDisk, request};
pub use qemu::{Embedded, embed, qemu_img, qemu_io, scratch};

use crate::image::{Chain, Extent, Mapped, Resolved};
use crate::store::{Budget, Cache, Queue, ReadAt, Store};
use instar_abi::error::Error;
use instar_abi::request::{LayerId, Request};

/// Runs `work` over the disks of a job.
pub fn with_store<T>(request: &Request, disks: &[MemoryDisk], work: impl FnOnce(&mut dyn ReadAt) -> T) -> T {
    let mut machine = Machine::new(request, disks);
    let mut queue = Queue::new(instar_io::Env::lane(&mut machine));
    let (cache, budget) = (&mut Cache::new(), &mut Budget::from(request.budget));
    work(&mut Store { queue: &mut queue, cache, budget, disks: &request.disks })
}

/// All extents of layer 0's chain, neighbours merged. Panics unless they tile the disk.
pub fn map_all(request: &Request, disks: &[MemoryDisk]) -> Result<Vec<(Extent, u32)>, Error> {
    with_store(request, disks, |io| {
        let Resolved::Complete(mut chain) = Chain::open(io, request, LayerId(0))? else { panic!("a name is missing") };
        let mut all: Vec<(Extent, u32)> = Vec::new();
        let mut at = 0;
        while at < chain.virtual_size() {
            let Mapped { extent, depth, .. } = chain.map(io, at..chain.virtual_size())?;
            assert!(extent.len > 0 && extent.start == at && extent.end() <= chain.virtual_size(), "{extent:?}");
            at = extent.end();
            let last = all.last_mut().filter(|(_, last_depth)| *last_depth == depth);
            if !last.is_some_and(|(last, _)| last.merge(&extent)) {
                all.push((extent, depth));
            }
        }
        Ok(all)
    })
}
