//! Every option of a qcow2 target, beside qemu-img's own conversion with the same option.

use super::{any_order, job, read, run};
use crate::testing::{qemu_img, scratch};
use instar_abi::error::{Error, TargetError};
use instar_abi::format::Format;
use instar_abi::request::{Compression, Op, Qcow2Options, TargetFormat};
use serde_json::Value as Json;
use std::path::Path;

/// Text-like bytes here and there: runs of a few bytes, of odd lengths, and holes; no multiple of any cluster size.
pub fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = 1u64;
    let mut at = 3000;
    while at < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let run = [1, 511, 4096, 70_000, 300_000][(state >> 33) as usize % 5].min(len - at);
        for (index, byte) in bytes[at..at + run].iter_mut().enumerate() {
            let noise = (index as u64).wrapping_mul(state | 1) >> 40;
            *byte = if index % 5 < 3 { b'a' + (index % 11) as u8 } else { noise as u8 & 0x1f | 1 };
        }
        at += run + [1, 4096, 9000, 200_000, 1_500_000][(state >> 40) as usize % 5];
    }
    bytes
}

fn json(dir: &Path, command: &str) -> Json {
    serde_json::from_str(&qemu_img(dir, command).unwrap()).unwrap()
}

/// Converts `a.raw` with our and with qemu-img's options, and compares all that there is to compare.
pub fn check(dir: &Path, options: &Qcow2Options, theirs: &str, sparse_len: u32) {
    let minus_c = if options.compress { "-c " } else { "" };
    let command = format!("convert {minus_c}-S {sparse_len} -f raw -O qcow2 -o {theirs} a.raw expected.qcow2");
    qemu_img(dir, &command).unwrap();
    let mut first = None;
    for lanes in [1, 2, 4] {
        let (mut job, disks) = job(vec![read(dir, "a.raw")], TargetFormat::Qcow2(options.clone()));
        job.lanes = lanes;
        job.layers[0].format = Some(Format::Raw);
        let Op::Convert(convert) = &mut job.op else { panic!() };
        convert.sparse_len = sparse_len;
        let ours = run(&job, &disks).unwrap_or_else(|error| panic!("{theirs}: {error:?}"));
        let first = first.get_or_insert_with(|| ours.clone());
        assert!(*first == ours, "{theirs}: bytes depend on lanes");
        any_order::check(&job, &ours, dir, "a.raw", theirs);
    }
    let ours = first.unwrap();
    std::fs::write(dir.join("ours.qcow2"), &ours).unwrap();
    let report = qemu_img(dir, "check -f qcow2 ours.qcow2").unwrap_or_else(|error| panic!("{theirs}: {error}"));
    assert!(report.starts_with("No errors were found"), "{theirs}: {report}");
    let same = qemu_img(dir, "compare -f raw -F qcow2 a.raw ours.qcow2");
    assert_eq!(same.as_deref(), Ok("Images are identical.\n"), "{theirs}");
    let expected_len = read(dir, "expected.qcow2").len();
    assert!(ours.len() * 100 <= expected_len * 102, "{theirs}: {} bytes beside {expected_len}", ours.len());
    let info = |file: &str| {
        let mut info = json(dir, &format!("info --output=json {file}"));
        for host in ["children", "filename", "actual-size"] {
            info.as_object_mut().unwrap().remove(host);
        }
        info
    };
    assert_eq!(info("ours.qcow2"), info("expected.qcow2"), "{theirs}");
    let counts = |file: &str| {
        let report = json(dir, &format!("check --output=json {file}"));
        [report["allocated-clusters"].clone(), report["compressed-clusters"].clone(), report["total-clusters"].clone()]
    };
    if !options.compress {
        assert_eq!(counts("ours.qcow2"), counts("expected.qcow2"), "{theirs}");
    }
}

pub fn options(change: impl FnOnce(&mut Qcow2Options)) -> Qcow2Options {
    let mut options = Qcow2Options::default();
    change(&mut options);
    options
}

#[test]
fn every_cluster_size_is_laid_out_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), content((7 << 20) + 1536)).unwrap();
    for cluster_bits in 9..=21 {
        for (version, compat) in [(2, "0.10"), (3, "1.1")] {
            let ours = options(|options| (options.version, options.cluster_bits) = (version, cluster_bits));
            check(dir, &ours, &format!("compat={compat},cluster_size={}", 1 << cluster_bits), 4096);
        }
        if cluster_bits >= 14 {
            let ours = options(|options| (options.extended_l2, options.cluster_bits) = (true, cluster_bits));
            check(dir, &ours, &format!("extended_l2=on,cluster_size={}", 1 << cluster_bits), 4096);
        }
    }
}

#[test]
fn every_refcount_width_counts_as_qemu_img_does() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), content((5 << 20) + 512)).unwrap();
    for refcount_order in 0..=6 {
        for cluster_bits in [9, 16, 21] {
            let ours =
                options(|options| (options.refcount_order, options.cluster_bits) = (refcount_order, cluster_bits));
            let theirs = format!("refcount_bits={},cluster_size={}", 1 << refcount_order, 1 << cluster_bits);
            check(dir, &ours, &theirs, 4096);
        }
    }
}

#[test]
fn features_are_recorded_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), content(3 << 20)).unwrap();
    check(dir, &options(|options| options.lazy_refcounts = true), "lazy_refcounts=on", 4096);
    check(dir, &options(|options| options.compression = Compression::Zstd), "compression_type=zstd", 4096);
    let all = options(|options| {
        (options.lazy_refcounts, options.extended_l2) = (true, true);
        (options.compression, options.refcount_order) = (Compression::Zstd, 6);
        options.cluster_bits = 14;
    });
    let theirs = "lazy_refcounts=on,extended_l2=on,compression_type=zstd,refcount_bits=64,cluster_size=16k";
    check(dir, &all, theirs, 4096);
    // Without sparse, everything is allocated.
    check(dir, &options(|options| options.cluster_bits = 12), "cluster_size=4k", 0);
    check(dir, &options(|options| options.cluster_bits = 21), "cluster_size=2M", 0);
}

#[test]
fn options_that_do_not_fit_are_refused_before_anything_is_written() {
    let ours = options(|options| (options.extended_l2, options.cluster_bits) = (true, 13));
    let (job, disks) = job(vec![vec![1; 4096]], TargetFormat::Qcow2(ours));
    let expected = TargetError::ExtendedL2ClusterBits { found: 13, min: 14 };
    assert_eq!(run(&job, &disks), Err(Error::Target(expected)));
    assert_eq!(disks[1].written(), 0);
}

#[test]
fn compressed_clusters_are_packed_and_counted_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let mut bytes = content((6 << 20) + 512);
    // What does not shrink is written plain, between streams that share a cluster.
    let mut state = 7u64;
    for byte in &mut bytes[2_000_000..2_300_000] {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    std::fs::write(dir.join("a.raw"), &bytes).unwrap();
    for cluster_bits in [9, 12, 15, 16, 17, 21] {
        let ours = options(|options| (options.compress, options.cluster_bits) = (true, cluster_bits));
        check(dir, &ours, &format!("cluster_size={}", 1 << cluster_bits), 4096);
    }
    for refcount_order in 0..=6 {
        let ours = options(|options| (options.compress, options.refcount_order) = (true, refcount_order));
        check(dir, &ours, &format!("refcount_bits={}", 1 << refcount_order), 4096);
    }
    check(dir, &options(|options| (options.compress, options.version) = (true, 2)), "compat=0.10", 4096);
    check(dir, &options(|options| (options.compress, options.extended_l2) = (true, true)), "extended_l2=on", 4096);
    check(dir, &options(|options| options.compress = true), "cluster_size=64k", 0);
}

/// qemu-img counts zeros within its buffers of 2 MiB, the mover within a unit.
#[test]
fn a_unit_of_zeros_is_a_hole_whatever_is_asked_for() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let mut bytes = vec![7; 1 << 20];
    bytes[65536..2 * 65536].fill(0);
    bytes[4 * 65536..4 * 65536 + 32768].fill(0);
    let (mut job, disks) = job(vec![bytes.clone()], TargetFormat::Raw);
    job.layers[0].format = Some(Format::Raw);
    super::convert_of(&mut job).sparse_len = 1 << 20;
    assert!(run(&job, &disks) == Ok(bytes.clone()));
    assert_eq!(disks[1].written(), (1 << 20) - 65536);
    std::fs::write(dir.join("a.raw"), bytes).unwrap();
    qemu_img(dir, "convert -S 1M -f raw a.raw theirs.raw").unwrap();
    let map = qemu_img(dir, "map -f raw --output=json theirs.raw").unwrap();
    assert_eq!(map.matches("start").count(), 1, "{map}");
}
