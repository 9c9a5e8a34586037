//! The queues of one lane on every device, and serving them.

use super::block::{self, Chains, GuestFault};
use super::memory::Memory;
use crate::disk::Disk;
use instar_abi::layout;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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

/// One queue of one device, as the guest has set it up.
pub struct BlockQueue {
    queue: Queue,
    device: u32,
}

impl BlockQueue {
    /// Takes over a queue of a device. It keeps these registers for good. `start` is where its rings stand: 0, unless
    /// another program has served it before.
    ///
    /// # Errors
    /// A size that is no power of two or too large, or rings outside memory.
    pub fn adopt(device: u32, registers: Registers, start: u16, memory: &Memory) -> Result<Self, GuestFault> {
        let bad = GuestFault::QueueSetup { device };
        // Flags and index, an entry of 8 bytes for each descriptor, and an event index.
        if layout::is_code(registers.device_area, 6 + 8 * u64::from(registers.size)) {
            return Err(bad);
        }
        let mut queue = Queue::new(QUEUE_SIZE_MAX).map_err(|_| bad)?;
        if registers.size > QUEUE_SIZE_MAX || !registers.size.is_power_of_two() {
            return Err(bad);
        }
        queue.set_size(registers.size);
        queue.try_set_desc_table_address(GuestAddress(registers.descriptors)).map_err(|_| bad)?;
        queue.try_set_avail_ring_address(GuestAddress(registers.driver_area)).map_err(|_| bad)?;
        queue.try_set_used_ring_address(GuestAddress(registers.device_area)).map_err(|_| bad)?;
        queue.set_next_avail(start);
        queue.set_next_used(start);
        queue.set_ready(true);
        if !queue.is_valid(memory.map()) {
            return Err(bad);
        }
        Ok(Self { queue, device })
    }

    /// Where its rings stand.
    #[must_use]
    pub fn position(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Whether the guest wants to be told of what it finds in the used ring; one that looks by itself does not.
    #[must_use]
    pub fn wants_call(&self, memory: &Memory) -> bool {
        const NO_INTERRUPT: u16 = 1; // VIRTQ_AVAIL_F_NO_INTERRUPT
        memory.read(self.queue.avail_ring()).map_or(true, |flags| u16::from_le_bytes(flags) & NO_INTERRUPT == 0)
    }

    /// Asks the guest for no kicks, or for them again; false where it has offered something meanwhile.
    ///
    /// # Errors
    /// The guest broke the contract; the run must end.
    pub fn want_kicks(&mut self, wanted: bool, memory: &Memory) -> Result<bool, GuestFault> {
        let set = match wanted {
            true => self.queue.enable_notification(memory.map()).map(|more| !more),
            false => self.queue.disable_notification(memory.map()).map(|()| true),
        };
        set.map_err(|_| GuestFault::Ring { device: self.device })
    }

    /// Serves what is in it, at most a full ring.
    ///
    /// # Errors
    /// The guest broke the contract; the run must end.
    pub fn serve(&mut self, disk: &dyn Disk, chains: Chains, memory: &Memory) -> Result<Left, GuestFault> {
        let bad = GuestFault::Ring { device: self.device };
        for _ in 0..self.queue.size() {
            let mut heads = self.queue.iter(memory.map()).map_err(|_| bad)?;
            let Some(chain) = heads.next() else { return Ok(Left::Nothing) };
            let head = chain.head_index();
            let written = block::serve(self.device, chain, disk, chains, memory)?;
            self.queue.add_used(memory.map(), head, written).map_err(|_| bad)?;
        }
        let offered = self.queue.avail_idx(memory.map(), Ordering::Acquire).map_err(|_| bad)?;
        Ok(if offered.0 == self.queue.next_avail() { Left::Nothing } else { Left::More })
    }
}

/// What is left of a queue after a full ring has been served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// The guest has offered more meanwhile; one that does so without end must not hold the thread that serves it.
    More,
}

/// One queue with its disk.
struct Served {
    queue: BlockQueue,
    registers: Registers,
    disk: Arc<dyn Disk>,
}

/// A lane's queue on each device, once the guest has set it up.
pub struct LaneQueues {
    served: Vec<Option<Served>>,
    disks: Vec<Arc<dyn Disk>>,
    chains: Chains,
}

impl LaneQueues {
    /// No queues yet, on these devices.
    #[must_use]
    pub fn new(disks: &[Arc<dyn Disk>]) -> Self {
        Self { served: disks.iter().map(|_| None).collect(), disks: disks.to_vec(), chains: Chains::Any }
    }

    /// The same, which takes only such chains.
    #[must_use]
    pub fn taking(self, chains: Chains) -> Self {
        Self { chains, ..self }
    }

    /// Number of devices.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.disks.len()
    }

    /// By what this lane's queue of device `index` was set up, if it is.
    #[must_use]
    pub fn adopted(&self, index: usize) -> Option<Registers> {
        self.served.get(index)?.as_ref().map(|served| served.registers)
    }

    /// Takes over a queue that the guest has set up. It keeps these registers for good.
    ///
    /// # Errors
    /// A size that is no power of two or too large, or rings outside memory.
    pub fn adopt(&mut self, index: usize, registers: Registers, memory: &Memory) -> Result<(), GuestFault> {
        let (Some(slot), Some(disk)) = (self.served.get_mut(index), self.disks.get(index)) else {
            return Err(GuestFault::NoSuchDevice { index: index as u32 });
        };
        let queue = BlockQueue::adopt(index as u32, registers, 0, memory)?;
        *slot = Some(Served { queue, registers, disk: Arc::clone(disk) });
        Ok(())
    }

    /// Serves everything in this lane's queue of one device. The lane's vCPU stands still meanwhile.
    ///
    /// # Errors
    /// The guest broke the contract; the run must end.
    pub fn serve(&mut self, index: usize, memory: &Memory) -> Result<(), GuestFault> {
        match self.served.get_mut(index).and_then(Option::as_mut) {
            // With its vCPU standing still, a ring can only grow by reads into the ring itself.
            Some(Served { queue, disk, .. }) => match queue.serve(&**disk, self.chains, memory)? {
                Left::Nothing => Ok(()),
                Left::More => Err(GuestFault::Ring { device: index as u32 }),
            },
            None => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Segments;
    use std::io;
    use std::sync::atomic::AtomicU16;

    const DESCRIPTORS: u64 = 0x1000;
    /// Available ring and request header, in one sector.
    const RING: u64 = 0x2000;
    const HEADER: u64 = RING + 0x100;

    /// Each of its sectors, read over ring and header, offers the next request, for the sector after it.
    struct Feeding(AtomicU16);

    impl Disk for Feeding {
        fn sectors(&self) -> u64 {
            1 << 16
        }

        fn read_only(&self) -> bool {
            true
        }

        fn read(&self, _: u64, into: &mut dyn Segments) -> io::Result<()> {
            let served = self.0.fetch_add(1, Ordering::Relaxed);
            assert!(served < 1000, "served without end");
            into.zero_from(0);
            into.put(2, &(served + 2).to_le_bytes());
            Ok(())
        }

        fn write(&self, _: u64, _: &dyn Segments) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Found while the fuzz target `virtio_queue` was written: nothing but the ring itself ended the loop.
    #[test]
    fn a_ring_that_grows_as_it_is_served_ends_the_run() {
        let memory = Memory::new(0x10000, 0..0).expect("memory");
        let descriptors: [(u64, u32, u16, u16); 3] = [(HEADER, 16, 1, 1), (RING, 512, 3, 2), (0x4000, 1, 2, 0)];
        for (at, (address, len, flags, next)) in (DESCRIPTORS..).step_by(16).zip(descriptors) {
            memory.write(at, &address.to_le_bytes()).expect("memory");
            memory.write(at + 8, &len.to_le_bytes()).expect("memory");
            memory.write(at + 12, &flags.to_le_bytes()).expect("memory");
            memory.write(at + 14, &next.to_le_bytes()).expect("memory");
        }
        memory.write(RING + 2, &1u16.to_le_bytes()).expect("memory");
        let disk: Arc<dyn Disk> = Arc::new(Feeding(AtomicU16::new(0)));
        let mut queues = LaneQueues::new(&[disk]);
        let registers =
            Registers { size: 16, ready: true, descriptors: DESCRIPTORS, driver_area: RING, device_area: 0x3000 };
        queues.adopt(0, registers, &memory).expect("a sound queue");
        assert_eq!(queues.serve(0, &memory), Err(GuestFault::Ring { device: 0 }));
        // Where the guest goes on meanwhile, it may: the thread is given back after a full ring.
        memory.write(RING, &[0, 0, 1, 0]).expect("memory");
        let mut queue = BlockQueue::adopt(0, registers, 0, &memory).expect("a sound queue");
        let disk = Feeding(AtomicU16::new(0));
        for full in 1..4 {
            assert_eq!(queue.serve(&disk, Chains::Any, &memory), Ok(Left::More));
            assert_eq!(disk.0.load(Ordering::Relaxed), full * registers.size);
        }
    }
}
