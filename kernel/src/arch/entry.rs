//! The assembly stub, with the memory layout it is built for, and the ELF note of the build.

use core::arch::global_asm;
use instar_abi::{BUILD_ID, epitaph, layout};

global_asm!(
    ".set EPITAPH, {epitaph}",
    ".set WAY_OUT, {way_out}",
    ".set POWER_OFF_PORT, {power_off}",
    ".set APIC_READY, {apic_ready}",
    ".set IMAGE, {image}",
    ".set TEXT, {text}",
    ".set RODATA, {rodata}",
    ".set STACKS, {stacks}",
    ".set STACK_0, {stack_0}",
    ".set STACK_LEN, {stack_len}",
    ".set LANES_MAX, {lanes_max}",
    ".set STACK3, {stack}",
    ".set PROVOKE, {provoke}",
    include_str!("boot.s"),
    epitaph = const layout::EPITAPH,
    way_out = const epitaph::WAY_OUT,
    power_off = const instar_abi::table::POWER_OFF_PORT,
    apic_ready = const layout::EPITAPH + epitaph::APIC_READY,
    image = const layout::IMAGE,
    text = const layout::TEXT,
    rodata = const layout::RODATA,
    stacks = const layout::STACKS,
    stack_0 = const layout::STACK_0,
    stack_len = const layout::STACK_LEN,
    lanes_max = const layout::LANES_MAX,
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
