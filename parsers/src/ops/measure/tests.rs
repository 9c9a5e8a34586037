//! measure against qemu-img, where a last unit is cut by the disk's end, and where numbers have no room.

use super::measure;
use crate::testing::{Machine, MemoryDisk, qemu_img, qemu_io, request, scratch};
use instar_abi::error::{Error, TargetError};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame, Measured};
use instar_abi::request::{LayerId, Measure, MeasuredContent, Op, Qcow2Options, TargetFormat};
use std::path::Path;

fn run(op: Measure, format: Option<Format>, disks: &[MemoryDisk]) -> Result<Measured, Error> {
    let mut request = request(Op::Measure(op), disks);
    request.layers.iter_mut().for_each(|layer| layer.format = format);
    let mut machine = Machine::new(&request, disks);
    assert_eq!(measure(&request, &mut machine)?, End::Done { lengths: vec![] });
    let [Frame::Measured(measured)] = machine.frames[..] else { panic!("{:?}", machine.frames) };
    Ok(measured)
}

fn qcow2(cluster_bits: u32) -> TargetFormat {
    TargetFormat::Qcow2(Qcow2Options { cluster_bits, ..Qcow2Options::default() })
}

/// What `bytes` take in a new image.
fn of_image(format: Format, bytes: Vec<u8>, target: TargetFormat) -> Measured {
    let content = MeasuredContent::Image { image: LayerId(0), snapshot: None };
    let op = Measure { content, target, luks_key_len: 0, is_preallocated: false };
    run(op, Some(format), &[MemoryDisk::new(bytes)]).expect("it can be measured")
}

fn of_size(size: u64, target: TargetFormat, luks_key_len: u32) -> Result<Measured, Error> {
    run(Measure { content: MeasuredContent::Size(size), target, luks_key_len, is_preallocated: false }, None, &[])
}

/// What qemu-img says of the file in a qcow2 with clusters of this size.
fn theirs(dir: &Path, format: Format, file: &str, cluster_bits: u32) -> (u64, u64) {
    let cluster_size = 1 << cluster_bits;
    let command = format!("measure --output=json -f {} -O qcow2 -o cluster_size={cluster_size} {file}", format.name());
    let text = qemu_img(dir, &command).expect("qemu-img measures it");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let number = |key: &str| json[key].as_u64().expect("a number");
    (number("required"), number("fully-allocated"))
}

/// An image of `format`, made with `options`, whose last block, of whatever length, is cut by the disk's end and has data.
fn cut(dir: &Path, format: Format, options: &str) -> Vec<u8> {
    qemu_img(dir, "create -q -f raw a.raw 9728k").expect("qemu-img makes it");
    qemu_io(dir, "-f raw a.raw", "write 100k 1k; write 9727k 1k").expect("it is written");
    let command = format!("convert -f raw -O {} -o {options} a.raw cut", format.name());
    qemu_img(dir, &command).expect("qemu-img converts it");
    std::fs::read(dir.join("cut")).expect("readable")
}

fn check_cut(format: Format, options: &str) {
    let Some(dir) = scratch() else { return };
    let bytes = cut(dir.path(), format, options);
    for cluster_bits in [9, 12, 16, 21] {
        let ours = of_image(format, bytes.clone(), qcow2(cluster_bits));
        let what = format!("{} {options} {cluster_bits}", format.name());
        assert_eq!((ours.required, ours.fully_allocated), theirs(dir.path(), format, "cut", cluster_bits), "{what}");
    }
}

/// B1a: blocks times their length were more than the disk.
#[test]
fn the_last_unit_counts_only_its_part_of_the_disk() {
    check_cut(Format::Vmdk, "subformat=monolithicSparse");
    check_cut(Format::Vmdk, "subformat=streamOptimized");
    check_cut(Format::Qcow2, "cluster_size=2M");
    check_cut(Format::Vdi, "static=off");
    check_cut(Format::Parallels, "cluster_size=1M");
    // qemu-img takes all of a VHDX for data; we count its blocks, of which the last has 512 KiB.
    let Some(dir) = scratch() else { return };
    let bytes = cut(dir.path(), Format::Vhdx, "block_size=1M");
    let ours = of_image(Format::Vhdx, bytes, qcow2(16));
    assert_eq!(ours.fully_allocated - ours.required, (8 << 20), "{ours:?}");
    assert_eq!(ours.fully_allocated, theirs(dir.path(), Format::Vhdx, "cut", 16).1);
}

/// B1a: `measure` refused what qemu-img measures.
#[test]
fn measure_of_a_vpc_source_equals_qemu_img() {
    check_cut(Format::Vpc, "subformat=dynamic");
    check_cut(Format::Vpc, "subformat=dynamic,force_size=on");
}

/// An image of 16 clusters of 64 KiB, all with data, and a disk that ends within the third.
fn cut_in_its_third_cluster(dir: &Path) -> Vec<u8> {
    qemu_img(dir, "create -q -f qcow2 cut 1M").expect("qemu-img makes it");
    qemu_io(dir, "-f qcow2 cut", "write 0 1M").expect("it is written");
    let mut bytes = std::fs::read(dir.join("cut")).expect("readable");
    bytes[24..32].copy_from_slice(&((2u64 << 16) + 512).to_be_bytes());
    std::fs::write(dir.join("cut"), &bytes).expect("writable");
    bytes
}

/// A2: what tables have past the disk's end is walked, at most, and never counted.
#[test]
fn clusters_past_the_virtual_size_are_not_counted() {
    let Some(dir) = scratch() else { return };
    let bytes = cut_in_its_third_cluster(dir.path());
    let raw = of_image(Format::Qcow2, bytes.clone(), TargetFormat::Raw);
    assert_eq!(raw, Measured { required: (2 << 16) + 512, fully_allocated: (2 << 16) + 512, bitmaps: None });
    for cluster_bits in [9, 12, 16, 21] {
        let ours = of_image(Format::Qcow2, bytes.clone(), qcow2(cluster_bits));
        let theirs = theirs(dir.path(), Format::Qcow2, "cut", cluster_bits);
        assert_eq!((ours.required, ours.fully_allocated), theirs, "clusters of 2^{cluster_bits} bytes");
    }
}

/// A2: a disk full of data has no unit more than fits on it.
#[test]
fn units_with_data_never_exceed_the_disk() {
    let Some(dir) = scratch() else { return };
    let bytes = cut_in_its_third_cluster(dir.path());
    for cluster_bits in 9..=21 {
        let ours = of_image(Format::Qcow2, bytes.clone(), qcow2(cluster_bits));
        assert_eq!(ours.required, ours.fully_allocated, "clusters of 2^{cluster_bits} bytes");
    }
}

/// A3: sizes near the end of all numbers, with and without what stands in front of the content.
#[test]
fn a_sum_that_overflows_is_a_typed_error_for_every_target() {
    const MAX: u64 = i64::MAX as u64;
    for luks_key_len in [0, 16, 32, 64] {
        for size in [u64::MAX, u64::MAX - 511, MAX + 1, MAX, MAX - 511, MAX - 512] {
            let raw = of_size(size, TargetFormat::Raw, luks_key_len);
            match raw {
                Ok(measured) => assert!(size <= MAX + 1 && measured.required >= size, "{size}: {measured:?}"),
                Err(Error::Target(TargetError::TooLarge { .. })) => assert!(size > MAX + 1, "{size}"),
                Err(error) => panic!("{size}: {error:?}"),
            }
            for cluster_bits in 9..=21 {
                let refused = of_size(size, qcow2(cluster_bits), luks_key_len);
                assert!(matches!(refused, Err(Error::Target(TargetError::TooLarge { .. }))), "{size}: {refused:?}");
            }
        }
        for cluster_bits in 9..=21 {
            // 32 MiB of L1 entries, each for a cluster of L2 entries.
            let max = (4u64 << 20) << (2 * cluster_bits - 3);
            let measured = of_size(max, qcow2(cluster_bits), luks_key_len).expect("as large as can be");
            assert!(measured.required < 1 << 60 && measured.fully_allocated > max, "{measured:?}");
            let refused = of_size(max + 1, qcow2(cluster_bits), luks_key_len);
            assert!(matches!(refused, Err(Error::Target(TargetError::TooLarge { .. }))), "{refused:?}");
        }
    }
}
