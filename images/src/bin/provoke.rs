//! A guest that dies as it is told, so that tests can look at what the launcher makes of it.
//!
//! The way to die is the request's `now`: there is no operation of this kind.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_abi::layout;
use instar_abi::reply::{End, Frame, encode_frame, pad_batch};
use instar_abi::request::Request;
use instar_io::{Action, BlockRequest, Blocks, Env};
use instar_kernel::arch::provoke;
use instar_kernel::blk::Lane;
use instar_kernel::bus::provoke::{Change, change_disk_0};
use instar_kernel::machine::Machine;

instar_kernel::main!(die);

/// Words of heap that marks are left in and looked for.
const HEAP_WORDS: usize = 1 << 19;

fn die(request: &Request, machine: &mut Machine) -> Result<End, Error> {
    match request.now {
        0 => {}
        1 => panic!("on purpose"),
        2 => drop(provoke::page_fault()),
        3 => provoke::double_fault(),
        4 => drop(core::hint::black_box(Vec::<u8>::with_capacity(1 << 40))),
        5 => loop {
            core::hint::spin_loop();
        },
        6 => provoke::write_to_text(),
        7 => provoke::execute_data(&*alloc::boxed::Box::new([0xc3; 16])),
        8 => provoke::write_to_page_tables(),
        9 => drop(provoke::overflow_stack(0)),
        10 => return write_to_disk_0(machine),
        11 => garbage_reply(machine),
        12 => return sum_on_all_lanes(machine),
        14 => provoke::write_to_local_apic(),
        15 => {
            provoke::leave_marks(&mut vec![0; HEAP_WORDS]);
            return Ok(End::NeedsMore);
        }
        16 => tell(machine, provoke::marks(Vec::with_capacity(HEAP_WORDS).spare_capacity_mut()), u64::MAX),
        30..=34 => return set_up_disk_0_anew(machine, request.now),
        20..=28 => return break_the_ring_of_disk_0(machine, request.now),
        13 => return vector_instructions_on_all_lanes(machine),
        _ => return Err(Error::WrongOp),
    }
    Ok(End::Done { lengths: Vec::new() })
}

/// Writes to disk 0, which the job gave for reading.
fn write_to_disk_0(machine: &mut Machine) -> Result<End, Error> {
    let request = BlockRequest { disk: 0, action: Action::Write, offset: 0, segments: vec![vec![0xee; 512]] };
    let lane = machine.lane();
    drop(lane.submit(request));
    lane.kick();
    loop {
        if let Some(completion) = lane.poll() {
            return if completion.result.is_ok() { Ok(End::NeedsMore) } else { Err(Error::WrongOp) };
        }
        core::hint::spin_loop();
    }
}

/// A read whose descriptor the guest overwrites before it tells the device.
fn break_the_ring_of_disk_0(machine: &mut Machine, how: u64) -> Result<End, Error> {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    /// Behind 64 descriptors of 16 bytes: the available ring, flags first.
    const AVAILABLE_INDEX: usize = 64 * 16 + 2;
    // Zeros: the header of a read of sector 0.
    let somewhere = alloc::boxed::Box::leak(alloc::boxed::Box::new([0u8; 512])).as_ptr().expose_provenance() as u64;
    let descriptor = |index: usize, address: u64, len: u32, flags: u16, next: u16| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        provoke::write_to_ring_of_disk_0(index * 16, &bytes);
    };
    let request = BlockRequest { disk: 0, action: Action::Read, offset: 0, segments: vec![vec![0xee; 512]] };
    let lane = machine.lane();
    drop(lane.submit(request));
    match how {
        // A chain that bites its tail.
        20 => descriptor(0, somewhere, 16, NEXT, 0),
        // A header of no length.
        21 => descriptor(0, somewhere, 0, NEXT, 1),
        // Data to the end of the address space.
        22 => {
            descriptor(0, somewhere, 16, NEXT, 1);
            descriptor(1, somewhere, u32::MAX, NEXT | WRITE, 2);
            descriptor(2, somewhere, 1, WRITE, 0);
        }
        // A header outside memory.
        23 => descriptor(0, u64::MAX - 8, 16, NEXT, 1),
        // Data outside memory.
        24 => {
            descriptor(0, somewhere, 16, NEXT, 1);
            descriptor(1, 1 << 40, 512, NEXT | WRITE, 2);
            descriptor(2, somewhere, 1, WRITE, 0);
        }
        // A next descriptor that is none.
        25 => descriptor(0, somewhere, 16, NEXT, 64),
        // Data, and the status, in the op image's text.
        27 => {
            descriptor(0, somewhere, 16, NEXT, 1);
            descriptor(1, layout::TEXT, 512, NEXT | WRITE, 2);
            descriptor(2, somewhere, 1, WRITE, 0);
        }
        28 => {
            descriptor(0, somewhere, 16, NEXT, 1);
            descriptor(1, somewhere, 512, NEXT | WRITE, 2);
            descriptor(2, layout::TEXT, 1, WRITE, 0);
        }
        // More requests than the ring holds.
        _ => provoke::write_to_ring_of_disk_0(AVAILABLE_INDEX, &1000u16.to_le_bytes()),
    }
    lane.kick();
    loop {
        // A device that answers has not noticed.
        if lane.poll().is_some() {
            return Ok(End::NeedsMore);
        }
        core::hint::spin_loop();
    }
}

/// Reads from a disk that is set up anew while it runs.
fn set_up_disk_0_anew(machine: &mut Machine, how: u64) -> Result<End, Error> {
    /// Outside memory, and in the op image's text.
    const ELSEWHERE: u64 = 1 << 40;
    const NO_RING: u64 = 0x20_9000;
    let lane = machine.lane();
    let submit = |lane: &mut Lane| {
        let request = BlockRequest { disk: 0, action: Action::Read, offset: 0, segments: vec![vec![0xee; 512]] };
        drop(lane.submit(request));
        lane.kick();
    };
    let next = |lane: &mut Lane| loop {
        if let Some(completion) = lane.poll() {
            break completion.request.segments.first().and_then(|s| s.first()).copied();
        }
        core::hint::spin_loop();
    };
    submit(lane);
    // A reset comes while a request is in flight.
    if how != 32 {
        next(lane);
    }
    let steps = [0, 1, 3, 11].map(Change::Status);
    let (steps, changes): (&[Change], &[Change]) = match how {
        30 => (&[], &[Change::Descriptors(ELSEWHERE)]),
        31 => (&[], &[Change::Size(3)]),
        32 => (&steps[..1], &[]),
        33 => (&steps, &[Change::Descriptors(ELSEWHERE), Change::Ready(1), Change::Status(15)]),
        _ => (&steps, &[Change::Size(8), Change::Descriptors(NO_RING), Change::Ready(1), Change::Status(15)]),
    };
    steps.iter().chain(changes).copied().for_each(change_disk_0);
    while lane.poll().is_some() {}
    submit(lane);
    if next(lane) == Some(3) { Ok(End::NeedsMore) } else { Err(Error::WrongOp) }
}

/// Writes something that is no frame.
fn garbage_reply(machine: &mut Machine) {
    let _ = machine.reply(vec![0x5a; 512]);
}

/// Every lane reads sector 0 of disk 0 and reports how many lanes there were as progress.
fn sum_on_all_lanes(machine: &mut Machine) -> Result<End, Error> {
    let lanes = machine.lanes() as u64;
    let sum = core::sync::atomic::AtomicU64::new(0);
    // Twice: a lane that has ended can be started again.
    for _ in 0..2 {
        machine.run_lanes(&|index, lane| {
            let request = BlockRequest { disk: 0, action: Action::Read, offset: 0, segments: vec![vec![0; 512]] };
            drop(lane.submit(request));
            lane.kick();
            let completion = loop {
                if let Some(completion) = lane.poll() {
                    break completion;
                }
                core::hint::spin_loop();
            };
            let byte = completion.request.segments.first().and_then(|s| s.first()).copied().unwrap_or(0);
            sum.fetch_add(u64::from(byte) * (index as u64 + 1), core::sync::atomic::Ordering::Relaxed);
        });
    }
    tell(machine, sum.into_inner(), u64::MAX - lanes);
    Ok(End::Done { lengths: Vec::new() })
}

/// Every lane tries the processor's vector instructions; reports those that are right on all of them as progress.
fn vector_instructions_on_all_lanes(machine: &mut Machine) -> Result<End, Error> {
    let right = core::sync::atomic::AtomicU32::new(u32::MAX);
    machine.run_lanes(&|_, _| {
        right.fetch_and(provoke::vector_instructions(), core::sync::atomic::Ordering::Relaxed);
    });
    tell(machine, right.into_inner().into(), u64::MAX);
    Ok(End::Done { lengths: Vec::new() })
}

fn tell(machine: &mut Machine, done: u64, total: u64) {
    let mut batch = Vec::new();
    let _ = encode_frame(&Frame::Progress { done, total }, &mut batch);
    pad_batch(&mut batch);
    let _ = machine.reply(batch);
}
