//! From the entry point to memory in which every page has its rights.

use super::{entry, epitaph, start_info};
use crate::bus;
use crate::command_line::CommandLine;
use crate::death::die;
use crate::mem::{self, Rights};
use alloc::vec::Vec;
use instar_abi::epitaph::Death;
use instar_abi::layout;

/// Usable memory that is assumed until the memory map is read: the smallest machine has 16 MiB.
const FIRST_HEAP_LEN: u64 = 1 << 20;

/// Copies what the machine tells, takes the heap, and gives every page its rights.
pub(crate) fn prepare(start_info: u64) -> CommandLine {
    // SAFETY: the first allocation is below; these bytes follow the stacks, and every machine has
    // them as memory that nothing uses: 16 MiB from 0 is the least any is given.
    unsafe { mem::init(layout::HEAP, FIRST_HEAP_LEN) };
    // SAFETY: `instar_main` passes on PVH's ebx, nothing below the heap has been written since, and the
    // boot tables are in force.
    let Some(start) = (unsafe { start_info::copy(start_info) }) else { die(Death::BadControl, "start info") };
    let line = CommandLine::parse(&start.command_line);
    if let Some(off) = line.power_off {
        epitaph::set_power_off(off);
        // SAFETY: the kernel's own tables are loaded further down.
        unsafe { entry::tell_fault_handler(off.0, off.1, line.serial) };
    }
    let Some((heap, heap_len)) = mem::region(&start.usable) else { die(Death::BadControl, "memory") };
    let mut low = Vec::from([(layout::EPITAPH, layout::EPITAPH + layout::PAGE_LEN, Rights::Data)]);
    low.extend(bus::low_pages(&line));
    if let Some((address, len)) = line.control {
        low.push((address, (address + len).next_multiple_of(layout::PAGE_LEN), Rights::ReadOnly));
    }
    let mut large = Vec::from([(heap, heap + heap_len, Rights::Data)]);
    large.extend(bus::windows(&line));
    // SAFETY: once, here; in use are image, stacks, `low`, `large`, and the start info no longer.
    if unsafe { mem::load(&low, &large, line.lanes) }.is_err() {
        die(Death::BadControl, "memory map");
    }
    // SAFETY: the rest of the region `mem::region` gave, now mapped, adjoining what `init` got.
    unsafe { mem::extend(heap_len.saturating_sub(FIRST_HEAP_LEN)) };
    line
}
