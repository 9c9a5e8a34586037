//! Guests that misbehave, on every engine: what the launcher makes of it is the same, or told here.

use crate::launch::{ENGINE, PATIENCE, again, name_of};
use crate::place::{engine, places};
use crate::provoke::{disk_of, image, request};
use instar::job::{Job, Machine as _, Then, limits};
use std::time::{Duration, Instant};

const PROVOKE: &str = "INSTAR_TEST_PROVOKE";
const LANES: &str = "INSTAR_TEST_LANES";

/// In a child: boots the guest that misbehaves, says what came of it, and does not return.
fn be_provoked_if_told() {
    let Some(place) = std::env::var_os(ENGINE) else { return };
    let how = std::env::var(PROVOKE).expect("a child is told").parse().expect("a number");
    let lanes = std::env::var(LANES).expect("a child is told").parse().expect("a number");
    let limits = limits::Limits { memory_len: 128 << 20, time: Duration::from_secs(3), ..limits::INFO };
    let job = Job { op: "info", disks: vec![disk_of(3)], request: request(how, lanes), limits };
    let place = place.into_string().expect("ASCII");
    let mut engine = engine(&place, |error| format!("{error:?}")).booting(image().expect("the parent has looked"));
    let end = engine.run(&job, Then::GoOn, &mut |frame| eprintln!("{frame:?}"));
    eprintln!("saw: {end:?}");
    std::process::exit(0)
}

/// What a guest that misbehaves comes to on a place.
fn provoke(test: &str, place: &str, how: u64, lanes: u8) -> String {
    let started = Instant::now();
    let output = again(test, Some(60))
        .env(ENGINE, place)
        .env(PROVOKE, how.to_string())
        .env(LANES, lanes.to_string())
        .output()
        .expect("it runs");
    assert!(started.elapsed() < PATIENCE, "{place}: {how} did not end");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

macro_rules! provoked {
    ($($name:ident: $how:expr => $($part:literal),+;)*) => {$(
        #[test]
        fn $name() {
            be_provoked_if_told();
            if image().is_none() {
                return;
            }
            for place in places() {
                let saw = provoke(name_of($name), place, $how, 1);
                for part in [$($part),+] {
                    assert!(saw.contains(part), "{place}: {part:?} is not in {saw}");
                }
            }
        }
    )*};
}

provoked! {
    a_guest_that_ends_well_is_done_everywhere: 0 => "saw: Ok(Done";
    a_panic_is_reported_with_its_place_everywhere: 1 => "saw: Err(Told(\"Died", "Panic";
    a_page_fault_is_reported_with_its_address_everywhere: 2 => "death: Fault", "vector_or_line: 14", "cr2: 8";
    the_local_apic_is_out_of_reach_everywhere: 14 => "death: Fault", "vector_or_line: 14", "error_code: 7", "cr2: 4276093696";
    an_exhausted_heap_is_reported_everywhere: 4 => "HeapExhausted";
    a_guest_that_hangs_is_stopped_everywhere: 5 => "TimeOut";
    a_read_only_disk_is_never_written_anywhere: 10 => "saw: Ok(Failed(WrongOp))";
    garbage_instead_of_frames_is_refused_everywhere: 11 => "Reply(Frame(Len";
    a_chain_that_bites_its_tail_ends_the_run: 20 => "GuestFault(Chain { device: 1 })";
    a_header_without_length_ends_the_run: 21 => "GuestFault(Chain { device: 1 })";
    data_as_long_as_the_address_space_ends_the_run: 22 => "GuestFault(Chain { device: 1 })";
    a_header_outside_memory_ends_the_run: 23 => "GuestFault(Chain { device: 1 })";
    data_outside_memory_end_the_run: 24 => "GuestFault(Chain { device: 1 })";
    a_descriptor_outside_its_table_ends_the_run: 25 => "GuestFault(Chain { device: 1 })";
    more_requests_than_the_ring_holds_end_the_run: 26 => "GuestFault(Ring { device: 1 })";
}

/// Every lane reads a sector of threes, twice: 6, and 12 for the second lane.
#[test]
fn two_lanes_run_on_every_machine_that_has_two_queues() {
    be_provoked_if_told();
    if image().is_none() {
        return;
    }
    for place in places() {
        let saw = provoke(name_of(two_lanes_run_on_every_machine_that_has_two_queues), place, 12, 2);
        let has_one = ["strict-mmio", "pci", "pci-by-ports", "firecracker"].contains(&place);
        let (sum, lanes) = if has_one { (6, 1) } else { (18, 2) };
        let told = format!("Progress {{ done: {sum}, total: {} }}", u64::MAX - lanes);
        assert!(saw.contains(&told) && saw.contains("saw: Ok(Done"), "{place}: {told:?} is not in {saw}");
    }
}

/// A guest that sets up a disk anew that runs. The built-in machine ends it at once. Other programs take such words
/// themselves: they keep to what they were told first, or start the device again where it is nonsense.
#[test]
fn a_disk_that_runs_is_not_set_up_anew() {
    be_provoked_if_told();
    if image().is_none() {
        return;
    }
    for place in places() {
        let expected: [&[&str]; 5] = match place {
            "table" => [&["GuestFault(QueueSetup { device: 1 })"]; 5],
            // It knows no reset, and keeps to what it was told first.
            "firecracker" => [&["saw: Ok(NeedsMore)"]; 5],
            "strict-mmio" | "pci" | "pci-by-ports" => [&["GuestFault(Register {"]; 5],
            _ => [
                // Another place and another length for the queue: no word of it reaches the launcher.
                &["saw: Ok(NeedsMore)"],
                &["saw: Ok(NeedsMore)"],
                // A reset: the guest waits for an answer that does not come.
                &["TimeOut"],
                // Outside memory: some programs hand it on, some stop there.
                &["Protocol { program", "TimeOut"],
                // In memory that is no ring.
                &["GuestFault(Chain { device: 1 })", "GuestFault(Ring { device: 1 })"],
            ],
        };
        for (how, expected) in (30..).zip(expected) {
            let saw = provoke(name_of(a_disk_that_runs_is_not_set_up_anew), place, how, 1);
            assert!(expected.iter().any(|part| saw.contains(part)), "{place}: none of {expected:?} is in {saw}");
        }
    }
}
