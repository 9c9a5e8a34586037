//! virtio-pci, modern: virtio-drivers' transport on what the machine has placed on bus 0.
//!
//! ```text
//! ecam=0xBASE  configuration space in memory      ┐ slot 0, 1, 2 … up to the first empty one;
//! pci=cf8      configuration space by two ports   ┘ block devices 1af4:1042 in that order
//! ```
//! Base addresses are the machine's; a device that it has put outside the windows that are mapped (3 to 4 GiB) is
//! refused. Memory space and bus mastering are switched on here: not every machine does.

use super::{BusError, WINDOWS, WINDOWS_END};
use crate::arch::port;
use crate::command_line::PciAccess;
use crate::mem::Identity;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PCI_CAP_ID_VNDR, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_NOTIFY_CFG};

/// Vendor and device of a modern virtio block device, as the first word of configuration space has them.
const VIRTIO_BLOCK: u32 = 0x1042_1af4;
/// What an empty slot reads as.
const EMPTY: u32 = 0xffff_ffff;
const SLOTS: u8 = 32;

/// Ports of configuration mechanism 1 (PCI 3.0, 3.2.2.3.2).
const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;

/// Bytes of one function's configuration space in ECAM, and of bus 0.
const ECAM_FUNCTION_LEN: u64 = 4096;
const ECAM_BUS_LEN: u64 = 256 * ECAM_FUNCTION_LEN;

/// Configuration space of bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Config(PciAccess);

impl Config {
    /// Configuration space as the command line says it is reached.
    pub(super) fn new(access: PciAccess) -> Result<Self, BusError> {
        match access {
            PciAccess::Ecam(base) if !in_windows(base, ECAM_BUS_LEN) || !base.is_multiple_of(4096) => {
                Err(BusError::Window)
            }
            access => Ok(Self(access)),
        }
    }

    /// The word in configuration mechanism 1's address port.
    fn address(function: DeviceFunction, register: u8) -> u32 {
        let DeviceFunction { bus, device, function } = function;
        ENABLE | u32::from(bus) << 16 | u32::from(device) << 11 | u32::from(function) << 8 | u32::from(register & !3)
    }

    /// Its place in ECAM.
    fn pointer(base: u64, function: DeviceFunction, register: u8) -> *mut u32 {
        let DeviceFunction { device, function, .. } = function;
        let place = (u64::from(device) << 3 | u64::from(function)) * ECAM_FUNCTION_LEN + u64::from(register & !3);
        core::ptr::with_exposed_provenance_mut((base + place) as usize)
    }
}

impl ConfigurationAccess for Config {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        match self.0 {
            PciAccess::Ports => {
                port::write_u32(ADDRESS_PORT, Self::address(function, register));
                port::read_u32(DATA_PORT)
            }
            // SAFETY: within bus 0's megabyte of configuration space (device < 32, function < 8, register < 256), all
            // of which lies in the windows that are mapped for good as device memory (`new`).
            PciAccess::Ecam(base) => unsafe { Self::pointer(base, function, register).read_volatile() },
        }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        match self.0 {
            PciAccess::Ports => {
                port::write_u32(ADDRESS_PORT, Self::address(function, register));
                port::write_u32(DATA_PORT, data);
            }
            // SAFETY: as in `read_word`.
            PciAccess::Ecam(base) => unsafe { Self::pointer(base, function, register).write_volatile(data) },
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// The block devices of bus 0, in order.
pub(super) fn block_devices<C: ConfigurationAccess>(config: &C) -> impl Iterator<Item = DeviceFunction> {
    let slots = (0..SLOTS).map(|device| DeviceFunction { bus: 0, device, function: 0 });
    slots
        .map(|slot| (slot, config.read_word(slot, 0)))
        .take_while(|&(_, id)| id != EMPTY)
        .filter(|&(_, id)| id == VIRTIO_BLOCK)
        .map(|(slot, _)| slot)
}

/// Where a device's notify registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotifyRegisters {
    /// `virtio_pci_common_cfg`.
    common: u64,
    /// The first register.
    base: u64,
    /// Bytes of all registers.
    len: u64,
    /// Bytes between registers.
    stride: u64,
}

/// Opens the device at `slot`.
pub(super) fn open<C: ConfigurationAccess + Copy>(
    config: C,
    slot: DeviceFunction,
) -> Result<(PciTransport, NotifyRegisters), BusError> {
    let mut root = PciRoot::new(config);
    for bar in root.bars(slot).map_err(|_| BusError::Setup)?.into_iter().flatten() {
        // Ports may be anywhere: nobody uses them.
        if bar.memory_address_size().is_some_and(|(address, len)| !in_windows(address, len)) {
            return Err(BusError::Window);
        }
    }
    let (_, command) = root.get_status_command(slot);
    root.set_command(slot, command | Command::MEMORY_SPACE | Command::BUS_MASTER);
    let registers = notify_registers(config, &mut root, slot).ok_or(BusError::Setup)?;
    let transport = PciTransport::new::<Identity, C>(&mut root, slot).map_err(|_| BusError::Setup)?;
    Ok((transport, registers))
}

/// A capability's structure: address and bytes.
fn structure<C: ConfigurationAccess>(
    config: C,
    root: &mut PciRoot<C>,
    slot: DeviceFunction,
    capability: u8,
) -> Option<(u64, u64)> {
    let [bar, offset, len] = [4, 8, 12].map(|at| config.read_word(slot, capability.wrapping_add(at)));
    let (address, bar_len) = root.bar_info(slot, bar as u8).ok()??.memory_address_size()?;
    let end = u64::from(offset).checked_add(len.into())?;
    (end <= bar_len).then_some((address + u64::from(offset), len.into()))
}

/// Finds them: virtio-drivers keeps what it has found to itself, and notifies a queue by three accesses.
fn notify_registers<C: ConfigurationAccess + Copy>(
    config: C,
    root: &mut PciRoot<C>,
    slot: DeviceFunction,
) -> Option<NotifyRegisters> {
    let find = |root: &PciRoot<C>, kind| {
        root.capabilities(slot)
            .find(|found| found.id == PCI_CAP_ID_VNDR && (found.private_header >> 8) as u8 == kind)
            .map(|found| found.offset)
    };
    let common = find(root, VIRTIO_PCI_CAP_COMMON_CFG)?;
    let notify = find(root, VIRTIO_PCI_CAP_NOTIFY_CFG)?;
    let (common, common_len) = structure(config, root, slot, common)?;
    let (base, len) = structure(config, root, slot, notify)?;
    let stride = config.read_word(slot, notify.wrapping_add(16));
    (common_len >= COMMON_LEN && stride.is_multiple_of(2) && base.is_multiple_of(2) && common.is_multiple_of(4))
        .then_some(NotifyRegisters { common, base, len, stride: stride.into() })
}

/// `virtio_pci_common_cfg` (virtio 1.2, 4.1.4.3): its bytes, and two of its fields.
const COMMON_LEN: u64 = 56;
const QUEUE_SELECT: u64 = 22;
const QUEUE_NOTIFY_OFF: u64 = 30;

impl NotifyRegisters {
    /// The register of a queue.
    pub(super) fn of_queue(&self, queue: u16) -> Option<u64> {
        let field = |at| core::ptr::with_exposed_provenance_mut::<u16>((self.common + at) as usize);
        // SAFETY: two aligned fields of the common structure, all of which lies in one of the device's BARs
        // (`structure`), which lie in the windows that are mapped for good (`open`). The queue that is selected is
        // nobody's secret: virtio-drivers selects anew each time.
        let index = unsafe {
            field(QUEUE_SELECT).write_volatile(queue);
            field(QUEUE_NOTIFY_OFF).read_volatile()
        };
        self.at(index)
    }

    /// Where `virtio_pci_common_cfg` is.
    #[cfg(feature = "provoke")]
    pub(super) const fn common(&self) -> u64 {
        self.common
    }

    fn at(&self, index: u16) -> Option<u64> {
        let place = self.stride.checked_mul(index.into())?;
        (place.checked_add(2)? <= self.len).then_some(self.base + place)
    }
}

/// Writes a queue's index to its notify register.
pub(super) fn notify(register: u64, queue: u16) {
    let register = core::ptr::with_exposed_provenance_mut::<u16>(register as usize);
    // SAFETY: `NotifyRegisters::of_queue` of a device that was opened: aligned, and mapped for good. The write is
    // volatile and the rings it announces were published with release stores.
    unsafe { register.write_volatile(queue) }
}

fn in_windows(address: u64, len: u64) -> bool {
    address >= WINDOWS && address.checked_add(len).is_some_and(|end| end <= WINDOWS_END)
}

#[cfg(test)]
#[path = "pci_tests.rs"]
mod tests;
