//! compare against what is known of the images: where they differ is put there by the test.

use super::compare;
use crate::testing::{Fault, Machine, MemoryDisk, qemu_img, qemu_io, request, scratch};
use instar_abi::error::{Error, ReadError};
use instar_abi::reply::{Compared, Difference, End, Frame};
use instar_abi::request::{Compare, LayerId, Op, RawGate, Request};
use std::path::Path;

fn job(left: Vec<u8>, right: Vec<u8>, is_strict: bool) -> (Request, Vec<MemoryDisk>) {
    let disks = vec![MemoryDisk::new(left), MemoryDisk::new(right)];
    let mut request = request(Op::Compare(Compare { left: LayerId(0), right: LayerId(1), is_strict }), &disks);
    request.layers.iter_mut().for_each(|layer| layer.raw_gate = RawGate::Open);
    request.budget.steps = u64::MAX;
    (request, disks)
}

fn run(request: &Request, disks: &[MemoryDisk]) -> Result<Compared, Error> {
    let mut machine = Machine::new(request, disks);
    assert_eq!(compare(request, &mut machine)?, End::Done { lengths: Vec::new() });
    let [Frame::Compared(compared)] = machine.frames[..] else { panic!("{:?}", machine.frames) };
    Ok(compared)
}

/// What every number of lanes says.
fn on_all_lanes(left: &[u8], right: &[u8], is_strict: bool) -> Compared {
    let (mut request, disks) = job(left.to_vec(), right.to_vec(), is_strict);
    let said = [1, 2, 4].map(|lanes| {
        request.lanes = lanes;
        run(&request, &disks).expect("readable")
    });
    assert!(said.iter().all(|compared| *compared == said[0]), "{said:?}");
    said[0]
}

const SAME: Compared = Compared { difference: None, past_common: false };

fn at(offset: u64) -> Compared {
    Compared { difference: Some(Difference::Content(offset)), past_common: false }
}

#[test]
fn the_first_sector_that_differs_is_told_whatever_the_lanes() {
    let mut left: Vec<u8> = (0..20u32 << 20).map(|at| (at / 977) as u8).collect();
    left[3 << 20..5 << 20].fill(0);
    assert_eq!(on_all_lanes(&left, &left, false), SAME);
    for places in [&[0][..], &[511], &[512], &[65_536], &[4 << 20], &[(20 << 20) - 1], &[19 << 20, 7_777_777, 9 << 20]]
    {
        let mut right = left.clone();
        places.iter().for_each(|&place| right[place] ^= 0x40);
        let first = *places.iter().min().expect("a place") as u64;
        assert_eq!(on_all_lanes(&left, &right, false), at(first / 512 * 512), "{places:?}");
        assert_eq!(on_all_lanes(&right, &left, false), at(first / 512 * 512), "{places:?}");
    }
}

#[test]
fn what_a_longer_disk_has_beyond_must_be_zero() {
    let left = vec![7; 100_000];
    let mut right = left.clone();
    right.resize(10 << 20, 0);
    let longer = |difference| Compared { difference, past_common: true };
    // The rest of the last sector of the shorter one is zero, too.
    assert_eq!(on_all_lanes(&left, &right, false), longer(None));
    assert_eq!(on_all_lanes(&right, &left, false), longer(None));
    let size = Compared { difference: Some(Difference::Size), past_common: false };
    assert_eq!(on_all_lanes(&left, &right, true), size);
    right[9 << 20] = 1;
    assert_eq!(on_all_lanes(&left, &right, false), longer(Some(Difference::Content(9 << 20))));
    right[99_999] = 1;
    assert_eq!(on_all_lanes(&left, &right, false), at(99_999 / 512 * 512));
}

fn read(dir: &Path, file: &str) -> Vec<u8> {
    std::fs::read(dir.join(file)).expect("the file")
}

/// Kinds of qcow2 that hold the same disk, and one that holds another.
#[test]
fn formats_and_compression_do_not_matter_and_allocation_only_to_the_strict() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 9M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 0 3M; write -P 2 4M 100k; write -z 5M 1M; write -P 3 8M 1M").unwrap();
    qemu_img(dir, "convert -O raw a.qcow2 a.raw").unwrap();
    qemu_img(dir, "convert -c -O qcow2 a.qcow2 zlib.qcow2").unwrap();
    qemu_img(dir, "convert -c -o compression_type=zstd -O qcow2 a.qcow2 zstd.qcow2").unwrap();
    qemu_img(dir, "convert -O vdi a.qcow2 a.vdi").unwrap();
    for other in ["a.raw", "zlib.qcow2", "zstd.qcow2", "a.vdi"] {
        assert_eq!(on_all_lanes(&read(dir, "a.qcow2"), &read(dir, other), false), SAME, "{other}");
    }
    let allocation = |at| Compared { difference: Some(Difference::Allocation(at)), past_common: false };
    // Compressed clusters have no place; the zero clusters of the first are nothing in the copy.
    assert_eq!(on_all_lanes(&read(dir, "a.qcow2"), &read(dir, "zlib.qcow2"), true), allocation(0));
    assert_eq!(on_all_lanes(&read(dir, "a.qcow2"), &read(dir, "a.qcow2"), true), SAME);
    // A difference in content that lies before one in allocation comes first.
    let mut bent = read(dir, "a.raw");
    bent[1 << 20] ^= 1;
    let (mut request, disks) = job(read(dir, "a.raw"), bent, true);
    request.disks[1].data = Some(vec![instar_abi::request::HostExtent { start: 0, len: 4 << 20 }]);
    assert_eq!(run(&request, &disks), Ok(at(1 << 20)));
    let (mut request, disks) = job(read(dir, "a.raw"), read(dir, "a.raw"), true);
    request.disks[1].data = Some(vec![instar_abi::request::HostExtent { start: 0, len: 4 << 20 }]);
    assert_eq!(run(&request, &disks), Ok(allocation(4 << 20)));
}

#[test]
fn what_can_t_be_read_is_told_with_the_side_it_is_on() {
    let left = vec![7; 5 << 20];
    let (mut request, disks) = job(left.clone(), left, false);
    request.lanes = 2;
    for side in [0, 1] {
        let fault = Fault::Bytes { disk: side, start: 3 << 20, end: (3 << 20) + 512 };
        let error = compare(&request, &mut Machine::with_fault(&request, &disks, fault, false));
        let Err(Error::Compare { image, offset, is_content: true, error }) = error else { panic!("{error:?}") };
        assert_eq!((image, offset), (LayerId(side), 3 << 20));
        assert!(matches!(*error, Error::Read(ReadError::Io { .. })), "{error:?}");
    }
}

#[test]
fn the_nth_request_fails_for_every_n() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 3M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 0 1M; write -c -P 2 1M 64k; write -P 3 2M 64k").unwrap();
    let (request, disks) = job(read(dir, "a.qcow2"), read(dir, "a.qcow2"), true);
    let mut sound = Machine::new(&request, &disks);
    compare(&request, &mut sound).unwrap();
    for number in 0..sound.requests() {
        let result = compare(&request, &mut Machine::with_fault(&request, &disks, Fault::Request(number), false));
        let is_read = |error: &Error| matches!(error, Error::Read(ReadError::Io { .. }));
        match result {
            Err(Error::Compare { error, .. }) if is_read(&error) => {}
            Err(error) if is_read(&error) => {}
            other => panic!("{number}: {other:?}"),
        }
    }
}
