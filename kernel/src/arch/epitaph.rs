//! Writing the epitaph page, and switching the machine off.

use super::port;
use instar_abi::epitaph::{Epitaph, WAY_OUT};
use instar_abi::{layout, table};
use zerocopy::{FromZeros, IntoBytes};

/// Notes how the machine is switched off, where the fault handler finds it too.
pub fn set_power_off(port: u16, value: u8, serial: bool) {
    // Firmware may have left something here.
    write_at(0, Epitaph::new_zeroed().as_bytes());
    let [low, high] = port.to_le_bytes();
    write_at(WAY_OUT, &[low, high, value, u8::from(serial)]);
}

/// Writes the epitaph, and its text on the serial line where somebody reads that.
pub fn write(epitaph: &Epitaph) {
    write_at(0, epitaph.as_bytes());
    // SAFETY: a byte of the epitaph page, as in `write_at`.
    if unsafe { page().add(WAY_OUT + 3).read_volatile() } != 0 {
        let text = epitaph.text.get(..epitaph.text_len.get() as usize).unwrap_or_default();
        b"! ".iter().chain(text).chain(b"\n").for_each(|&byte| port::write_u8(SERIAL_PORT, byte));
    }
}

/// COM1's data register: machines take a byte at any time.
const SERIAL_PORT: u16 = 0x3f8;

fn page() -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(layout::EPITAPH as usize)
}

fn write_at(at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= layout::PAGE_LEN as usize);
    for (index, &byte) in bytes.iter().enumerate() {
        // SAFETY: inside the epitaph page (asserted), which is mapped as data, lies outside image and
        // heap, and to which no reference exists.
        unsafe { page().add(at + index).write_volatile(byte) }
    }
}

/// Ends the run.
pub fn power_off() -> ! {
    // SAFETY: three bytes of the epitaph page, as in `write_at`.
    let [low, high, value] = core::array::from_fn(|index| unsafe { page().add(WAY_OUT + index).read_volatile() });
    match u16::from_le_bytes([low, high]) {
        // The built-in machine ends within the write.
        0 => port::write_u8(table::POWER_OFF_PORT, value),
        port => {
            port::write_u8(port, value);
            wait_for_the_end();
        }
    }
    loop {
        // A machine that did not know the port: an invalid instruction lets the fault handler try its ways, over
        // whatever the epitaph says.
        // SAFETY: faults; the handler does not return.
        unsafe { core::arch::asm!("ud2") }
    }
}

/// Other machines hear of the write on one thread and stop this core on another.
fn wait_for_the_end() {
    /// About a second, whatever the clock: long for a machine that ends, short for a person that waits for one that does not.
    const TICKS: u64 = 1 << 31;
    // SAFETY: reads a counter, which ring 3 may do (CR4.TSD is 0, boot.s).
    let now = || unsafe { core::arch::x86_64::_rdtsc() };
    let start = now();
    while now().wrapping_sub(start) < TICKS {
        core::hint::spin_loop();
    }
}
