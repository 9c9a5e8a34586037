//! From the entry point to a heap and a command line.

use super::epitaph;
use super::start_info::StartInfo;
use crate::command_line::CommandLine;
use crate::death::die;
use crate::mem;
use instar_abi::epitaph::Death;

/// Takes the heap and reads what the machine tells.
pub(crate) fn prepare(start_info: u64) -> CommandLine {
    // SAFETY: `instar_main` passes on PVH's ebx; nothing has been written to memory since, and from here on
    // only the heap, the stack and the image's own data are.
    let Some(start) = (unsafe { StartInfo::at(start_info) }) else { die(Death::BadControl, "start info") };
    let Some((heap, len)) = mem::region(&start.usable()) else { die(Death::BadControl, "memory") };
    // SAFETY: the first call and before any allocation; usable memory behind image and stacks, mapped as data,
    // which nothing else uses: machines put start info and command line below the image.
    unsafe { mem::init(heap, len) };
    let line = CommandLine::parse(&start.command_line());
    if let Some((port, value)) = line.power_off {
        epitaph::set_power_off(port, value, line.serial);
    }
    line
}
