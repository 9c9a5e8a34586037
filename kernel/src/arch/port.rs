//! Port I/O. The TSS's bitmap gives ring 3 the ports below 0x1000.

use core::arch::asm;

/// Writes a byte.
pub fn write_u8(port: u16, value: u8) {
    // SAFETY: a port write touches no memory of ours by itself. Every port the kernel writes belongs to
    // the virtual machine's own devices; the one that makes a device use memory (the doorbell) is
    // rung only after the rings are complete, and asm! without `nomem` keeps earlier stores before it.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

/// Writes four bytes.
pub fn write_u32(port: u16, value: u32) {
    // SAFETY: as in `write_u8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// Writes four bytes with two more words that the built-in machine reads from the registers.
pub fn write_u32_with(port: u16, value: u32, first: u64, second: u64) {
    // SAFETY: as in `write_u8`; the extra registers are only read by the machine.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, in("rdi") first, in("rsi") second,
            options(nostack, preserves_flags));
    }
}

/// Reads four bytes.
#[must_use]
pub fn read_u32(port: u16) -> u32 {
    let value;
    // SAFETY: as in `write_u8`; what is read is the machine's.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) }
    value
}
