//! One device's side of the vhost-user protocol: what the machine asks and tells, held against what can be.
//!
//! Source: QEMU, `docs/interop/vhost-user.rst`.

use super::Fault;
use crate::disk::Disk;
use crate::vmm::block::{Chains, GuestFault};
use crate::vmm::memory::{Memory, Piece};
use crate::vmm::queue::{BlockQueue, Left, QUEUE_SIZE_MAX, Registers};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

/// The modern interface, indirect descriptors, flush, several queues. No EVENT_IDX: there may be no call descriptor.
const FEATURES: u64 = 1 << 32 | 1 << 28 | 1 << 9;
const FEATURE_MQ: u64 = 1 << 12;
const FEATURE_READ_ONLY: u64 = 1 << 5;
/// VHOST_USER_F_PROTOCOL_FEATURES: queues wait until they are enabled.
const FEATURE_PROTOCOL: u64 = 1 << 30;

/// Bytes of configuration space that may be asked for; behind our fields there are zeros.
const CONFIG_LEN: usize = 256;
/// Offset of `num_queues` in `virtio_blk_config`.
const CONFIG_NUM_QUEUES: usize = 34;

/// One device: a disk, and what the machine has told so far.
pub struct Device {
    index: u32,
    disk: Arc<dyn Disk>,
    features: u64,
    memory: Option<Memory>,
    /// The machine's own addresses of the pieces of memory.
    pieces: Vec<Mapped>,
    rings: Vec<Ring>,
    /// How the guest broke the contract.
    fault: Option<GuestFault>,
}

/// A piece of memory: where it lies in the machine's process, and where in the guest.
struct Mapped {
    user: u64,
    len: u64,
    guest: u64,
}

/// One queue, until it runs and while it does.
#[derive(Default)]
struct Ring {
    size: u16,
    /// Descriptor table, available ring, used ring, in the machine's own addresses.
    places: Option<[u64; 3]>,
    start: u16,
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
    queue: Option<BlockQueue>,
}

impl Ring {
    /// Where the queue stood, if it ran; it does no longer.
    fn stop(&mut self) -> Option<u16> {
        self.queue.take().map(|queue| queue.position())
    }
}

impl Device {
    /// Device `index` of a run, with `queues` queues on a disk.
    pub fn new(index: u32, disk: Arc<dyn Disk>, queues: usize) -> Self {
        let rings = (0..queues.max(1)).map(|_| Ring::default()).collect();
        Self { index, disk, features: 0, memory: None, pieces: Vec::new(), rings, fault: None }
    }

    /// The guest's memory, once it is known.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// How the guest broke the contract, if it did.
    pub fn fault(&self) -> Option<GuestFault> {
        self.fault
    }

    /// The descriptors that tell of work, by queue.
    pub fn kicks(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let kicks = self.rings.iter().map(|ring| ring.kick.as_ref().filter(|_| ring.queue.is_some()));
        kicks.enumerate().filter_map(|(index, kick)| Some((index, kick?.as_fd())))
    }

    /// Serves a queue whose kick has come.
    ///
    /// # Errors
    /// The guest broke the contract; the run must end.
    pub fn kicked(&mut self, index: usize) -> std::result::Result<(), Fault> {
        let (Some(ring), Some(memory)) = (self.rings.get_mut(index), &self.memory) else { return Ok(()) };
        let (Some(queue), Some(mut kick)) = (&mut ring.queue, ring.kick.as_ref()) else { return Ok(()) };
        // It is readable, and may be anything that can be read.
        kick.read(&mut [0; 8]).map_err(Fault::Kick)?;
        const ONE: [u8; 8] = 1u64.to_ne_bytes();
        let left = queue.serve(&*self.disk, Chains::Any, memory).map_err(Fault::Guest)?;
        // Where nobody waits for it, nobody reads it either. Each call would wake a thread of the program's.
        if let Some(mut call) = ring.call.as_ref().filter(|_| queue.wants_call(memory)) {
            let _ = call.write(&ONE);
        }
        // The guest goes on meanwhile and may have kept the ring full: its turn comes again, after the others' and the clock's.
        if left == Left::More {
            kick.write_all(&ONE).map_err(Fault::Kick)?;
        }
        Ok(())
    }

    fn ring(&mut self, index: impl Into<u32>) -> Result<&mut Ring> {
        let index = usize::try_from(index.into()).map_err(|_| Error::InvalidParam)?;
        self.rings.get_mut(index).ok_or(Error::InvalidParam)
    }

    /// The guest's address of one in the machine's process; what lies there is checked by whoever uses it.
    fn guest_address(pieces: &[Mapped], user: u64) -> Result<u64> {
        let place = |piece: &Mapped| {
            let offset = user.checked_sub(piece.user).filter(|&offset| offset < piece.len)?;
            piece.guest.checked_add(offset)
        };
        pieces.iter().find_map(place).ok_or(Error::InvalidParam)
    }

    /// Sets a queue going, once all is known and it is enabled.
    fn start(&mut self, index: usize) -> Result<()> {
        let waits = self.features & FEATURE_PROTOCOL != 0;
        let (Some(ring), Some(memory)) = (self.rings.get_mut(index), &self.memory) else { return Ok(()) };
        let Some(places) = ring.places.filter(|_| ring.queue.is_none() && ring.kick.is_some()) else { return Ok(()) };
        if waits && !ring.enabled {
            return Ok(());
        }
        let [descriptors, driver_area, device_area] = places.map(|place| Self::guest_address(&self.pieces, place));
        let registers = Registers {
            size: ring.size,
            ready: true,
            descriptors: descriptors?,
            driver_area: driver_area?,
            device_area: device_area?,
        };
        match BlockQueue::adopt(self.index, registers, ring.start, memory) {
            Ok(queue) => ring.queue = Some(queue),
            Err(fault) => {
                self.fault = Some(fault);
                return Err(Error::InvalidParam);
            }
        }
        Ok(())
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        config[..8].copy_from_slice(&self.disk.sectors().to_le_bytes());
        let queues = u16::try_from(self.rings.len()).unwrap_or(1);
        config[CONFIG_NUM_QUEUES..CONFIG_NUM_QUEUES + 2].copy_from_slice(&queues.to_le_bytes());
        config
    }

    fn offered(&self) -> u64 {
        let read_only = if self.disk.read_only() { FEATURE_READ_ONLY } else { 0 };
        let queues = if self.rings.len() > 1 { FEATURE_MQ } else { 0 };
        FEATURES | FEATURE_PROTOCOL | read_only | queues
    }
}

/// What this back end never offers.
fn unsupported<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.offered())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.offered() != 0 {
            return Err(Error::FeatureMismatch);
        }
        self.features = features;
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let pieces = regions.iter().zip(files).map(|(region, file)| Piece {
            address: region.guest_phys_addr,
            len: region.memory_size,
            file,
            offset: region.mmap_offset,
        });
        let memory = Memory::shared(pieces.collect()).map_err(Error::ReqHandlerError)?;
        let mapped = |region: &VhostUserMemoryRegion| Mapped {
            user: region.user_addr,
            len: region.memory_size,
            guest: region.guest_phys_addr,
        };
        self.pieces = regions.iter().map(mapped).collect();
        self.memory = Some(memory);
        // Firmware opens and closes windows while a device runs: it goes on where it stood, in the new memory.
        for index in 0..self.rings.len() {
            if let Some(start) = self.rings.get_mut(index).and_then(Ring::stop) {
                self.ring(index as u32)?.start = start;
                self.start(index)?;
            }
        }
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two() && *size <= QUEUE_SIZE_MAX);
        self.ring(index)?.size = size.ok_or(Error::InvalidParam)?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        self.ring(index)?.places = Some([descriptor, available, used]);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.start = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    /// Stops the queue.
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let ring = self.ring(index)?;
        ring.kick = None;
        ring.call = None;
        ring.start = ring.stop().unwrap_or(ring.start);
        Ok(VhostUserVringState::new(index, ring.start.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index)?.kick = fd;
        self.start(index.into())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index)?.call = fd;
        Ok(())
    }

    /// A guest that breaks the contract is not told of it.
    fn set_vring_err(&mut self, index: u8, _: Option<File>) -> Result<()> {
        self.ring(index).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ)
    }

    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        let index = usize::try_from(index).map_err(|_| Error::InvalidParam)?;
        if enable { self.start(index) } else { Ok(()) }
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let from = usize::try_from(offset).map_err(|_| Error::InvalidParam)?;
        let len = usize::try_from(size).map_err(|_| Error::InvalidParam)?;
        let config = self.config();
        let asked = config.get(from..).and_then(|rest| rest.get(..len));
        asked.map(<[u8]>::to_vec).ok_or(Error::InvalidParam)
    }

    /// There is nothing to set: writes are durable when they are flushed.
    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        unsupported()
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported()
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        unsupported()
    }
}
