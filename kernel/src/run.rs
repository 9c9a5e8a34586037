//! A run from the entry point to the last frame.

use crate::arch::prepare::prepare;
use crate::bus;
use crate::death::{die, die_at};
use crate::machine::{Devices, Machine};
use crate::mailbox::Mailbox;
use crate::mem;
use crate::smp;
use instar_abi::epitaph::Death;
use instar_abi::error::Error;
use instar_abi::reply::{End, Frame};
use instar_abi::request::Request;

/// Runs an operation. Called by [`crate::main!`], once, with PVH's start info.
pub fn run(start_info: u64, operation: impl FnOnce(&Request, &mut Machine) -> Result<End, Error>) -> ! {
    let line = prepare(start_info);
    let mut devices = Devices::of(&line);
    if let Err(error) = bus::discover(&line, &mut devices) {
        die(Death::BadDevice, error.words());
    }
    let lanes = smp::find_cores(&line);
    let Some((control, lanes)) = devices.into_queues(lanes) else { die(Death::BadControl, "no device") };
    let (mailbox, request) = Mailbox::open(control, &line);
    let Some(mut machine) = Machine::new(lanes, mailbox) else { die(Death::BadControl, "no lane") };
    let end = operation(&request, &mut machine).unwrap_or_else(End::Failed);
    machine.end(&Frame::End(end))
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let death = if mem::exhausted() { Death::HeapExhausted } else { Death::Panic };
    match info.location() {
        Some(place) => die_at(death, place.file(), place.line()),
        None => die(death, "unknown place"),
    }
}
