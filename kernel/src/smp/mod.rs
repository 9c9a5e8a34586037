//! More cores: each runs one lane.
//!
//! The built-in machine starts a core at a function and a stack that lane 0 names at a port; there is
//! no other traffic between cores than the lanes' own.

use crate::arch::port;
use crate::blk::Lane;
use alloc::boxed::Box;
use core::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
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

/// Runs `work` on every lane: lane 0 here, each other on a core of its own.
pub(crate) fn run(lanes: &mut [Lane], work: LaneWork<'_, Lane>) {
    let done: [AtomicBool; layout::LANES_MAX] = [const { AtomicBool::new(false) }; layout::LANES_MAX];
    let Some((first, others)) = lanes.split_first_mut() else { return };
    let count = others.len();
    for (index, (lane, done)) in (1..).zip(others.iter_mut().zip(&done)) {
        let start = Box::new(Start { index, lane, work, done });
        let stack_top = layout::stack_top(index);
        // The word at the top of the stack is the core's argument; it starts 8 bytes below, as if called.
        let slot = core::ptr::with_exposed_provenance_mut::<u64>((stack_top - 16) as usize);
        // SAFETY: the stack of a core that does not run yet: mapped, aligned, and nobody else's.
        unsafe { slot.write_volatile(Box::into_raw(start).expose_provenance() as u64) }
        port::write_u32_with(LANE_PORT, index as u32, core_main as *const () as usize as u64, stack_top - 24);
    }
    work(0, first);
    let mut relaxed = 0;
    while !done[..count].iter().all(|done| done.load(Acquire)) {
        relax(&mut relaxed);
    }
}

/// Looks away for a moment; now and then long enough for another thread of the machine to run. An exit costs as
/// much as some hundred looks, so it is worth it only when those were in vain.
pub(crate) fn relax(looks: &mut u32) {
    const LOOKS_AN_EXIT: u32 = 512;
    *looks = looks.wrapping_add(1);
    if looks.is_multiple_of(LOOKS_AN_EXIT) {
        port::write_u8(RELAX_PORT, 0);
    } else {
        core::hint::spin_loop();
    }
}

/// Entered by a started core, with rsp at `stack_top - 24`.
extern "C" fn core_main() -> ! {
    let marker = 0u8;
    // The stack's own top, from any address within it.
    let here = (&raw const marker).addr() as u64 - layout::STACKS;
    let lane = here / (layout::STACK_LEN + layout::PAGE_LEN);
    let slot = core::ptr::with_exposed_provenance::<u64>((layout::stack_top(lane as usize) - 16) as usize);
    // SAFETY: `run` wrote the address of a box there before it had this core started, and gave the
    // box away; `run` returns only after `done`, so everything the box borrows is still alive.
    let start = unsafe {
        Box::from_raw(core::ptr::with_exposed_provenance_mut::<Start<'static>>(slot.read_volatile() as usize))
    };
    let Start { index, lane, work, done } = *start;
    work(index, lane);
    done.store(true, Release);
    loop {
        port::write_u32(LANE_END_PORT, index as u32);
    }
}
