//! Writing the epitaph page, and switching the machine off.

use super::port;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use instar_abi::{epitaph::Epitaph, layout};
use zerocopy::IntoBytes;

/// Port and value that switch this machine off: `port << 8 | value`. What is by nature one: the machine.
static POWER_OFF: AtomicU32 = AtomicU32::new((instar_abi::table::POWER_OFF_PORT as u32) << 8);

/// Sets how the machine is switched off.
pub fn set_power_off(off: (u16, u8)) {
    POWER_OFF.store(u32::from(off.0) << 8 | u32::from(off.1), Relaxed);
}

/// Writes the epitaph page.
pub fn write(epitaph: &Epitaph) {
    let page = core::ptr::with_exposed_provenance_mut::<u8>(layout::EPITAPH as usize);
    for (index, &byte) in epitaph.as_bytes().iter().enumerate() {
        // SAFETY: the epitaph page lies outside the image and heap, is mapped writable by the boot
        // tables and by the kernel's own, and no reference to it exists; 256 bytes fit a page.
        unsafe { page.add(index).write_volatile(byte) }
    }
}

/// Ends the run.
pub fn power_off() -> ! {
    let off = POWER_OFF.load(Relaxed);
    port::write_u8((off >> 8) as u16, off as u8);
    loop {
        // A machine that did not know the port: an invalid instruction lets the fault handler try its ways.
        // SAFETY: faults; the handler does not return.
        unsafe { core::arch::asm!("ud2") }
    }
}
