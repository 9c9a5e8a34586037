//! Allocation without turns (`-W`): other bytes, the same content.

use super::{convert_of, job, run, run_in};
use crate::testing::{Fault, Machine, MemoryDisk, qemu_img, scratch};
use instar_abi::format::Format;
use instar_abi::request::{Access, Qcow2Options, Request, TargetFormat};
use std::path::Path;

/// Runs `job` again without turns, and holds what it makes against the raw image `content`. `in_order`: what it made
/// with turns.
pub fn check(job: &Request, in_order: &[u8], dir: &Path, content: &str, what: &str) {
    let mut job = job.clone();
    convert_of(&mut job).any_order = true;
    let (ours, sound) = made(&job, dir, what);
    assert!(job.lanes > 1 || ours == in_order, "{what}: one lane has nobody to overtake");
    // Streams are packed around other plain clusters.
    assert!(ours.len() * 50 <= in_order.len() * 51, "{what}: {} bytes", ours.len());
    assert!(sound.starts_with("No errors were found"), "{what}: {sound}");
    let same = qemu_img(dir, &format!("compare -f raw -F qcow2 {content} any.qcow2"));
    assert_eq!(same.as_deref(), Ok("Images are identical.\n"), "{what}");
}

/// What a job over the files in `dir` makes, as `any.qcow2`, and qemu-img's verdict.
fn made(job: &Request, dir: &Path, what: &str) -> (Vec<u8>, String) {
    let source = MemoryDisk::new(std::fs::read(dir.join("a.raw")).unwrap());
    let disks: Vec<MemoryDisk> =
        std::iter::once(source).chain(job.disks.iter().skip(1).map(|_| MemoryDisk::default())).collect();
    let ours = run(job, &disks).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    std::fs::write(dir.join("any.qcow2"), &ours).unwrap();
    let report = qemu_img(dir, "check -f qcow2 any.qcow2").unwrap_or_else(|error| panic!("{what}: {error}"));
    (ours, report)
}

/// The lane with the first stretch waits until another one has written: that one had its clusters first.
#[test]
fn a_later_stretch_is_written_at_a_lower_offset() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let bytes: Vec<u8> = (0..9 << 20).map(|index: u32| (index >> 20) as u8 + 1).collect();
    std::fs::write(dir.join("a.raw"), &bytes).unwrap();
    // Two stretches share a cluster of 2 MiB.
    for cluster_bits in [9, 12, 16, 20] {
        let options = Qcow2Options { cluster_bits, ..Qcow2Options::default() };
        let (mut job, disks) = job(vec![bytes.clone()], TargetFormat::Qcow2(options));
        job.layers[0].format = Some(Format::Raw);
        job.lanes = 2;
        convert_of(&mut job).any_order = true;
        let mut machine = Machine::with_fault(&job, &disks, Fault::Late { start: 0, end: 512 }, false);
        let ours = run_in(&mut machine, &job, &disks).unwrap();
        let place = |mega: u8| ours.windows(512).position(|sector| sector.iter().all(|&byte| byte == mega + 1));
        assert!((1..9).any(|mega| place(mega) < place(0)), "{cluster_bits}: {:?}", place(0));
        std::fs::write(dir.join("a.qcow2"), &ours).unwrap();
        assert!(qemu_img(dir, "check a.qcow2").unwrap().starts_with("No errors"));
        assert_eq!(qemu_img(dir, "compare -f raw -F qcow2 a.raw a.qcow2").unwrap(), "Images are identical.\n");
    }
}

/// What fails leaves no image, whichever lane is ahead.
#[test]
fn a_failing_request_leaves_no_header() {
    let bytes: Vec<u8> = (0..6 << 20).map(|index: u32| (index >> 16) as u8 | 1).collect();
    let start = |lanes: u8| {
        let (mut job, disks) = job(vec![bytes.clone()], TargetFormat::Qcow2(Qcow2Options::default()));
        job.layers[0].format = Some(Format::Raw);
        job.lanes = lanes;
        convert_of(&mut job).any_order = true;
        (job, disks)
    };
    for lanes in [2, 4] {
        let (job, disks) = start(lanes);
        let mut sound = Machine::new(&job, &disks);
        run_in(&mut sound, &job, &disks).unwrap();
        // How many there are depends on which lane takes what.
        for number in 0..sound.requests() - 4 {
            let (job, disks) = start(lanes);
            let mut machine = Machine::with_fault(&job, &disks, Fault::Request(number), number % 2 == 0);
            assert!(run_in(&mut machine, &job, &disks).is_err(), "{number}");
            assert_ne!(disks[1].bytes().get(..4), Some(b"QFI\xfb".as_slice()), "{number}");
        }
        let (mut job, disks) = start(lanes);
        job.disks[1].access = Access::Output { capacity: 5 << 20 };
        assert!(run(&job, &disks).is_err());
    }
}
