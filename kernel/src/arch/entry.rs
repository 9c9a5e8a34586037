//! The assembly stub and the few words Rust exchanges with it before the stub's page is out of reach.

use core::arch::{asm, global_asm};
use instar_abi::{BUILD_ID, epitaph, layout};

global_asm!(
    ".set EPITAPH, {epitaph}",
    ".set STACK3, {stack}",
    ".set PROVOKE, {provoke}",
    include_str!("boot.s"),
    epitaph = const layout::EPITAPH,
    // The ABI of a function entered by a jump: rsp is 8 below a multiple of 16.
    stack = const layout::stack_top(0) - 8,
    provoke = const cfg!(feature = "provoke") as u8,
    options(att_syntax)
);

// boot.s writes the epitaph's fields by number.
const _: () = assert!(
    epitaph::offset::KIND == 0
        && epitaph::offset::VECTOR == 4
        && epitaph::offset::ERROR_CODE == 8
        && epitaph::offset::RIP == 16
        && epitaph::offset::CR2 == 24
);

/// The ELF note by which a launcher knows the build: name "instar", type 1, the 32-byte build id.
#[repr(C, align(4))]
struct BuildNote {
    name_len: u32,
    id_len: u32,
    kind: u32,
    name: [u8; 8],
    id: [u8; 32],
}

#[used]
#[unsafe(link_section = ".note.instar")]
static BUILD_NOTE: BuildNote = BuildNote { name_len: 7, id_len: 32, kind: 1, name: *b"instar\0\0", id: BUILD_ID };

/// `invalid_opcode` in boot.s: load the page tables at rax.
const SERVICE_LOAD_TABLES: u64 = 0x6c6f_6164;

unsafe extern "C" {
    static mut serial_wanted: u8;
    static mut power_off_value: u8;
    static mut power_off_port: u16;
}

/// Tells the fault handler how this machine is switched off and whether anyone reads the serial line.
///
/// # Safety
/// Before [`load_tables`]: afterwards the stub's page is supervisor only.
pub unsafe fn tell_fault_handler(port: u16, value: u8, serial: bool) {
    // SAFETY: the three variables lie in the stub's data page, which is mapped for ring 3 until
    // `load_tables` (the caller's duty); only the fault handler reads them, and it ends the run.
    unsafe {
        (&raw mut power_off_port).write(port);
        (&raw mut power_off_value).write(value);
        (&raw mut serial_wanted).write(u8::from(serial));
    }
}

/// Loads the kernel's own page tables. The stub honours this once.
///
/// # Safety
/// 1. `root` is the physical address of a complete PML4 that maps, at the same addresses and with
///    the rights they need, all code and data in use, the stack and the two ring-0 pages.
/// 2. Nothing refers to memory that the new tables leave out.
pub unsafe fn load_tables(root: u64) {
    // SAFETY: the trap leads to `invalid_opcode` in boot.s, which writes CR3 and returns behind the
    // instruction with every register as it was; the duties above make that place reachable.
    unsafe { asm!("ud2", in("rax") root, in("rdx") SERVICE_LOAD_TABLES) }
}
