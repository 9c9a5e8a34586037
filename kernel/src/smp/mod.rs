//! More cores: each runs one lane.
//!
//! ```text
//! built-in machine   lane 0 names function and stack at a port; the core starts there, and ends at another port
//! local APIC         the boot code has started every core (arch/boot.s): it is parked here, asleep, and looks for work
//!                    now and then
//! ```
//! There is no other traffic between cores than the lanes' own.

use crate::arch::{port, sleep};
use crate::blk::Lane;
use crate::command_line::CommandLine;
use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use instar_abi::layout;
use instar_abi::table::{LANE_END_PORT, LANE_PORT, RELAX_PORT};
use instar_io::LaneWork;

/// What a started core finds at the top of its stack region: its work.
struct Start<'a> {
    index: usize,
    lane: &'a mut Lane,
    work: LaneWork<'a, Lane>,
    done: &'a AtomicBool,
}

/// Cores sleep by the local APIC's timer, and those that are parked take work; else the built-in machine's ports do.
static HAS_APIC: AtomicBool = AtomicBool::new(false);
/// Cores that are parked or at work.
static CORES: AtomicUsize = AtomicUsize::new(0);
/// The work of a parked core, by lane: a [`Start`]'s address, 0 for none.
static WORK: [AtomicU64; layout::LANES_MAX] = [const { AtomicU64::new(0) }; layout::LANES_MAX];

/// How long a core sleeps at first that waits for a device or another lane, in nanoseconds; longer for one that has much in
/// flight.
const NAP: u32 = 100_000;
/// Bytes in flight for each nanosecond of that sleep: what devices would have to move to be idle before it ends.
const IN_FLIGHT_A_NANOSECOND: u64 = 8;
/// How often that doubles while it waits.
const NAP_DOUBLINGS: u32 = 1;
/// How long one sleeps that is parked.
const PARKED: u32 = 1_000_000;

/// Looks for the machine's cores; returns how many lanes can run, of those that the command line names.
#[must_use]
pub fn find_cores(line: &CommandLine) -> usize {
    /// Nanoseconds in all that a core may take to be there.
    const PATIENCE: u32 = 1_000_000_000;
    if !line.apic {
        return line.lanes;
    }
    if !sleep::has_apic() {
        return 1;
    }
    HAS_APIC.store(true, Relaxed);
    for _ in 0..PATIENCE / NAP {
        if CORES.load(Acquire) >= line.lanes - 1 {
            break;
        }
        sleep::sleep(NAP);
    }
    line.lanes.min(1 + CORES.load(Acquire))
}

/// Runs `work` on every lane: lane 0 here, each other on a core of its own.
pub(crate) fn run(lanes: &mut [Lane], work: LaneWork<'_, Lane>) {
    let done: [AtomicBool; layout::LANES_MAX] = [const { AtomicBool::new(false) }; layout::LANES_MAX];
    let Some((first, others)) = lanes.split_first_mut() else { return };
    let count = others.len();
    for (index, (lane, done)) in (1..).zip(others.iter_mut().zip(&done)) {
        let start = Box::into_raw(Box::new(Start { index, lane, work, done })).expose_provenance() as u64;
        if has_apic() {
            WORK[index].store(start, Release);
        } else {
            start_at_port(index, start);
        }
    }
    work(0, first);
    let mut relaxed = 0;
    while !done[..count].iter().all(|done| done.load(Acquire)) {
        relax(&mut relaxed, 0);
    }
}

fn start_at_port(index: usize, start: u64) {
    let stack_top = layout::stack_top(index);
    // The word at the top of the stack is the core's argument; it starts 8 bytes below, as if called.
    let slot = core::ptr::with_exposed_provenance_mut::<u64>((stack_top - 16) as usize);
    // SAFETY: the stack of a core that does not run yet: mapped, aligned, and nobody else's.
    unsafe { slot.write_volatile(start) }
    port::write_u32_with(LANE_PORT, index as u32, core_main as *const () as usize as u64, stack_top - 24);
}

/// Looks away for a moment, for someone who looks for the `looks`th time in vain; whoever has seen what it waits for
/// starts from 0 again.
///
/// Another thread of the machine, or of the one that serves the devices, may need this core. An exit costs as much as
/// some hundred looks, so it is worth it only when those were in vain.
pub(crate) fn relax(looks: &mut u32, in_flight: u64) {
    const LOOKS_AN_EXIT: u32 = 512;
    const LOOKS_BEFORE_NAPS: u32 = 128;
    *looks = looks.saturating_add(1);
    if has_apic() {
        match looks.checked_sub(LOOKS_BEFORE_NAPS) {
            None => core::hint::spin_loop(),
            // The longer it has taken, the longer it will take.
            Some(naps) => {
                let nap = u32::try_from(in_flight / IN_FLIGHT_A_NANOSECOND).unwrap_or(u32::MAX);
                sleep::sleep(nap.max(NAP << naps.min(NAP_DOUBLINGS)));
            }
        }
    } else if looks.is_multiple_of(LOOKS_AN_EXIT) {
        *looks = 0;
        port::write_u8(RELAX_PORT, 0);
    } else {
        core::hint::spin_loop();
    }
}

/// Whether cores sleep by a local APIC's timer: the machine is another program's, and its devices are yet another's.
pub(crate) fn has_apic() -> bool {
    HAS_APIC.load(Relaxed)
}

/// Entered by a core that the boot code has started, with its lane's number, on its lane's stack.
#[cfg_attr(feature = "guest", unsafe(no_mangle))]
pub extern "C" fn instar_core(lane: usize) -> ! {
    CORES.fetch_add(1, Release);
    loop {
        match WORK.get(lane).map_or(0, |work| work.swap(0, Acquire)) {
            0 => sleep::sleep(PARKED),
            start => work_on(start),
        }
    }
}

/// Entered by a started core, with rsp at `stack_top - 24`.
extern "C" fn core_main() -> ! {
    let marker = 0u8;
    // The stack's own top, from any address within it.
    let lane = layout::lane_of((&raw const marker).addr() as u64);
    let slot = core::ptr::with_exposed_provenance::<u64>((layout::stack_top(lane as usize) - 16) as usize);
    // SAFETY: `start_at_port` wrote there before it had this core started.
    work_on(unsafe { slot.read_volatile() });
    loop {
        port::write_u32(LANE_END_PORT, lane as u32);
    }
}

/// Does the work of a [`Start`] whose address [`run`] has given away.
fn work_on(start: u64) {
    // SAFETY: the address of a box that `run` gave to this core alone, once; `run` returns only after `done`, so
    // everything the box borrows is still alive.
    let start = unsafe { Box::from_raw(core::ptr::with_exposed_provenance_mut::<Start<'static>>(start as usize)) };
    let Start { index, lane, work, done } = *start;
    work(index, lane);
    done.store(true, Release);
}
