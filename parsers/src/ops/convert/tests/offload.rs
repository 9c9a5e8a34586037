//! Copies that the launcher makes.

use super::options::{content, options};
use super::{convert_of, job, read, run_in};
use crate::testing::{Fault, Machine, MemoryDisk, qemu_img, qemu_io, scratch};
use instar_abi::error::{Error, WriteError};
use instar_abi::format::Format;
use instar_abi::reply::Frame;
use instar_abi::request::{HostExtent, Qcow2Options, Request, TargetFormat};

fn offloaded(sources: Vec<Vec<u8>>, target: TargetFormat) -> (Request, Vec<MemoryDisk>) {
    let (mut job, disks) = job(sources, target);
    convert_of(&mut job).offload = true;
    (job, disks)
}

/// Bytes that the launcher was asked to copy.
fn copied(machine: &Machine) -> u64 {
    let len = |frame: &Frame| match frame {
        Frame::Copy(ranges) => ranges.iter().map(|range| range.len).sum(),
        _ => 0,
    };
    machine.frames.iter().map(len).sum()
}

fn targets() -> Vec<TargetFormat> {
    let mut targets = vec![TargetFormat::Raw];
    for (version, cluster_bits, extended_l2, preallocated) in [
        (3, 9, false, false),
        (3, 12, false, false),
        (3, 16, false, false),
        (3, 21, false, false),
        (2, 16, false, false),
        (3, 16, true, false),
        (3, 16, false, true),
    ] {
        targets.push(TargetFormat::Qcow2(Qcow2Options {
            version,
            cluster_bits,
            extended_l2,
            preallocated,
            ..Qcow2Options::default()
        }));
    }
    targets
}

#[test]
fn content_that_lies_as_it_is_is_copied_by_the_launcher() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let bytes = content((5 << 20) + 1000);
    std::fs::write(dir.join("a.raw"), &bytes).unwrap();
    qemu_img(dir, "convert -f raw -O qcow2 -o cluster_size=4k a.raw a.qcow2").unwrap();
    qemu_img(dir, "convert -f raw -O qcow2 -c -o cluster_size=4k a.raw c.qcow2").unwrap();
    qemu_io(dir, "c.qcow2", "write -P 7 1M 100k").unwrap();
    qemu_img(dir, "convert -O raw c.qcow2 c.raw").unwrap();
    for (file, plain, most_is_copied) in
        [("a.raw", "a.raw", true), ("a.qcow2", "a.raw", true), ("c.qcow2", "c.raw", false)]
    {
        for target in targets() {
            let is_raw = target == TargetFormat::Raw;
            let (mut job, disks) = offloaded(vec![read(dir, file)], target.clone());
            job.lanes = 4;
            job.layers[0].format = Some(if file.ends_with("raw") { Format::Raw } else { Format::Qcow2 });
            let mut machine = Machine::new(&job, &disks);
            let ours = run_in(&mut machine, &job, &disks).unwrap();
            let mut expected = read(dir, plain);
            expected.resize(expected.len().next_multiple_of(512), 0);
            if is_raw {
                assert!(ours == expected, "{file}");
            } else {
                super::check_clean(dir, &ours, &expected);
            }
            let copied = copied(&machine);
            // A cluster that several extents share is read.
            let large = matches!(&target, TargetFormat::Qcow2(options) if options.cluster_bits > 12);
            assert!(copied > 0 || large, "{file} {target:?}");
            if most_is_copied && !large {
                assert!(copied * 10 > disks[1].written() * 7, "{file}: {copied} of {}", disks[1].written());
            }
        }
    }
}

#[test]
fn holes_that_are_known_stay_holes_and_zeros_are_not_looked_for() {
    let mut bytes = vec![0; 8 << 20];
    bytes[1 << 20..2 << 20].fill(1);
    let data = vec![HostExtent { start: 1 << 20, len: 2 << 20 }];
    for target in targets() {
        let (mut job, disks) = offloaded(vec![bytes.clone()], target.clone());
        job.layers[0].format = Some(Format::Raw);
        job.disks[0].data = Some(data.clone());
        let mut machine = Machine::new(&job, &disks);
        run_in(&mut machine, &job, &disks).unwrap();
        // Half of what is copied is zeros.
        let large = matches!(&target, TargetFormat::Qcow2(options) if options.cluster_bits > 20);
        assert_eq!(copied(&machine), if large { 0 } else { 2 << 20 }, "{target:?}");
    }
}

/// More ranges than go into a frame, and each placed before the header is written.
#[test]
fn ranges_come_in_bounded_frames_and_before_the_commit() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let (count, size) = (3000usize, 8192);
    let bytes: Vec<u8> =
        (0..count * size).map(|at| if at / 4096 % 2 == 0 { (at / 4096) as u8 | 1 } else { 0 }).collect();
    let data = (0..count).map(|index| HostExtent { start: (index * size) as u64, len: 4096 }).collect();
    let target = TargetFormat::Qcow2(options(|options| options.cluster_bits = 12));
    let (mut job, disks) = offloaded(vec![bytes.clone()], target);
    job.layers[0].format = Some(Format::Raw);
    job.disks[0].data = Some(data);
    let mut machine = Machine::new(&job, &disks);
    let ours = run_in(&mut machine, &job, &disks).unwrap();
    super::check_clean(dir, &ours, &bytes);
    let frames = machine.frames.iter().filter(|frame| matches!(frame, Frame::Copy(_))).count();
    assert!((count / 256..count / 64).contains(&frames), "{frames} frames");
    // A copy that fails is an error, and there is no header.
    for reply in [0, 5, frames as u64 - 1] {
        disks[1].truncate();
        let mut machine = Machine::with_fault(&job, &disks, Fault::Reply(reply), false);
        let result = run_in(&mut machine, &job, &disks);
        assert!(matches!(result, Err(Error::Write(WriteError::Io { .. }))), "{:?}", result.is_ok());
        assert_ne!(disks[1].bytes().get(..4), Some(b"QFI\xfb".as_slice()));
    }
}

#[test]
fn compressed_targets_and_odd_places_are_read() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let bytes = content(2 << 20);
    let (mut job, disks) =
        offloaded(vec![bytes.clone()], TargetFormat::Qcow2(options(|options| options.compress = true)));
    job.layers[0].format = Some(Format::Raw);
    let mut machine = Machine::new(&job, &disks);
    super::check_clean(dir, &run_in(&mut machine, &job, &disks).unwrap(), &bytes);
    assert_eq!(copied(&machine), 0);
    // A window that starts within a sector.
    let (mut job, disks) = offloaded(vec![bytes.clone()], TargetFormat::Raw);
    job.layers[0].format = Some(Format::Raw);
    job.layers[0].window = Some(instar_abi::request::Window { offset: 777, len: Some(1 << 20) });
    let mut machine = Machine::new(&job, &disks);
    assert!(run_in(&mut machine, &job, &disks).unwrap() == bytes[777..777 + (1 << 20)]);
    assert_eq!(copied(&machine), 0);
}
