//! The built-in machine with guests that die, lie and misbehave on purpose, in real VMs.
//!
//! Each case runs in a process of its own, because a run locks its process down for good: the test
//! starts this very binary again with the case's name, and the child prints what it saw.

#[path = "common/provoke.rs"]
mod provoke;

use instar::job::{Machine as _, Then};
use instar::machine::{self, Engine, Job, Limits, Transport};
use instar_abi::reply::Frame;
use instar_abi::request::Request;
use provoke::{disk_of, image, request};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CASE: &str = "INSTAR_TEST_CASE";

/// What a child is to do: how the guest dies, and on what machine.
#[derive(Clone, Copy)]
struct Case {
    death: u64,
    transport: Transport,
    lanes: u8,
    time: Duration,
    next: Option<u64>, // what the next guest of the same machine does
}

const CASE_DEFAULT: Case =
    Case { death: 0, transport: Transport::Table, lanes: 1, time: Duration::from_secs(10), next: None };

/// Runs `case` in a child and returns what it printed; `None`: skipped.
fn in_child(test: &str, case: Case) -> Option<String> {
    let image = image()?;
    if std::env::var_os(CASE).is_some() {
        child(image, case);
    }
    let started = Instant::now();
    let exe = std::env::current_exe().expect("a test binary knows itself");
    let output = Command::new(exe).args([test, "--exact", "--nocapture"]).env(CASE, "1").output().expect("it runs");
    assert!(started.elapsed() < Duration::from_secs(60), "a guest's death must be seen at once");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = output.status;
    Some(
        text.lines()
            .find_map(|line| line.strip_prefix("saw: "))
            .map_or_else(|| format!("{status}: {text} {}", String::from_utf8_lossy(&output.stderr)), str::to_owned),
    )
}

/// Two runs on one engine. A child that waits after the first, and is the one that says something in the second, has run
/// both in one machine.
fn two_runs(mut engine: Engine, job: instar::Job, next: u64) -> ! {
    let children = || std::fs::read_to_string("/proc/thread-self/children").expect("proc");
    let (mut frames, mut running) = (Vec::new(), String::new());
    let mut run = |job: &instar::Job, running: &mut String| {
        engine.run(job, Then::GoOn, &mut |frame| {
            frames.push(frame);
            *running = children();
        })
    };
    let first = run(&job, &mut running);
    let waiting = children();
    // Another disk, too: it has to get to the child.
    let disks = vec![disk_of(5)];
    let request = Request { now: next, ..job.request };
    let second = run(&instar::Job { disks, request, ..job }, &mut running);
    engine.rest();
    let is_same = !waiting.is_empty() && waiting == running;
    println!("\nsaw: {first:?} {second:?} {frames:?} same machine: {is_same}, left: {:?}", children());
    std::process::exit(0)
}

fn child(image: &'static [u8], case: Case) -> ! {
    let (disk, request) = (disk_of(3), request(case.death, case.lanes));
    let limits =
        Limits { memory_len: 16 << 20, reply_len: 1 << 20, time: case.time, largest_file: None, large_pages: false };
    if let Some(next) = case.next {
        let job = instar::Job { op: "provoke", disks: vec![disk], request, limits };
        two_runs(Engine::new(|error| format!("{error:?}")).booting(image), job, next);
    }
    let frames = Arc::new(Mutex::new(Vec::<Frame>::new()));
    let seen = Arc::clone(&frames);
    let job = Job { image, request: &request, disks: vec![disk], limits, transport: case.transport, outside: None };
    let result = machine::run(&job, move |frame| seen.lock().expect("not poisoned").push(frame));
    println!("\nsaw: {result:?} {:?}", frames.lock().expect("not poisoned"));
    std::process::exit(0)
}

macro_rules! deaths {
    ($($name:ident: $case:expr => $($part:literal),+;)*) => {$(
        #[test]
        fn $name() {
            // The runner knows a test by its path in the crate.
            let path = concat!(module_path!(), "::", stringify!($name));
            if let Some(saw) = in_child(path.trim_start_matches("machine::"), $case) {
                for part in [$($part),+] {
                    assert!(saw.contains(part), "{part:?} is not in {saw}");
                }
            }
        }
    )*};
}

/// Every way to die, on every bus.
macro_rules! on_every_bus {
    ($($bus:ident: $transport:expr;)*) => {$(
        mod $bus {
            use super::*;

            const DEFAULT: Case = Case { transport: $transport, ..CASE_DEFAULT };

            deaths! {
                a_guest_that_ends_well_is_done: DEFAULT => "Ok(Done";
                a_panicking_guest_is_reported_with_its_place: Case { death: 1, ..DEFAULT } => "Died", "Panic";
                a_page_fault_is_reported_with_its_address:
                    Case { death: 2, ..DEFAULT } => "death: Fault", "vector_or_line: 14", "cr2: 8";
                a_double_fault_is_reported:
                    Case { death: 3, ..DEFAULT } => "death: FaultInRing0", "vector_or_line: 8";
                an_exhausted_heap_is_reported: Case { death: 4, ..DEFAULT } => "HeapExhausted";
                a_hanging_guest_is_stopped_with_its_place:
                    Case { death: 5, time: Duration::from_millis(500), ..DEFAULT } => "TimeOut { rip: 4";
                text_is_not_writable:
                    Case { death: 6, ..DEFAULT } => "death: Fault", "vector_or_line: 14", "error_code: 7";
                data_is_not_executable: Case { death: 7, ..DEFAULT } => "death: Fault", "vector_or_line: 14";
                page_tables_are_out_of_reach:
                    Case { death: 8, ..DEFAULT } => "death: Fault", "vector_or_line: 14", "error_code: 6";
                a_stack_that_overflows_hits_its_guard:
                    Case { death: 9, ..DEFAULT } => "death: Fault", "vector_or_line: 14";
                a_read_only_disk_is_never_written: Case { death: 10, ..DEFAULT } => "Ok(Failed(WrongOp))";
                garbage_instead_of_frames_is_refused: Case { death: 11, ..DEFAULT } => "Reply(Frame(Len";
                a_chain_that_bites_its_tail_ends_the_run: Case { death: 20, ..DEFAULT } => "GuestFault(Chain { device: 1 })";
                data_as_long_as_the_address_space_ends_the_run:
                    Case { death: 22, ..DEFAULT } => "GuestFault(Chain { device: 1 })";
                data_outside_memory_end_the_run: Case { death: 24, ..DEFAULT } => "GuestFault(Chain { device: 1 })";
                data_in_code_end_the_run: Case { death: 27, ..DEFAULT } => "GuestFault(Chain { device: 1 })";
                a_status_in_code_ends_the_run: Case { death: 28, ..DEFAULT } => "GuestFault(Chain { device: 1 })";
                more_requests_than_the_ring_holds_end_the_run:
                    Case { death: 26, ..DEFAULT } => "GuestFault(Ring { device: 1 })";
                a_queue_that_moves_ends_the_run: Case { death: 30, ..DEFAULT } => "GuestFault(";
                a_reset_in_flight_ends_the_run: Case { death: 32, ..DEFAULT } => "GuestFault(";
                a_disk_that_is_set_up_anew_ends_the_run: Case { death: 34, ..DEFAULT } => "GuestFault(";
                lanes_that_a_bus_does_not_have_are_not_missed: Case { death: 12, ..DEFAULT } => "Ok(Done", "done: 6";
            }
        }
    )*};
}

on_every_bus! {
    table: Transport::Table;
    mmio: Transport::Mmio;
    strict_mmio: Transport::StrictMmio;
    pci: Transport::Pci;
    pci_by_ports: Transport::PciByPorts;
}

deaths! {
    two_lanes_run_side_by_side: Case { death: 12, lanes: 2, ..CASE_DEFAULT } => "Ok(Done", "done: 18";
    four_lanes_run_side_by_side: Case { death: 12, lanes: 4, ..CASE_DEFAULT } => "Ok(Done", "done: 60";

    the_next_guest_finds_nothing_of_the_last: Case { death: 15, next: Some(16), ..CASE_DEFAULT } =>
        "Ok(NeedsMore) Ok(Done", "done: 0,", "same machine: true", "left: \"\"";
    the_next_guest_reads_its_own_disks: Case { death: 0, next: Some(12), ..CASE_DEFAULT } =>
        "Ok(Done { lengths: [] }) Ok(Done", "done: 10,", "same machine: true";
    lanes_that_have_not_run_are_there_for_the_next_guest: Case { death: 15, next: Some(12), lanes: 2, ..CASE_DEFAULT } =>
        "Ok(NeedsMore) Ok(Done", "done: 30,", "same machine: true";
    no_guest_follows_where_lanes_have_run: Case { death: 12, next: Some(12), lanes: 2, ..CASE_DEFAULT } =>
        "done: 18,", "done: 30,", "same machine: false";
    a_guest_that_died_has_no_next_one: Case { death: 1, next: Some(12), ..CASE_DEFAULT } =>
        "Panic", "Ok(Done", "done: 10,", "same machine: false";
    a_next_guest_dies_like_any: Case { death: 15, next: Some(1), ..CASE_DEFAULT } => "Ok(NeedsMore) Err(", "Panic";
    a_next_guest_has_the_time_of_a_run:
        Case { death: 15, next: Some(5), time: Duration::from_millis(500), ..CASE_DEFAULT } => "TimeOut { rip: 4";
}
