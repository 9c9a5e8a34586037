//! Ways to die, for the test images that show what a launcher makes of each.

use core::arch::asm;

/// Reads the null page, which is never mapped.
pub fn page_fault() -> u8 {
    // SAFETY: not sound and not meant to be: the read faults, and the fault handler ends the run.
    unsafe { core::ptr::without_provenance::<u8>(8).read_volatile() }
}

/// Writes to read-only data.
pub fn write_to_text() {
    let text = page_fault as fn() -> u8 as usize;
    // SAFETY: not sound and not meant to be: the write faults, and the fault handler ends the run.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(text).write_volatile(0xc3) }
}

/// Jumps into the heap.
pub fn execute_data(code: &[u8]) {
    // SAFETY: not sound and not meant to be: the jump faults, and the fault handler ends the run.
    unsafe { asm!("call {}", in(reg) code.as_ptr(), clobber_abi("C")) }
}

/// An invalid instruction after the ring-0 stack was taken away: a double fault.
pub fn double_fault() {
    // SAFETY: not sound and not meant to be: the double fault's handler has a stack of its own and ends the run.
    unsafe { asm!("ud2", "mov edx, 0", "ud2", in("rdx") 0x6272_6561, options(noreturn)) }
}

/// Writes to the page tables.
pub fn write_to_page_tables() {
    let tables = core::ptr::with_exposed_provenance_mut::<u64>(instar_abi::layout::IMAGE as usize + 0x2000);
    // SAFETY: not sound and not meant to be: the write faults, and the fault handler ends the run.
    unsafe { tables.write_volatile(7) }
}

/// Uses up the stack.
#[expect(unconditional_recursion, reason = "the guard page ends it")]
pub fn overflow_stack(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    overflow_stack(depth + 1) + frame[63]
}
