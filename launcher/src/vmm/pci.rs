//! A PCI bus as cloud-hypervisor has it: a host bridge at 0:0.0, then the devices, each with one 32-bit BAR of 512 KiB
//! that is placed already and switched off. For strict mode.
//!
//! ```text
//! 0xe800_0000  configuration space (ECAM), also behind the ports 0xcf8 and 0xcfc
//! 0xe7f8_0000  BAR 0 of 0:1.0; 0xe7f0_0000 of 0:2.0; and so on
//!     +0x0000  common configuration      +0x4000  device configuration
//!     +0x2000  interrupt status          +0x6000  notify registers, 4 bytes a queue
//! ```
//! Configuration space takes words, registers take their own width, and a device that may not be a bus master is not
//! notified.

use super::block::GuestFault;
use super::registers::{Area, DeviceRegisters, Effect, Half, Manners, OutOfTurn};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Configuration space in memory.
pub const ECAM: u64 = 0xe800_0000;
const ECAM_LEN: u64 = 1 << 20;
const FUNCTION_LEN: u64 = 4096;
/// BAR 0 of the first device; the next ones lie below.
const BAR: u64 = 0xe7f8_0000;
const BAR_LEN: u64 = 512 << 10;

/// Most devices: what fits between a bus of 32 slots and its bridge.
pub const DEVICES_MAX: usize = 31;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

const ABSENT: u32 = u32::MAX;
const HOST_BRIDGE: u32 = 0x0d57_8086;
const VIRTIO_BLOCK: u32 = 0x1042_1af4;
const CAPABILITIES: u32 = 1 << 20;
const MEMORY_SPACE: u16 = 2;
const BUS_MASTER: u16 = 4;

/// Where capabilities lie, and what each says: offset, next, length, kind, offset in the BAR, bytes.
const CAPABILITY: [(u8, u8, u8, u8, u32, u32); 4] = [
    (0x40, 0x50, 16, 1, 0x0000, 56),
    (0x50, 0x60, 16, 3, 0x2000, 1),
    (0x60, 0x70, 16, 4, 0x4000, 0x1000),
    (0x70, 0x00, 20, 2, 0x6000, 0x1000),
];
const NOTIFY_STRIDE_AT: u8 = 0x80;
const NOTIFY_STRIDE: u32 = 4;

/// The bus.
pub struct Bus {
    state: Mutex<State>,
}

struct State {
    address: u32, // the address port
    devices: Vec<Device>,
}

struct Device {
    command: u16,
    bar: u32,
    registers: DeviceRegisters,
}

impl Bus {
    /// Devices with these features and capacities in sectors.
    #[must_use]
    pub fn new(devices: impl Iterator<Item = (u64, u64)>) -> Self {
        let device = |(index, (features, sectors))| Device {
            command: 0,
            bar: (BAR - index as u64 * BAR_LEN) as u32,
            registers: DeviceRegisters::new(Manners::Strict, index, features, sectors),
        };
        Self { state: Mutex::new(State { address: 0, devices: devices.enumerate().map(device).collect() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a port; `None`: it is not the bus's.
    ///
    /// # Errors
    /// [`GuestFault::Register`]: not four bytes.
    pub fn read_port(&self, port: u16, len: usize) -> Result<Option<u32>, GuestFault> {
        let state = self.state();
        match port {
            ADDRESS_PORT | DATA_PORT if len != 4 => Err(GuestFault::Register { address: port.into() }),
            ADDRESS_PORT => Ok(Some(state.address)),
            DATA_PORT => Ok(Some(state.place().map_or(ABSENT, |(slot, register)| state.config(slot, register)))),
            _ => Ok(None),
        }
    }

    /// Writes a port, if it is the bus's.
    ///
    /// # Errors
    /// [`GuestFault::Register`]: not four bytes.
    pub fn write_port(&self, port: u16, len: usize, value: u32) -> Result<(), GuestFault> {
        let mut state = self.state();
        match port {
            ADDRESS_PORT | DATA_PORT if len != 4 => return Err(GuestFault::Register { address: port.into() }),
            ADDRESS_PORT => state.address = value,
            DATA_PORT => {
                if let Some((slot, register)) = state.place() {
                    state.set_config(slot, register, value);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads memory.
    ///
    /// # Errors
    /// [`GuestFault::Register`]: not the register's width.
    pub fn read(&self, address: u64, len: usize) -> Result<u64, GuestFault> {
        let state = self.state();
        let bad = GuestFault::Register { address };
        if let Some((slot, register)) = ecam(address) {
            return if len == 4 { Ok(state.config(slot, register).into()) } else { Err(bad) };
        }
        let Some((index, offset)) = state.bar(address) else { return Ok(u64::MAX) };
        let registers = &state.devices[index].registers;
        let (width, value) = match offset {
            0x00 => (4, registers.feature_select),
            0x04 => (4, registers.device_features()),
            0x08 => (4, registers.driver_feature_select),
            0x12 => (2, 1),
            0x14 => (1, registers.status()),
            0x15 => (1, 0),
            0x16 => (2, registers.queue_select),
            0x18 => (2, registers.queue_size_max().into()),
            0x1a => (2, 0xffff),
            0x1c => (2, registers.queue().ready.into()),
            0x1e => (2, registers.queue_select),
            0x2000 => (1, 0),
            0x4000..0x5000 => (4, registers.config(offset - 0x4000)),
            _ => return Err(bad),
        };
        if len == width { Ok(value.into()) } else { Err(bad) }
    }

    /// Writes memory.
    ///
    /// # Errors
    /// [`GuestFault::Register`]: not the register's width, or not its turn.
    pub fn write(&self, address: u64, len: usize, value: u64) -> Result<Effect, GuestFault> {
        let mut state = self.state();
        let bad = GuestFault::Register { address };
        if let Some((slot, register)) = ecam(address) {
            if len != 4 {
                return Err(bad);
            }
            state.set_config(slot, register, value as u32);
            return Ok(Effect::None);
        }
        let Some((index, offset)) = state.bar(address) else { return Ok(Effect::None) };
        let Some(device) = state.devices.get_mut(index) else { return Ok(Effect::None) };
        if offset == 0x6000 && device.command & BUS_MASTER == 0 {
            return Err(bad);
        }
        device.write(offset, len, value).map_err(|OutOfTurn| bad)
    }
}

impl Device {
    fn write(&mut self, offset: u64, len: usize, value: u64) -> Result<Effect, OutOfTurn> {
        let registers = &mut self.registers;
        let word = value as u32;
        match (offset, len) {
            (0x00, 4) => registers.feature_select = word,
            (0x08, 4) => registers.driver_feature_select = word,
            (0x0c, 4) => registers.take_features(word)?,
            (0x14, 1) => registers.set_status(word)?,
            (0x16, 2) => registers.queue_select = word,
            (0x18, 2) => registers.set_queue_size(word as u16)?,
            (0x1c, 2) => return registers.set_queue_ready(word),
            (0x20 | 0x24 | 0x28 | 0x2c | 0x30 | 0x34, 4 | 8) => {
                let area = match offset & !7 {
                    0x20 => Area::Descriptors,
                    0x28 => Area::Driver,
                    _ => Area::Device,
                };
                let first = if offset & 4 == 0 { Half::Low } else { Half::High };
                registers.set_queue_address(area, first, word)?;
                if len == 8 {
                    // Eight bytes start where their register does.
                    if first == Half::High {
                        return Err(OutOfTurn);
                    }
                    registers.set_queue_address(area, Half::High, (value >> 32) as u32)?;
                }
            }
            (0x6000, 2) => return registers.notify(word),
            _ => return Err(OutOfTurn),
        }
        Ok(Effect::None)
    }
}

/// Slot and register of an address in configuration space; functions other than 0 are in no slot.
fn ecam(address: u64) -> Option<(usize, u8)> {
    let offset = address.checked_sub(ECAM).filter(|&offset| offset < ECAM_LEN)?;
    let function = offset / FUNCTION_LEN;
    let slot = if function.is_multiple_of(8) { (function / 8) as usize } else { usize::MAX };
    Some((slot, u8::try_from(offset % FUNCTION_LEN).unwrap_or(u8::MAX) & !3))
}

impl State {
    /// Slot and register that the address port names on bus 0.
    fn place(&self) -> Option<(usize, u8)> {
        let (enabled, bus, function) = (self.address >> 31 == 1, self.address >> 16 & 0xff, self.address >> 8 & 7);
        (enabled && bus == 0 && function == 0).then_some(((self.address >> 11 & 31) as usize, self.address as u8 & !3))
    }

    fn config(&self, slot: usize, register: u8) -> u32 {
        let device = match slot.checked_sub(1).map(|index| self.devices.get(index)) {
            None => return if register == 0 { HOST_BRIDGE } else { 0 },
            Some(None) => return ABSENT,
            Some(Some(device)) => device,
        };
        match register {
            0x00 => VIRTIO_BLOCK,
            0x04 => CAPABILITIES | u32::from(device.command),
            0x08 => 0x0180_0001,
            0x10 => device.bar,
            0x2c => VIRTIO_BLOCK,
            0x34 => CAPABILITY[0].0.into(),
            NOTIFY_STRIDE_AT => NOTIFY_STRIDE,
            _ => capability_word(register),
        }
    }

    fn set_config(&mut self, slot: usize, register: u8, value: u32) {
        let Some(device) = slot.checked_sub(1).and_then(|index| self.devices.get_mut(index)) else { return };
        match register {
            0x04 => device.command = value as u16 & (MEMORY_SPACE | BUS_MASTER),
            // All ones come back as the mask of the BAR's length.
            0x10 => device.bar = value & !(BAR_LEN as u32 - 1),
            _ => {}
        }
    }

    /// The device whose BAR holds an address, if it answers, and the offset in it.
    fn bar(&self, address: u64) -> Option<(usize, u64)> {
        let device = |device: &Device| {
            let offset = address.checked_sub(device.bar.into()).filter(|&offset| offset < BAR_LEN)?;
            (device.command & MEMORY_SPACE != 0).then_some(offset)
        };
        self.devices.iter().enumerate().find_map(|(index, this)| Some((index, device(this)?)))
    }
}

fn capability_word(register: u8) -> u32 {
    const VENDOR_SPECIFIC: u32 = 9;
    let word = |&(at, next, len, kind, offset, bytes): &(u8, u8, u8, u8, u32, u32)| {
        let header = VENDOR_SPECIFIC | u32::from(next) << 8 | u32::from(len) << 16 | u32::from(kind) << 24;
        [header, 0, offset, bytes].get(usize::from(register.checked_sub(at)? / 4)).copied()
    };
    CAPABILITY.iter().find_map(word).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        Bus::new([(1 << 32, 8), (1 << 32, 16)].into_iter())
    }

    #[test]
    fn both_ways_lead_to_the_same_configuration_space() {
        let bus = bus();
        for slot in 0..4u64 {
            for register in (0..256u64).step_by(4) {
                bus.write_port(ADDRESS_PORT, 4, (1 << 31 | slot << 11 | register) as u32).expect("four bytes");
                let by_port = bus.read_port(DATA_PORT, 4).expect("four bytes").map(u64::from);
                let by_memory = bus.read(ECAM + slot * 8 * FUNCTION_LEN + register, 4).expect("four bytes");
                assert_eq!(by_port, Some(by_memory), "{slot} {register:#x}");
            }
        }
        assert_eq!(bus.read(ECAM, 4), Ok(0x0d57_8086));
        assert_eq!(bus.read(ECAM + 3 * 8 * FUNCTION_LEN, 4), Ok(u64::from(ABSENT)));
        assert!(bus.read(ECAM, 2).is_err());
        assert!(bus.read_port(DATA_PORT, 1).is_err());
    }

    #[test]
    fn a_device_answers_once_its_memory_space_is_on_and_works_once_it_may_be_a_master() {
        let bus = bus();
        let (config, bar) = (ECAM + 2 * 8 * FUNCTION_LEN, BAR - BAR_LEN);
        assert_eq!(bus.read(bar + 4, 4), Ok(u64::MAX));
        bus.write(config + 4, 4, 2).expect("a word");
        assert_eq!(bus.read(bar + 4, 4), Ok(0));
        assert_eq!(bus.read(bar + 0x4000, 4), Ok(16));
        assert!(bus.read(bar + 4, 2).is_err(), "not its width");
        for status in [1, 3, 11, 15] {
            bus.write(bar + 0x14, 1, status).expect("in turn");
        }
        assert!(bus.write(bar + 0x6000, 2, 0).is_err());
        bus.write(config + 4, 4, 6).expect("a word");
        assert_eq!(bus.write(bar + 0x6000, 2, 0), Ok(Effect::Notify { device: 1 }));
        assert!(bus.write(bar + 0x14, 1, 0).is_err(), "it runs");
        assert!(bus.write(bar + 0x20, 8, 0x1000).is_err());
    }
}
