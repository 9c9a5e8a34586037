//! virtio-mmio, version 2, as other machines have it (virtio 1.2, 4.2). For tests and for strict mode:
//! set-up costs an exit a register.

use super::queue::{QUEUE_SIZE_MAX, Registers};
use std::sync::{Mutex, PoisonError};

/// Address of the first device's registers; each has a page.
pub const BASE: u64 = 0xd000_0000;
/// Bytes between devices.
pub const STRIDE: u64 = 0x1000;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const BLOCK_DEVICE: u32 = 2;

/// What a register write asks the machine to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A queue is set up.
    QueueReady {
        /// The device.
        device: usize,
        /// Its queue.
        registers: Registers,
    },
    /// There is work in the device's queue.
    Notify {
        /// The device.
        device: usize,
    },
}

/// The registers of every device.
pub struct Bus {
    devices: Mutex<Vec<Device>>,
}

/// The registers of one device with one queue.
#[derive(Debug, Clone)]
struct Device {
    features: u64,
    sectors: u64,
    feature_select: u32,
    queue_select: u32,
    status: u32,
    queue: Registers,
}

impl Bus {
    /// Devices with these features and capacities in sectors.
    #[must_use]
    pub fn new(devices: impl Iterator<Item = (u64, u64)>) -> Self {
        let device = |(features, sectors)| Device {
            features,
            sectors,
            feature_select: 0,
            queue_select: 0,
            status: 0,
            queue: Registers::default(),
        };
        Self { devices: Mutex::new(devices.map(device).collect()) }
    }

    fn with<R>(&self, address: u64, absent: R, f: impl FnOnce(usize, u64, &mut Device) -> R) -> R {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(offset) = address.checked_sub(BASE) else { return absent };
        let index = usize::try_from(offset / STRIDE).unwrap_or(usize::MAX);
        match devices.get_mut(index) {
            Some(device) => f(index, offset % STRIDE, device),
            None => absent,
        }
    }

    /// Reads four bytes.
    #[must_use]
    pub fn read(&self, address: u64) -> u32 {
        self.with(address, u32::MAX, |_, register, device| match register {
            0x00 => MAGIC,
            0x04 => 2,
            0x08 => BLOCK_DEVICE,
            0x10 if device.feature_select == 0 => device.features as u32,
            0x10 if device.feature_select == 1 => (device.features >> 32) as u32,
            0x34 if device.queue_select == 0 => u32::from(QUEUE_SIZE_MAX),
            0x44 => u32::from(device.queue.ready),
            0x70 => device.status,
            0x100 => device.sectors as u32,
            0x104 => (device.sectors >> 32) as u32,
            _ => 0,
        })
    }

    /// Writes four bytes.
    pub fn write(&self, address: u64, value: u32) -> Effect {
        self.with(address, Effect::None, |index, register, device| {
            let queue = &mut device.queue;
            match register {
                0x14 => device.feature_select = value,
                0x30 => device.queue_select = value,
                0x38 => queue.size = u16::try_from(value).unwrap_or(u16::MAX),
                0x44 if device.queue_select == 0 && value == 1 && !queue.ready => {
                    queue.ready = true;
                    return Effect::QueueReady { device: index, registers: *queue };
                }
                0x50 if value == 0 => return Effect::Notify { device: index },
                0x70 => device.status = value,
                0x80 => low(&mut queue.descriptors, value),
                0x84 => high(&mut queue.descriptors, value),
                0x90 => low(&mut queue.driver_area, value),
                0x94 => high(&mut queue.driver_area, value),
                0xa0 => low(&mut queue.device_area, value),
                0xa4 => high(&mut queue.device_area, value),
                _ => {}
            }
            Effect::None
        })
    }
}

fn low(address: &mut u64, value: u32) {
    *address = *address & !0xffff_ffff | u64::from(value);
}

fn high(address: &mut u64, value: u32) {
    *address = *address & 0xffff_ffff | u64::from(value) << 32;
}
