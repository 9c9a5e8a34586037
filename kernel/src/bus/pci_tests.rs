//! The scan against configuration spaces made up by hand.

use super::*;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Configuration space of up to 32 devices: words by device and register, and how large each BAR is.
#[derive(Clone, Copy)]
struct Fake<'a>(&'a RefCell<BTreeMap<(u8, u8), u32>>);

impl Fake<'_> {
    fn sizes(register: u8) -> u32 {
        // BAR 0 has 512 KiB, BAR 4 has 16 KiB; the others are not there.
        match register {
            0x10 => !((512 << 10) - 1),
            0x20 => !((16 << 10) - 1),
            _ => 0,
        }
    }
}

impl ConfigurationAccess for Fake<'_> {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let words = self.0.borrow();
        let absent = if words.contains_key(&(function.device, 0)) { 0 } else { EMPTY };
        words.get(&(function.device, register)).copied().unwrap_or(absent)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        let mut words = self.0.borrow_mut();
        // What is not there takes nothing. The upper half of a 64-bit BAR takes every bit, the lower ones keep four.
        let Some(word) = words.get_mut(&(function.device, register)) else { return };
        *word = match register {
            0x10 | 0x20 => data & Self::sizes(register) | *word & 15,
            // Command and status.
            4 => *word & 0xffff_0000 | data & 0xffff,
            _ => data,
        };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

fn space(words: &[((u8, u8), u32)]) -> RefCell<BTreeMap<(u8, u8), u32>> {
    RefCell::new(words.iter().copied().collect())
}

fn slots(words: &[((u8, u8), u32)]) -> Vec<u8> {
    let space = space(words);
    block_devices(&Fake(&space)).map(|slot| slot.device).collect()
}

#[test]
fn block_devices_come_in_bus_order_up_to_the_first_empty_slot() {
    let bridge = ((0, 0), 0x0d57_8086);
    assert_eq!(slots(&[bridge, ((1, 0), VIRTIO_BLOCK), ((2, 0), VIRTIO_BLOCK), ((3, 0), 0x1044_1af4)]), [1, 2]);
    assert_eq!(slots(&[bridge, ((1, 0), 0x1044_1af4), ((2, 0), VIRTIO_BLOCK), ((4, 0), VIRTIO_BLOCK)]), [2]);
    assert_eq!(slots(&[]), []);
    // A transitional device has another number, and its registers are ports.
    assert_eq!(slots(&[bridge, ((1, 0), 0x1001_1af4)]), []);
}

const SLOT: DeviceFunction = DeviceFunction { bus: 0, device: 1, function: 0 };

/// One device with the capabilities of cloud-hypervisor's: everything in BAR 0.
fn device(bar: u32) -> Vec<((u8, u8), u32)> {
    let mut words = vec![((1, 0), VIRTIO_BLOCK), ((1, 4), 0x10_0000), ((1, 0x10), bar), ((1, 0x34), 0x40)];
    let capability = |at: u8, next: u8, kind: u32, len: u32, offset: u32, bytes: u32| {
        let header = 9 | u32::from(next) << 8 | len << 16 | kind << 24;
        [((1, at), header), ((1, at + 4), 0), ((1, at + 8), offset), ((1, at + 12), bytes)]
    };
    words.extend(capability(0x40, 0x50, 1, 16, 0, 56));
    words.extend(capability(0x50, 0x64, 2, 20, 0x6000, 0x1000));
    words.push(((1, 0x60), 4));
    words.extend(capability(0x64, 0x74, 3, 16, 0x2000, 1));
    words.extend(capability(0x74, 0, 4, 16, 0x4000, 0x1000));
    words
}

#[test]
fn a_device_s_registers_are_found_and_its_bus_mastering_is_on() {
    let space = space(&device(0xe7f8_0000));
    let (transport, registers) = open(Fake(&space), SLOT).expect("a device");
    // Dropping it would reset a device that is not there.
    core::mem::forget(transport);
    assert_eq!(registers, NotifyRegisters { common: 0xe7f8_0000, base: 0xe7f8_6000, len: 0x1000, stride: 4 });
    assert_eq!(space.borrow()[&(1, 4)] & 6, 6, "memory space and bus mastering");
    assert_eq!(space.borrow()[&(1, 0x10)], 0xe7f8_0000, "sizing has put the address back");
    assert_eq!(registers.at(3), Some(0xe7f8_600c));
    assert_eq!(registers.at(0x400), None);
}

#[test]
fn a_window_that_is_not_mapped_is_refused() {
    let refused = |words: Vec<((u8, u8), u32)>| open(Fake(&space(&words)), SLOT).map(|_| ()).unwrap_err();
    assert_eq!(refused(device(0x8000_0000)), BusError::Window);
    // 64 bits wide, above 4 GiB.
    let mut high = device(4);
    high.push(((1, 0x24), 0));
    high.retain(|&((_, register), _)| register != 0x10);
    high.extend([((1, 0x20), 4), ((1, 0x24), 0x40)]);
    assert_eq!(refused(high), BusError::Window);
    assert_eq!(Config::new(PciAccess::Ecam(0xb000_0000)), Err(BusError::Window));
    assert_eq!(Config::new(PciAccess::Ecam(0xffff_f000)), Err(BusError::Window));
    assert_eq!(Config::new(PciAccess::Ecam(0xe800_0001)), Err(BusError::Window));
    assert!(Config::new(PciAccess::Ecam(0xe800_0000)).is_ok());
}

#[test]
fn a_device_without_its_structures_is_refused() {
    for missing in [0x40, 0x50] {
        let mut words = device(0xe7f8_0000);
        // Another vendor's capability in its place.
        words.iter_mut().filter(|(place, _)| *place == (1, missing)).for_each(|(_, word)| *word &= 0xff_ffff);
        let space = space(&words);
        assert_eq!(open(Fake(&space), SLOT).map(|_| ()).unwrap_err(), BusError::Setup, "{missing:#x}");
    }
    // Past its BAR.
    let mut words = device(0xe7f8_0000);
    words.push(((1, 0x58), 512 << 10));
    let space = space(&words);
    assert_eq!(open(Fake(&space), SLOT).map(|_| ()).unwrap_err(), BusError::Setup);
}

#[test]
fn both_ways_to_a_word() {
    let function = DeviceFunction { bus: 0, device: 3, function: 1 };
    assert_eq!(Config::address(function, 0x10), 0x8000_1910);
    assert_eq!(Config::pointer(0xe800_0000, function, 0x10).addr(), 0xe801_9010);
}
