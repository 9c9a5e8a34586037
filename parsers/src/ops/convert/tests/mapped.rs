//! Targets whose every cluster has a place, and targets with an external data file, beside qemu-img's own.

use super::options::{self, content, options};
use super::overlay::map;
use super::{convert_of, job, read, run, run_all};
use crate::testing::{Machine, MemoryDisk, qemu_img, qemu_io, scratch};
use instar_abi::error::{Error, TargetError, WriteError};
use instar_abi::format::Format;
use instar_abi::request::{
    Access, Disk, DiskId, LayerId, NewBacking, NewDataFile, Qcow2Options, Request, TargetFormat,
};
use std::path::Path;

#[test]
fn every_cluster_of_a_preallocated_image_is_mapped_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), content((5 << 20) + 1536)).unwrap();
    for (version, cluster_bits, refcount_order, extended_l2) in [
        (3, 9, 4, false),
        (3, 12, 0, false),
        (3, 16, 4, false),
        (3, 16, 6, false),
        (3, 21, 4, false),
        (2, 9, 4, false),
        (2, 16, 4, false),
        (3, 14, 4, true),
        (3, 16, 1, true),
        (3, 21, 4, true),
    ] {
        let ours = Qcow2Options {
            version,
            cluster_bits,
            refcount_order,
            extended_l2,
            preallocated: true,
            ..Qcow2Options::default()
        };
        let compat = if version == 2 { "compat=0.10" } else { "compat=1.1" };
        let extended = if extended_l2 { ",extended_l2=on" } else { "" };
        let (size, bits) = (1u32 << cluster_bits, 1u32 << refcount_order);
        let theirs = format!("{compat},cluster_size={size},refcount_bits={bits}{extended},preallocation=metadata");
        for sparse_len in [4096, 0] {
            options::check(dir, &ours, &theirs, sparse_len);
            assert_eq!(map(dir, "ours.qcow2"), map(dir, "expected.qcow2"), "{theirs}");
        }
    }
}

/// Reserving is no writing: what is written is tables.
#[test]
fn a_preallocated_image_of_nothing_is_tables_only() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 256M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 100M 64k").unwrap();
    let ours = options(|options| (options.preallocated, options.cluster_bits) = (true, 12));
    let (job, disks) = job(vec![read(dir, "a.qcow2")], TargetFormat::Qcow2(ours));
    let ours = run(&job, &disks).unwrap();
    assert!(ours.len() > 256 << 20, "{}", ours.len());
    assert!(disks[1].written() < 1 << 20, "{} bytes written", disks[1].written());
}

#[test]
fn a_preallocated_overlay_needs_subclusters() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f raw base.raw 2M").unwrap();
    qemu_io(dir, "-f raw base.raw", "write -P 9 0 1500k").unwrap();
    qemu_img(dir, "create -q -f qcow2 -b base.raw -F raw top.qcow2 3M").unwrap();
    qemu_io(dir, "top.qcow2", "write -P 1 64k 64k; write -z 256k 64k; write -P 2 2900k 3k").unwrap();
    for (extended_l2, cluster_bits) in [(true, 14), (true, 16), (true, 21), (false, 16)] {
        let backing = NewBacking { name: b"base.raw".to_vec(), format: b"raw".to_vec(), layer: LayerId(1) };
        let ours = Qcow2Options {
            extended_l2,
            cluster_bits,
            preallocated: true,
            backing: Some(backing),
            ..Qcow2Options::default()
        };
        let (mut job, disks) = job(vec![read(dir, "top.qcow2"), read(dir, "base.raw")], TargetFormat::Qcow2(ours));
        job.layers[1].format = Some(Format::Raw);
        job.answers.push(instar_abi::request::Answer {
            layer: LayerId(0),
            kind: instar_abi::request::NeedKind::Backing,
            name: b"base.raw".to_vec(),
            given: instar_abi::request::Given::Layer(LayerId(1)),
        });
        let result = run(&job, &disks);
        let theirs = format!("preallocation=metadata,cluster_size={},extended_l2={}", 1 << cluster_bits, {
            if extended_l2 { "on" } else { "off" }
        });
        let made = qemu_img(dir, &format!("convert -O qcow2 -B base.raw -F raw -o {theirs} top.qcow2 expected.qcow2"));
        if !extended_l2 {
            assert_eq!(result, Err(Error::Target(TargetError::PreallocationWithBacking)));
            let text = made.unwrap_err();
            assert!(text.contains("only be used at the same time if extended_l2 is on"), "{text}");
            continue;
        }
        made.unwrap();
        std::fs::write(dir.join("ours.qcow2"), result.unwrap()).unwrap();
        assert!(qemu_img(dir, "check ours.qcow2").unwrap().starts_with("No errors"), "{theirs}");
        assert_eq!(qemu_img(dir, "compare top.qcow2 ours.qcow2").as_deref(), Ok("Images are identical.\n"), "{theirs}");
        assert_eq!(map(dir, "ours.qcow2"), map(dir, "expected.qcow2"), "{theirs}");
    }
}

/// A job with the data file on the last disk.
fn with_data_file(
    mut job: Request,
    mut disks: Vec<MemoryDisk>,
    raw: bool,
    capacity: u64,
) -> (Request, Vec<MemoryDisk>) {
    let disk = DiskId(disks.len() as u32);
    disks.push(MemoryDisk::default());
    job.disks.push(Disk { len: 0, access: Access::Output { capacity }, data: None, allocated: None });
    let TargetFormat::Qcow2(options) = &mut convert_of(&mut job).target_format else { panic!() };
    options.data_file = Some(NewDataFile { name: b"ours.data".to_vec(), disk, raw });
    (job, disks)
}

fn check_data_file(dir: &Path, ours: &Qcow2Options, raw: bool, theirs: &str) {
    qemu_img(dir, &format!("convert -f raw -O qcow2 -o {theirs},data_file=theirs.data a.raw expected.qcow2")).unwrap();
    let len = read(dir, "a.raw").len() as u64;
    let mut first = None;
    for lanes in [1, 2, 4] {
        let (mut job, disks) = job(vec![read(dir, "a.raw")], TargetFormat::Qcow2(ours.clone()));
        job.lanes = lanes;
        job.layers[0].format = Some(Format::Raw);
        let (job, disks) = with_data_file(job, disks, raw, len);
        let outputs = run_all(&mut Machine::new(&job, &disks), &job, &disks).unwrap();
        assert_eq!(outputs.len(), 2);
        let first = first.get_or_insert_with(|| outputs.clone());
        assert!(*first == outputs, "{theirs}: bytes depend on lanes");
    }
    let outputs = first.unwrap();
    std::fs::write(dir.join("ours.qcow2"), &outputs[0]).unwrap();
    std::fs::write(dir.join("ours.data"), &outputs[1]).unwrap();
    let report = qemu_img(dir, "check ours.qcow2").unwrap_or_else(|error| panic!("{theirs}: {error}"));
    assert!(report.starts_with("No errors were found"), "{theirs}: {report}");
    let same = qemu_img(dir, "compare -f raw -F qcow2 a.raw ours.qcow2");
    assert_eq!(same.as_deref(), Ok("Images are identical.\n"), "{theirs}");
    assert_eq!(map(dir, "ours.qcow2"), map(dir, "expected.qcow2"), "{theirs}");
    // Preallocation makes qemu-img's as long as its clusters.
    let data = read(dir, "theirs.data");
    assert!(data.starts_with(&outputs[1]) && outputs[1].len() as u64 == len, "{theirs}: data files differ");
    assert!(data[outputs[1].len()..].iter().all(|&byte| byte == 0));
    assert!(outputs[0].len() <= read(dir, "expected.qcow2").len(), "{theirs}: {} bytes", outputs[0].len());
    let info = |file: &str| qemu_img(dir, &format!("info {file}")).unwrap();
    let specific = |file: &str| {
        let text = info(file).replace("theirs.data", "ours.data");
        let from = text.find("Format specific").unwrap();
        text[from..].split("Child node").next().unwrap().to_owned()
    };
    assert_eq!(specific("ours.qcow2"), specific("expected.qcow2"), "{theirs}");
}

#[test]
fn content_of_a_data_file_is_where_it_is_in_the_disk_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let mut bytes = content((4 << 20) + 1536);
    // The first cluster has content: its offset is 0.
    bytes[..4096].fill(3);
    std::fs::write(dir.join("a.raw"), &bytes).unwrap();
    for (cluster_bits, extended_l2) in
        [(9, false), (12, false), (16, false), (21, false), (14, true), (16, true), (21, true)]
    {
        for raw in [false, true] {
            let ours = options(|options| (options.cluster_bits, options.extended_l2) = (cluster_bits, extended_l2));
            let on = |set: bool| if set { "on" } else { "off" };
            let theirs =
                format!("cluster_size={},extended_l2={},data_file_raw={}", 1 << cluster_bits, on(extended_l2), on(raw));
            check_data_file(dir, &ours, raw, &theirs);
        }
    }
}

#[test]
fn an_overlay_may_have_a_data_file() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f raw base.raw 2M").unwrap();
    qemu_io(dir, "-f raw base.raw", "write -P 9 0 2M").unwrap();
    let mut bytes = vec![9; 2 << 20];
    bytes[300_000..400_000].fill(0);
    bytes[700_000..900_000].fill(4);
    std::fs::write(dir.join("a.raw"), bytes).unwrap();
    for extended_l2 in [false, true] {
        let backing = NewBacking { name: b"base.raw".to_vec(), format: b"raw".to_vec(), layer: LayerId(1) };
        let ours = Qcow2Options { extended_l2, backing: Some(backing), ..Qcow2Options::default() };
        let (mut job, disks) = job(vec![read(dir, "a.raw"), read(dir, "base.raw")], TargetFormat::Qcow2(ours));
        job.layers.iter_mut().for_each(|layer| layer.format = Some(Format::Raw));
        let (job, disks) = with_data_file(job, disks, false, 2 << 20);
        let outputs = run_all(&mut Machine::new(&job, &disks), &job, &disks).unwrap();
        std::fs::write(dir.join("ours.qcow2"), &outputs[0]).unwrap();
        std::fs::write(dir.join("ours.data"), &outputs[1]).unwrap();
        assert!(qemu_img(dir, "check ours.qcow2").unwrap().starts_with("No errors"));
        assert_eq!(qemu_img(dir, "compare a.raw ours.qcow2").as_deref(), Ok("Images are identical.\n"));
    }
}

#[test]
fn what_a_data_file_and_preallocation_exclude_is_refused() {
    let refused = |change: &dyn Fn(&mut Qcow2Options), raw: Option<bool>, expected| {
        let (job, disks) = job(vec![vec![1; 4096]], TargetFormat::Qcow2(options(change)));
        let (job, disks) = match raw {
            Some(raw) => with_data_file(job, disks, raw, 1 << 20),
            None => (job, disks),
        };
        assert_eq!(run(&job, &disks), Err(Error::Target(expected)));
        assert!(disks.iter().skip(1).all(|disk| disk.written() == 0));
    };
    let backing = || NewBacking { name: b"b".to_vec(), format: b"raw".to_vec(), layer: LayerId(0) };
    refused(&|options| options.version = 2, Some(false), TargetError::DataFileBeforeVersion3);
    refused(&|options| options.compress = true, Some(false), TargetError::CompressionWithDataFile);
    refused(&|options| options.backing = Some(backing()), Some(true), TargetError::RawDataFileWithBacking);
    let both = |options: &mut Qcow2Options| (options.compress, options.preallocated) = (true, true);
    refused(&both, None, TargetError::CompressionWithPreallocation);
    let (job, disks) = job(vec![vec![1; 4096]], TargetFormat::Qcow2(Qcow2Options::default()));
    let (job, disks) = with_data_file(job, disks, false, 2048);
    let expected = WriteError::Capacity { disk: DiskId(2), end: 4096 };
    assert_eq!(run_all(&mut Machine::new(&job, &disks), &job, &disks), Err(Error::Write(expected)));
}
