//! The queues of one lane on every device, and serving them.

use super::block::{self, GuestFault};
use super::memory::Memory;
use crate::disk::Disk;
use std::sync::Arc;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

/// Most entries of a queue that the machine offers.
pub const QUEUE_SIZE_MAX: u16 = instar_abi::table::QUEUE_SIZE;

/// The registers by which a guest sets a queue up, whatever the transport.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// Entries.
    pub size: u16,
    /// The addresses are valid.
    pub ready: bool,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub driver_area: u64,
    /// Used ring.
    pub device_area: u64,
}

/// One queue of one device.
struct Served {
    queue: Queue,
    disk: Arc<dyn Disk>,
}

/// A lane's queue on each device, once the guest has set it up.
pub struct LaneQueues {
    served: Vec<Option<Served>>,
    disks: Vec<Arc<dyn Disk>>,
}

impl LaneQueues {
    /// No queues yet, on these devices.
    #[must_use]
    pub fn new(disks: &[Arc<dyn Disk>]) -> Self {
        Self { served: disks.iter().map(|_| None).collect(), disks: disks.to_vec() }
    }

    /// Number of devices.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.disks.len()
    }

    /// Whether this lane's queue of device `index` is set up.
    #[must_use]
    pub fn adopted(&self, index: usize) -> bool {
        self.served.get(index).is_some_and(Option::is_some)
    }

    /// Takes over a queue that the guest has set up. It keeps these registers for good.
    ///
    /// # Errors
    /// A size that is no power of two or too large, or rings outside memory.
    pub fn adopt(&mut self, index: usize, registers: Registers, memory: &Memory) -> Result<(), GuestFault> {
        let (Some(slot), Some(disk)) = (self.served.get_mut(index), self.disks.get(index)) else {
            return Err(GuestFault::NoSuchDevice { index: index as u32 });
        };
        let bad = GuestFault::QueueSetup { device: index as u32 };
        let mut queue = Queue::new(QUEUE_SIZE_MAX).map_err(|_| bad)?;
        if registers.size > QUEUE_SIZE_MAX || !registers.size.is_power_of_two() {
            return Err(bad);
        }
        queue.set_size(registers.size);
        queue.try_set_desc_table_address(GuestAddress(registers.descriptors)).map_err(|_| bad)?;
        queue.try_set_avail_ring_address(GuestAddress(registers.driver_area)).map_err(|_| bad)?;
        queue.try_set_used_ring_address(GuestAddress(registers.device_area)).map_err(|_| bad)?;
        queue.set_ready(true);
        if !queue.is_valid(memory.map()) {
            return Err(bad);
        }
        *slot = Some(Served { queue, disk: Arc::clone(disk) });
        Ok(())
    }

    /// Serves everything in this lane's queue of one device.
    ///
    /// # Errors
    /// The guest broke the contract; the run must end.
    pub fn serve(&mut self, index: usize, memory: &Memory) -> Result<(), GuestFault> {
        let Some(Served { queue, disk }) = self.served.get_mut(index).and_then(Option::as_mut) else {
            return Ok(());
        };
        let device = index as u32;
        loop {
            let mut heads = queue.iter(memory.map()).map_err(|_| GuestFault::Ring { device })?;
            let Some(chain) = heads.next() else { return Ok(()) };
            let head = chain.head_index();
            let written = block::serve(device, chain, &**disk, memory)?;
            queue.add_used(memory.map(), head, written).map_err(|_| GuestFault::Ring { device })?;
        }
    }

    /// Serves everything in this lane's queues of all devices.
    ///
    /// # Errors
    /// As [`LaneQueues::serve`].
    pub fn serve_all(&mut self, memory: &Memory) -> Result<(), GuestFault> {
        (0..self.served.len()).try_for_each(|index| self.serve(index, memory))
    }
}
