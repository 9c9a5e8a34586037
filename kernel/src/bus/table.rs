//! The table transport: virtio's registers as a page of guest memory (`instar_abi::table`).

use super::BusError;
use core::ptr::NonNull;
use instar_abi::layout;
use instar_abi::table::{MAGIC, QUEUE_SIZE, offset};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// One device page.
pub(super) struct Table {
    page: NonNull<u8>,
}

impl Table {
    /// The page of device `index`.
    pub(super) fn new(index: u64) -> Result<Self, BusError> {
        let address = layout::TABLE + index * layout::PAGE_LEN;
        let page = NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize)).ok_or(BusError::Magic)?;
        let table = Self { page };
        if table.read::<u32>(0) == MAGIC { Ok(table) } else { Err(BusError::Magic) }
    }

    fn read<T: FromBytes>(&self, at: usize) -> T {
        assert!(at.is_multiple_of(align_of::<T>()) && at + size_of::<T>() <= layout::PAGE_LEN as usize);
        // SAFETY: inside this device's page (asserted), which is mapped for good and which nobody
        // refers to; aligned (asserted); volatile, because the machine may write it too.
        unsafe { self.page.add(at).cast::<T>().read_volatile() }
    }

    fn write<T: IntoBytes>(&mut self, at: usize, value: T) {
        assert!(at.is_multiple_of(align_of::<T>()) && at + size_of::<T>() <= layout::PAGE_LEN as usize);
        // SAFETY: as in `read`.
        unsafe { self.page.add(at).cast::<T>().write_volatile(value) }
    }

    fn queue(index: u16) -> usize {
        offset::QUEUE + usize::from(index) * offset::QUEUE_LEN
    }
}

impl Transport for Table {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn read_device_features(&mut self) -> u64 {
        self.read(offset::DEVICE_FEATURES)
    }

    fn write_driver_features(&mut self, features: u64) {
        self.write(offset::DRIVER_FEATURES, features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        if u32::from(queue) < self.read::<u32>(offset::QUEUES) { u32::from(QUEUE_SIZE) } else { 0 }
    }

    /// The doorbell serves a lane's queues of all devices at once: see `Notify::Doorbell`.
    fn notify(&mut self, _: u16) {}

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.read(offset::STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.write(offset::STATUS, status.bits());
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        let at = Self::queue(queue);
        self.write(at, size as u16);
        self.write(at + 8, descriptors);
        self.write(at + 16, driver);
        self.write(at + 24, device);
        self.write(at + 2, 1u16);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.write(Self::queue(queue) + 2, 0u16);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.read::<u16>(Self::queue(queue) + 2) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, at: usize) -> virtio_drivers::Result<T> {
        if at + size_of::<T>() <= offset::QUEUE - offset::CONFIG {
            Ok(self.read(offset::CONFIG + at))
        } else {
            Err(Error::ConfigSpaceTooSmall)
        }
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> virtio_drivers::Result<()> {
        Err(Error::Unsupported)
    }
}
