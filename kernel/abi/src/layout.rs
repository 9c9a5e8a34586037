//! Guest-physical memory, the same on every engine.
//!
//! ```text
//! 0x0000_0000  null page, never mapped; behind it what other machines place for the kernel to read
//! 0x0020_0000  ring-0 stub, page tables, read-only data
//! 0x0030_0000  stacks of lanes 1 and on, a guard page below each
//! 0x0040_0000  text, one 2 MiB page
//! 0x0060_0000  stack of lane 0, one 2 MiB page up to 0x0080_0000 with what follows; below it is the text, which nobody writes to
//! 0x0062_0000  data
//! 0x0064_0000  epitaph page
//! 0x0064_1000  PVH start info, memory map, command line      (built-in machine)
//! 0x0065_0000  table transport: one page of registers a disk (built-in machine)
//! 0x0076_0000  control header and request, where they fit    (built-in machine)
//! 0x0079_0000  heap and buffers, to the end of memory
//! 0xc000_0000  device windows of other machines
//! ```
//!
//! The rights of every page are fixed with it (`kernel/src/arch/boot.s`). What every run touches lies close together in large
//! pages: the first touch of a page costs more than what is done there.
//!
//! Other machines put start info and memory map elsewhere below 1 GiB; the kernel copies both.

/// Size of a page: 4 KiB.
pub const PAGE_LEN: u64 = 4096;
/// Size of a large page: 2 MiB.
pub const LARGE_PAGE_LEN: u64 = 2 << 20;

/// Link address of every op image.
pub const IMAGE: u64 = 0x20_0000;
/// Where an op image's read-only data starts, after the ring-0 stub and the page tables.
pub const RODATA: u64 = IMAGE + 0x8000;
/// First byte of the region of the stacks of lanes 1 and on.
pub const STACKS: u64 = IMAGE + 0x10_0000;
/// Where an op image's text starts.
pub const TEXT: u64 = 0x40_0000;
/// First byte of lane 0's stack.
pub const STACK_0: u64 = 0x60_0000;
/// Where an op image's data starts, zero-initialised data included.
pub const DATA: u64 = STACK_0 + STACK_LEN;
/// End of the region an op image may occupy.
pub const IMAGE_END: u64 = EPITAPH;
/// Bytes of one lane's stack, without its guard page.
pub const STACK_LEN: u64 = 128 << 10;
/// Most lanes, and so vCPUs, of one guest.
pub const LANES_MAX: usize = 8;

/// Where a dying guest writes its [`crate::epitaph::Epitaph`].
pub const EPITAPH: u64 = 0x64_0000;
/// PVH start info as the built-in machine places it.
pub const START_INFO: u64 = 0x64_1000;
/// PVH memory map as the built-in machine places it.
pub const MEMORY_MAP: u64 = START_INFO + 0x100;
/// Command line as the built-in machine places it, NUL-terminated.
pub const COMMAND_LINE: u64 = 0x64_2000;
/// Most bytes of a command line with its NUL.
pub const COMMAND_LINE_LEN_MAX: u64 = 0x1000;
/// First table-transport page.
pub const TABLE: u64 = 0x65_0000;
/// Most devices on the table transport: the control device and 256 disks fit below [`TABLE_END`].
pub const TABLE_DEVICES_MAX: u64 = 257;
/// End of the table pages.
pub const TABLE_END: u64 = TABLE + TABLE_DEVICES_MAX * PAGE_LEN;
/// Where the built-in machine places control header and request when they end below [`HEAP`].
pub const CONTROL: u64 = 0x76_0000;

/// First byte of the heap.
pub const HEAP: u64 = 0x79_0000;
/// End of the large page that the heap starts in.
pub const HEAP_SECOND_PAGE: u64 = STACK_0 + LARGE_PAGE_LEN;
/// End of what can be mapped for the heap: 1 GiB.
pub const HEAP_END_MAX: u64 = 1 << 30;

const _: () = assert!(IMAGE == LARGE_PAGE_LEN && TEXT == 2 * LARGE_PAGE_LEN && STACK_0 == 3 * LARGE_PAGE_LEN);
const _: () = assert!(RODATA < STACKS && STACKS + (LANES_MAX as u64 - 1) * (STACK_LEN + PAGE_LEN) <= TEXT);
const _: () = assert!(DATA < EPITAPH && EPITAPH < START_INFO && COMMAND_LINE + COMMAND_LINE_LEN_MAX <= TABLE);
const _: () = assert!(TABLE_END <= CONTROL && CONTROL < HEAP && HEAP < HEAP_SECOND_PAGE);

/// The top of lane `lane`'s stack, which grows down.
#[must_use]
pub const fn stack_top(lane: usize) -> u64 {
    if lane == 0 { STACK_0 + STACK_LEN } else { STACKS + lane as u64 * (STACK_LEN + PAGE_LEN) }
}

/// The lane on whose stack `address` lies, of lanes 1 and on.
#[must_use]
pub const fn lane_of(address: u64) -> u64 {
    1 + (address - STACKS) / (STACK_LEN + PAGE_LEN)
}

/// Whether a part of `len` bytes at `address` is what no device has to do with: the ring-0 stub, page tables, read-only data,
/// and text.
#[must_use]
pub const fn is_code(address: u64, len: u64) -> bool {
    let end = address.saturating_add(len);
    (address < STACKS && end > IMAGE) || (address < STACK_0 && end > TEXT)
}
