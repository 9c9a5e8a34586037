//! Overlays (`-B`), beside those that qemu-img makes from the same images.

use super::{convert_of, job, read, run};
use crate::testing::{MemoryDisk, qemu_img, qemu_io, scratch};
use instar_abi::error::{Error, TargetError};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Answer, Given, LayerId, NeedKind, NewBacking, Op, Qcow2Options, Request, TargetFormat};
use serde_json::Value as Json;
use std::path::Path;

/// Files of a job: each name, and what it names as its backing file.
type Files<'a> = &'a [(&'a str, Option<usize>)];

/// A job that makes an overlay of the first file above file `below`.
fn overlay(dir: &Path, files: Files<'_>, below: usize, options: &Qcow2Options) -> (Request, Vec<MemoryDisk>) {
    let backing = NewBacking {
        name: files[below].0.as_bytes().to_vec(),
        format: format_of(files[below].0).to_vec(),
        layer: LayerId(below as u32),
    };
    let options = Qcow2Options { backing: Some(backing), ..options.clone() };
    let (mut job, disks) = job(files.iter().map(|(name, _)| read(dir, name)).collect(), TargetFormat::Qcow2(options));
    for (index, (name, below)) in files.iter().enumerate() {
        job.layers[index].format = Some(if name.ends_with("raw") { Format::Raw } else { Format::Qcow2 });
        job.answers.extend(below.map(|below| Answer {
            layer: LayerId(index as u32),
            kind: NeedKind::Backing,
            name: files[below].0.as_bytes().to_vec(),
            given: Given::Layer(LayerId(below as u32)),
        }));
    }
    (job, disks)
}

fn format_of(name: &str) -> &'static [u8] {
    if name.ends_with("raw") { b"raw" } else { b"qcow2" }
}

/// What is where in a chain, without offsets, neighbours joined.
pub fn map(dir: &Path, file: &str) -> Vec<(u64, u64, Json)> {
    let report = qemu_img(dir, &format!("map --output=json {file}")).unwrap();
    let report: Vec<Json> = serde_json::from_str(&report).unwrap();
    joined(report.into_iter().map(|mut entry| {
        let number = |key: &str| entry[key].as_u64().unwrap();
        let (start, end) = (number("start"), number("start") + number("length"));
        let entry = entry.as_object_mut().unwrap();
        ["start", "length", "offset"].into_iter().for_each(|key| drop(entry.remove(key)));
        // What the host's file has as a hole within a cluster depends on the order of clusters.
        if entry["data"] == true {
            entry.insert("zero".to_owned(), false.into());
        }
        (start, end, Json::Object(entry.clone()))
    }))
}

fn joined(entries: impl Iterator<Item = (u64, u64, Json)>) -> Vec<(u64, u64, Json)> {
    let mut runs: Vec<(u64, u64, Json)> = Vec::new();
    for (start, end, entry) in entries {
        match runs.last_mut() {
            Some((_, last_end, last)) if *last == entry && *last_end == start => *last_end = end,
            _ => runs.push((start, end, entry)),
        }
    }
    runs
}

/// Makes an overlay with 1, 2 and 4 lanes, and holds it against qemu-img's.
fn check(dir: &Path, files: Files<'_>, below: usize, options: &Qcow2Options, theirs: &str) {
    let (source, base) = (files[0].0, files[below].0);
    let format = String::from_utf8_lossy(format_of(base)).into_owned();
    let compress = if options.compress { "-c " } else { "" };
    qemu_img(dir, &format!("convert {compress}-O qcow2 -B {base} -F {format} -o {theirs} {source} expected.qcow2"))
        .unwrap();
    let mut first = None;
    for lanes in [1, 2, 4] {
        let (mut job, disks) = overlay(dir, files, below, options);
        job.lanes = lanes;
        let ours = run(&job, &disks).unwrap_or_else(|error| panic!("{theirs}: {error:?}"));
        let first = first.get_or_insert_with(|| ours.clone());
        assert!(*first == ours, "{theirs}: bytes depend on lanes");
    }
    judge(dir, (source, &first.unwrap()), options, theirs);
    for lanes in [2, 4] {
        let (mut job, disks) = overlay(dir, files, below, options);
        job.lanes = lanes;
        convert_of(&mut job).any_order = true;
        let ours = run(&job, &disks).unwrap_or_else(|error| panic!("{theirs}: {error:?}"));
        judge(dir, (source, &ours), options, theirs);
    }
}

/// Holds an overlay that shows the same as `source` against `expected.qcow2`.
fn judge(dir: &Path, (source, ours): (&str, &[u8]), options: &Qcow2Options, theirs: &str) {
    std::fs::write(dir.join("ours.qcow2"), ours).unwrap();
    let report = qemu_img(dir, "check ours.qcow2").unwrap_or_else(|error| panic!("{theirs}: {error}"));
    assert!(report.starts_with("No errors were found"), "{theirs}: {report}");
    let same = qemu_img(dir, &format!("compare {source} ours.qcow2"));
    assert_eq!(same.as_deref(), Ok("Images are identical.\n"), "{theirs}");
    let content = |file: &str| {
        let mut runs = map(dir, file);
        if options.compress {
            // With -c, qemu-img marks zeros past the end of what is below where they are less than a cluster.
            runs.retain(|(_, _, entry)| entry["data"] == true);
        }
        runs
    };
    // Without a flag for zeros, what qemu-img marks so needlessly is clusters of zeros, and those it writes plain.
    if !(options.compress && options.version == 2) {
        assert_eq!(content("ours.qcow2"), content("expected.qcow2"), "{theirs}");
    }
    let info = |file: &str| {
        let mut info: Json =
            serde_json::from_str(&qemu_img(dir, &format!("info --output=json {file}")).unwrap()).unwrap();
        for host in ["children", "filename", "actual-size"] {
            info.as_object_mut().unwrap().remove(host);
        }
        info
    };
    assert_eq!(info("ours.qcow2"), info("expected.qcow2"), "{theirs}");
}

/// Every layout of a target.
fn layouts() -> Vec<(Qcow2Options, String)> {
    let mut layouts = Vec::new();
    for (version, cluster_bits, extended_l2) in [
        (3, 9, false),
        (3, 12, false),
        (3, 16, false),
        (3, 21, false),
        (2, 12, false),
        (2, 16, false),
        (2, 21, false),
        (3, 14, true),
        (3, 16, true),
        (3, 21, true),
    ] {
        let options = Qcow2Options { version, cluster_bits, extended_l2, ..Qcow2Options::default() };
        let compat = if version == 2 { "compat=0.10" } else { "compat=1.1" };
        let extended = if extended_l2 { ",extended_l2=on" } else { "" };
        layouts.push((options, format!("{compat},cluster_size={}{extended}", 1u32 << cluster_bits)));
    }
    layouts
}

const TOP: &str = "write -P 1 64k 64k; write -P 0 128k 64k; write -z 256k 64k; write -z 448k 192k; write -P 3 700k 1k; \
                   write -P 4 1022k 3k; write -z 1500k 20k; write -P 5 2M 300k; write -z 3M 64k";

/// A chain of three layers whose lowest one has `len` bytes.
fn make_chain(dir: &Path, len: &str, top_options: &str) {
    qemu_img(dir, &format!("create -q -f raw base.raw {len}")).unwrap();
    qemu_io(dir, "-f raw base.raw", "write -P 9 0 700k").unwrap();
    qemu_img(dir, &format!("create -q -f qcow2 -b base.raw -F raw mid.qcow2 {len}")).unwrap();
    qemu_io(dir, "mid.qcow2", "write -P 8 300k 90k; write -z 600k 20k").unwrap();
    qemu_img(dir, &format!("create -q -f qcow2 -o {top_options} -b mid.qcow2 -F qcow2 top.qcow2 4000k")).unwrap();
    qemu_io(dir, "top.qcow2", TOP).unwrap();
}

const CHAIN: Files<'_> = &[("top.qcow2", Some(1)), ("mid.qcow2", Some(2)), ("base.raw", None)];

#[test]
fn an_overlay_has_what_the_top_layer_owns_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    for len in ["700k", "1028k", "6M"] {
        for top in ["cluster_size=64k", "cluster_size=4k", "extended_l2=on,cluster_size=32k"] {
            make_chain(dir, len, top);
            for (options, theirs) in layouts() {
                check(dir, CHAIN, 1, &options, &theirs);
            }
        }
    }
}

#[test]
fn a_compressed_overlay_has_whole_clusters() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    make_chain(dir, "1028k", "cluster_size=4k");
    for (mut options, theirs) in layouts() {
        options.compress = true;
        check(dir, CHAIN, 1, &options, &theirs);
    }
}

#[test]
fn a_source_without_a_layer_below_is_owned_whole() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f raw below.raw 3M").unwrap();
    qemu_io(dir, "-f raw below.raw", "write -P 7 0 3M").unwrap();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 5M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 100k 30k; write -P 2 2900k 300k; write -z 4M 64k").unwrap();
    qemu_img(dir, "convert -O raw a.qcow2 a.raw").unwrap();
    for (options, theirs) in layouts() {
        check(dir, &[("a.qcow2", None), ("below.raw", None)], 1, &options, &theirs);
    }
    // A raw source has no holes that we are told of here: its content is the same, its zeros are found by reading.
    for (options, _) in layouts() {
        let (job, disks) = overlay(dir, &[("a.raw", None), ("below.raw", None)], 1, &options);
        std::fs::write(dir.join("ours.qcow2"), run(&job, &disks).unwrap()).unwrap();
        assert!(qemu_img(dir, "check ours.qcow2").unwrap().starts_with("No errors"), "{options:?}");
        assert_eq!(qemu_img(dir, "compare a.raw ours.qcow2").as_deref(), Ok("Images are identical.\n"), "{options:?}");
    }
}

/// The layer below may be longer than what it was: it must not show where the source read zeros.
#[test]
fn a_longer_layer_below_does_not_show_through() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    make_chain(dir, "700k", "cluster_size=64k");
    qemu_img(dir, "convert -O raw mid.qcow2 long.raw").unwrap();
    let mut long = read(dir, "long.raw");
    long.resize(5 << 20, 0xcc);
    std::fs::write(dir.join("long.raw"), long).unwrap();
    let files = [CHAIN, &[("long.raw", None)]].concat();
    for (options, theirs) in layouts() {
        let (job, disks) = overlay(dir, &files, 3, &options);
        std::fs::write(dir.join("ours.qcow2"), run(&job, &disks).unwrap()).unwrap();
        assert!(qemu_img(dir, "check ours.qcow2").unwrap().starts_with("No errors"), "{theirs}");
        let same = qemu_img(dir, "compare top.qcow2 ours.qcow2");
        assert_eq!(same.as_deref(), Ok("Images are identical.\n"), "{theirs}");
    }
}

/// 1 TiB of zeros over a layer of data: flags, not bytes.
#[test]
fn a_huge_zero_range_is_marked_and_not_moved() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 below.qcow2 1T").unwrap();
    qemu_io(dir, "below.qcow2", "write -P 1 500G 64k").unwrap();
    qemu_img(dir, "create -q -f qcow2 -o cluster_size=2M a.qcow2 1T").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 2 100G 2M").unwrap();
    let options = Qcow2Options { cluster_bits: 20, ..Qcow2Options::default() };
    check(dir, &[("a.qcow2", None), ("below.qcow2", None)], 1, &options, "cluster_size=1M");
}

#[test]
fn the_layer_below_is_asked_for_before_anything_is_written() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    make_chain(dir, "700k", "cluster_size=64k");
    let (mut job, disks) = overlay(dir, CHAIN, 1, &Qcow2Options::default());
    job.answers.retain(|answer| answer.layer == LayerId(0));
    let mut machine = crate::testing::Machine::new(&job, &disks);
    assert_eq!(super::convert(&job, &mut machine), Ok(End::NeedsMore));
    let [Frame::Needs(needs)] = machine.frames.as_slice() else { panic!("{:?}", machine.frames) };
    // Asked for once, though it is below source and target.
    let [need] = needs.as_slice() else { panic!("{needs:?}") };
    assert_eq!((need.layer, need.name.as_slice()), (LayerId(1), b"base.raw".as_slice()));
    assert_eq!(disks[3].written(), 0);
}

#[test]
fn a_name_that_does_not_fit_is_refused_and_one_that_does_is_written_before_the_commit() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    make_chain(dir, "700k", "cluster_size=64k");
    for (cluster_bits, len, expected) in [
        (16, 1023, Ok(())),
        (16, 1024, Err(TargetError::BackingNameLen { found: 1024, max: 1023 })),
        (9, 376, Ok(())),
        (9, 377, Err(TargetError::HeaderLen { found: 513, max: 512 })),
    ] {
        let options = Qcow2Options { cluster_bits, ..Qcow2Options::default() };
        let (mut job, disks) = overlay(dir, CHAIN, 1, &options);
        let name = vec![b'n'; len];
        let Op::Convert(convert) = &mut job.op else { panic!() };
        let TargetFormat::Qcow2(Qcow2Options { backing: Some(backing), .. }) = &mut convert.target_format else {
            panic!()
        };
        backing.name = name.clone();
        let result = run(&job, &disks);
        assert_eq!(result.as_ref().map(|_| ()).map_err(Clone::clone), expected.map_err(Error::Target), "{len}");
        let Ok(ours) = result else { continue };
        std::fs::write(dir.join("ours.qcow2"), ours).unwrap();
        let info = qemu_img(dir, "info -U --output=json ours.qcow2").unwrap();
        let info: Json = serde_json::from_str(&info).unwrap();
        assert_eq!(info["backing-filename"].as_str().map(str::as_bytes), Some(name.as_slice()));
    }
}

/// The story: zeros before that end and behind it were one run, long enough to be a hole or too short.
#[test]
fn runs_of_zeros_end_where_what_is_below_does() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("b.raw"), vec![0xee; 1_024_000]).unwrap();
    qemu_img(dir, "create -q -f qcow2 -b b.raw -F raw top 3M").unwrap();
    qemu_io(dir, "top", "write -P 0 1015808 153600").unwrap();
    qemu_img(dir, "convert -S 64k -O qcow2 -o cluster_size=512 -B b.raw -F raw top expected.qcow2").unwrap();
    let options = Qcow2Options { cluster_bits: 9, ..Qcow2Options::default() };
    let (mut job, disks) = overlay(dir, &[("top", Some(1)), ("b.raw", None)], 1, &options);
    convert_of(&mut job).sparse_len = 65536;
    judge(dir, ("top", &run(&job, &disks).unwrap()), &options, "-S 64k");
}
