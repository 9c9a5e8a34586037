//! virtio-mmio, version 2, as other machines have it (virtio 1.2, 4.2). For tests and for strict mode:
//! set-up costs an exit a register.

use super::block::GuestFault;
use super::registers::{Area, DeviceRegisters, Half, Manners, OutOfTurn};
use std::sync::{Mutex, PoisonError};

pub use super::registers::Effect;

/// Address of the first device's registers; each has a page.
pub const BASE: u64 = 0xd000_0000;
/// Bytes between devices.
pub const STRIDE: u64 = 0x1000;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const BLOCK_DEVICE: u32 = 2;

/// The registers of every device.
pub struct Bus {
    devices: Mutex<Vec<DeviceRegisters>>,
}

impl Bus {
    /// Devices with these features and capacities in sectors.
    #[must_use]
    pub fn new(devices: impl Iterator<Item = (u64, u64)>) -> Self {
        Self::with_manners(Manners::Lenient, devices)
    }

    /// The same, of these manners.
    #[must_use]
    pub fn with_manners(manners: Manners, devices: impl Iterator<Item = (u64, u64)>) -> Self {
        let device = |(index, (features, sectors))| DeviceRegisters::new(manners, index, features, sectors);
        Self { devices: Mutex::new(devices.enumerate().map(device).collect()) }
    }

    fn with<R>(&self, address: u64, absent: R, f: impl FnOnce(u64, &mut DeviceRegisters) -> R) -> R {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(offset) = address.checked_sub(BASE) else { return absent };
        let index = usize::try_from(offset / STRIDE).unwrap_or(usize::MAX);
        match devices.get_mut(index) {
            Some(device) => f(offset % STRIDE, device),
            None => absent,
        }
    }

    /// Whether an access of `len` bytes is one that the device there takes: strict ones take four.
    ///
    /// # Errors
    /// [`GuestFault::Register`].
    pub fn check_width(&self, address: u64, len: usize) -> Result<(), GuestFault> {
        let bad = Err(GuestFault::Register { address });
        self.with(address, Ok(()), |_, device| if device.is_strict() && len != 4 { bad } else { Ok(()) })
    }

    /// Reads four bytes.
    #[must_use]
    pub fn read(&self, address: u64) -> u32 {
        self.with(address, u32::MAX, |register, device| match register {
            0x00 => MAGIC,
            0x04 => 2,
            0x08 => BLOCK_DEVICE,
            0x10 => device.device_features(),
            0x34 => u32::from(device.queue_size_max()),
            0x44 => u32::from(device.queue().ready),
            0x70 => device.status(),
            0x100.. => device.config(register - 0x100),
            _ => 0,
        })
    }

    /// Writes four bytes.
    ///
    /// # Errors
    /// [`GuestFault::Register`]: it was not that register's turn.
    pub fn write(&self, address: u64, value: u32) -> Result<Effect, GuestFault> {
        let effect = self.with(address, Ok(Effect::None), |register, device| {
            match register {
                0x14 => device.feature_select = value,
                0x20 => device.take_features(value)?,
                0x24 => device.driver_feature_select = value,
                0x30 => device.queue_select = value,
                0x38 => device.set_queue_size(u16::try_from(value).unwrap_or(u16::MAX))?,
                0x44 => return device.set_queue_ready(value),
                0x50 => return device.notify(value),
                0x70 => device.set_status(value)?,
                0x80 => device.set_queue_address(Area::Descriptors, Half::Low, value)?,
                0x84 => device.set_queue_address(Area::Descriptors, Half::High, value)?,
                0x90 => device.set_queue_address(Area::Driver, Half::Low, value)?,
                0x94 => device.set_queue_address(Area::Driver, Half::High, value)?,
                0xa0 => device.set_queue_address(Area::Device, Half::Low, value)?,
                0xa4 => device.set_queue_address(Area::Device, Half::High, value)?,
                _ => {}
            }
            Ok(Effect::None)
        });
        effect.map_err(|OutOfTurn| GuestFault::Register { address })
    }
}
