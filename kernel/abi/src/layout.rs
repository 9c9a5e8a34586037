//! Guest-physical memory, the same on every engine.
//!
//! ```text
//! 0x0000_0000  null page, never mapped
//! 0x0000_1000  epitaph page
//! 0x0000_2000  PVH start info, memory map, command line      (built-in machine)
//! 0x0001_0000  table transport: one page of registers a disk (built-in machine)
//! 0x0012_0000  control header and request, where they fit    (built-in machine)
//! 0x0020_0000  the op image: ring-0 stub, page tables, text, read-only data, data
//! 0x0040_0000  stacks, a guard page below each
//! 0x0060_0000  heap and buffers, 2 MiB pages, to the end of memory
//! 0xc000_0000  device windows of other machines
//! ```
//!
//! The rights of every page are fixed with it (`kernel/src/arch/boot.s`).
//!
//! Other machines put start info and memory map elsewhere below 1 GiB; the kernel copies both.

/// Size of a page: 4 KiB.
pub const PAGE_LEN: u64 = 4096;
/// Size of a large page: 2 MiB.
pub const LARGE_PAGE_LEN: u64 = 2 << 20;

/// Where a dying guest writes its [`crate::epitaph::Epitaph`].
pub const EPITAPH: u64 = 0x1000;
/// PVH start info as the built-in machine places it.
pub const START_INFO: u64 = 0x2000;
/// PVH memory map as the built-in machine places it.
pub const MEMORY_MAP: u64 = 0x2100;
/// Command line as the built-in machine places it, NUL-terminated.
pub const COMMAND_LINE: u64 = 0x3000;
/// Most bytes of a command line with its NUL.
pub const COMMAND_LINE_LEN_MAX: u64 = 0x1000;
/// First table-transport page.
pub const TABLE: u64 = 0x1_0000;
/// Most devices on the table transport: the control device and 256 disks fit below [`TABLE_END`].
pub const TABLE_DEVICES_MAX: u64 = 257;
/// End of the table pages.
pub const TABLE_END: u64 = TABLE + TABLE_DEVICES_MAX * PAGE_LEN;

/// Where the built-in machine places control header and request when they end below [`IMAGE`].
pub const CONTROL: u64 = 0x12_0000;

/// Link address of every op image.
pub const IMAGE: u64 = 0x20_0000;
/// Where an op image's text starts, after the ring-0 stub and the page tables.
pub const TEXT: u64 = IMAGE + 0x9000;
/// Where its read-only data starts.
pub const RODATA: u64 = IMAGE + 0x18_0000;
/// Where its data starts, zero-initialised data included.
pub const DATA: u64 = IMAGE + 0x1c_0000;
/// End of the region an op image may occupy.
pub const IMAGE_END: u64 = STACKS;

/// First byte of the stacks' region.
pub const STACKS: u64 = 0x40_0000;
/// Bytes of one lane's stack, without its guard page.
pub const STACK_LEN: u64 = 128 << 10;
/// Most lanes, and so vCPUs, of one guest.
pub const LANES_MAX: usize = 8;

/// First byte of the heap.
pub const HEAP: u64 = 0x60_0000;
/// End of what can be mapped for the heap: 1 GiB.
pub const HEAP_END_MAX: u64 = 1 << 30;

const _: () = assert!(COMMAND_LINE + COMMAND_LINE_LEN_MAX <= TABLE);
const _: () = assert!(TABLE_END <= CONTROL && CONTROL < IMAGE);
const _: () = assert!(IMAGE == LARGE_PAGE_LEN && STACKS == 2 * LARGE_PAGE_LEN && HEAP == 3 * LARGE_PAGE_LEN);
const _: () = assert!(TEXT < RODATA && RODATA < DATA && DATA < STACKS);
const _: () = assert!(STACKS + LANES_MAX as u64 * (STACK_LEN + PAGE_LEN) <= HEAP);

/// The top of lane `lane`'s stack: one guard page below each stack, growing down.
#[must_use]
pub const fn stack_top(lane: usize) -> u64 {
    STACKS + (lane as u64 + 1) * (STACK_LEN + PAGE_LEN)
}
