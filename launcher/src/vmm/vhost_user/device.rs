//! One device's side of the vhost-user protocol: what the machine asks and tells, held against what can be.
//!
//! Source: QEMU, `docs/interop/vhost-user.rst`.

use super::lock;
use super::ring::Ring;
use crate::disk::Disk;
use crate::vmm::block::GuestFault;
use crate::vmm::memory::{Memory, Piece};
use crate::vmm::queue::{QUEUE_SIZE_MAX, Registers};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};
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
    disk: Arc<dyn Disk>,
    features: u64,
    memory: Option<Memory>,
    /// The machine's own addresses of the pieces of memory.
    pieces: Vec<Mapped>,
    /// Shared with the threads that serve them.
    rings: Vec<Arc<Mutex<Ring>>>,
    /// How the guest broke the contract.
    fault: Option<GuestFault>,
}

/// A piece of memory: where it lies in the machine's process, and where in the guest.
struct Mapped {
    user: u64,
    len: u64,
    guest: u64,
}

impl Device {
    /// Device `index` of a run, with `queues` queues on a disk.
    pub fn new(index: u32, disk: Arc<dyn Disk>, queues: usize) -> Self {
        let ring = || Arc::new(Mutex::new(Ring::new(index, Arc::clone(&disk))));
        let rings = std::iter::repeat_with(ring).take(queues.max(1)).collect();
        Self { disk, features: 0, memory: None, pieces: Vec::new(), rings, fault: None }
    }

    /// The guest's memory, once it is known.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// How the guest broke the contract, if it did.
    pub fn fault(&self) -> Option<GuestFault> {
        self.fault
    }

    /// Its queues.
    pub fn rings(&self) -> &[Arc<Mutex<Ring>>] {
        &self.rings
    }

    fn ring(&self, index: impl Into<u32>) -> Result<MutexGuard<'_, Ring>> {
        let index = usize::try_from(index.into()).map_err(|_| Error::InvalidParam)?;
        self.rings.get(index).map(|ring| lock(ring)).ok_or(Error::InvalidParam)
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
    fn start(&mut self, index: impl Into<u32>) -> Result<()> {
        let waits = self.features & FEATURE_PROTOCOL != 0;
        let Some(memory) = &self.memory else { return Ok(()) };
        let mut ring = self.ring(index)?;
        let Some(places) = ring.places.filter(|_| !ring.runs() && ring.kick.is_some()) else { return Ok(()) };
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
        let running = ring.run(registers, memory);
        drop(ring);
        running.map_err(|fault| {
            self.fault = Some(fault);
            Error::InvalidParam
        })
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
        for index in 0..self.rings.len() as u32 {
            let ran = self.ring(index)?.stop();
            if ran {
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
        let mut ring = self.ring(index)?;
        ring.kick = None;
        ring.call = None;
        ring.stop();
        Ok(VhostUserVringState::new(index, ring.start.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index)?.kick = fd.map(Arc::new);
        self.start(index)
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
