//! Where the time of one info-sized run goes: `cargo run --release -p instar --example phases OP.elf IMAGE [RUNS]`.
//!
//! Each run is a process of its own, as in production, because a run locks its process down for good.
//! Prints the minimum and the median of each phase in microseconds.

use instar::disk::Disk;
use instar::disk::control::Control;
use instar::disk::file::SourceFile;
use instar::vmm::elf::Image;
use instar::vmm::process::{self, Bounds, Heard};
use instar::vmm::run::{Prepared, Setup, Transport};
use instar::vmm::sandbox;
use instar_abi::format::Format;
use instar_abi::request::{Budget, Disk as RequestDisk, DiskId, Layer, LayerId, Op, RawGate, Request};
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PHASES: [&str; 6] =
    ["open", "prepare machine", "landlock and limits", "system-call filter", "guest", "whole process"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [image, disk, rest @ ..] = &arguments[..] else { panic!("usage: phases OP.elf IMAGE [RUNS]") };
    let runs = rest.first().map_or(41, |runs| runs.parse().expect("a number"));
    let elf = std::fs::read(image).expect("the op image is readable");
    let mut samples: Vec<Vec<u64>> = vec![Vec::new(); PHASES.len()];
    for _ in 0..runs {
        let start = Instant::now();
        let bounds = Bounds { len: 1 << 20, time: Duration::from_secs(60) };
        let mut child = process::spawn(bounds, |pipe| one(&elf, disk, pipe)).expect("a child");
        let mut times = [0; 8 * (PHASES.len() - 1)];
        assert_eq!(child.read_report(&mut times, &mut || {}).expect("a report"), Heard::Bytes, "the run failed");
        child.wait().expect("it ends");
        let whole = start.elapsed().as_micros() as u64;
        let phases = times.as_chunks::<8>().0.iter().map(|time| u64::from_le_bytes(*time));
        samples.iter_mut().zip(phases.chain([whole])).for_each(|(samples, time)| samples.push(time));
    }
    println!("| phase | min µs | median µs |\n|---|---|---|");
    for (name, mut samples) in PHASES.iter().zip(samples) {
        samples.sort_unstable();
        println!("| {name} | {} | {} |", samples[0], samples[samples.len() / 2]);
    }
}

fn one(elf: &[u8], path: &str, mut pipe: std::fs::File) -> i32 {
    let mut last = Instant::now();
    let mut times = Vec::new();
    let mut mark = || {
        times.extend((last.elapsed().as_micros() as u64).to_le_bytes());
        last = Instant::now();
        times.len()
    };
    let file = std::fs::File::open(path).expect("the image is readable");
    let len = file.metadata().expect("it is a file").len();
    let request = Request::new(
        Op::Info { image: LayerId(0), details: false },
        vec![RequestDisk::read_only(len)],
        vec![Layer::new(DiskId(0), Some(Format::Qcow2), RawGate::Open)],
        Budget { heap_bytes: 64 << 20, read_bytes: 64 << 20, steps: 1 << 22, depth: 1 },
    );
    let request = request.encode().expect("memory");
    let control = Control::new([0; 16], &request, 1 << 20, Box::new(|_: &[u8]| Ok(()))).expect("short");
    let control = Arc::new(control);
    let devices: Vec<Arc<dyn Disk>> = vec![Arc::<Control>::clone(&control), Arc::new(SourceFile::new(file, len))];
    mark();
    let image = Image::parse(elf).expect("an op image");
    let setup = Setup {
        image: &image,
        memory_len: 128 << 20,
        lanes: 1,
        devices,
        transport: Transport::Table,
        nonce: [0; 16],
        front: control.front(),
        time_limit: Duration::from_secs(10),
        large_pages: false,
    };
    let mut machine = Prepared::new(&setup).expect("KVM");
    process::start_ticking().expect("a timer");
    mark();
    sandbox::close_doors(None, 0).expect("landlock");
    mark();
    machine.start_threads().expect("threads");
    let calls = sandbox::Calls { machine: sandbox::Machine::Once, copies: false };
    sandbox::filter_calls(calls).expect("seccomp");
    mark();
    let _ = machine.run();
    mark();
    pipe.write_all(&times).map_or(1, |()| 0)
}
