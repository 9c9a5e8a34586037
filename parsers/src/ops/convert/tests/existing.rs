//! qcow2 targets that exist (`-n`): a new state, switched over in one sector.

use super::options::content;
use super::{convert_of, job, read, run, run_all};
use crate::testing::{Fault, Machine, MemoryDisk, qemu_img, qemu_io, scratch};
use instar_abi::error::{Error, ExistingError, TargetError};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Answer, Before, DiskId, Given, Layer, LayerId, NeedKind, RawGate, Request, TargetFormat};
use serde_json::Value as Json;
use std::path::Path;

/// A job that writes `a.raw` into `old.qcow2`; the target is layer 1, `base.raw` below it is layer 2.
fn existing(dir: &Path, compress: bool, with_base: bool) -> (Request, Vec<MemoryDisk>) {
    let image = LayerId(1);
    let base = if with_base { vec![read(dir, "base.raw")] } else { vec![] };
    let (mut job, mut disks) =
        job([vec![read(dir, "a.raw")], base].concat(), TargetFormat::Existing { image, compress });
    // The target that `job` adds holds the image.
    let target = DiskId(disks.len() as u32 - 1);
    let old = read(dir, "old.qcow2");
    let len = old.len() as u64;
    disks[target.0 as usize] = MemoryDisk::new(old);
    let layer = |disk, format| Layer::new(disk, Some(format), RawGate::Open);
    job.layers = vec![layer(DiskId(0), Format::Raw), layer(target, Format::Qcow2)];
    if with_base {
        job.layers.push(layer(DiskId(1), Format::Raw));
        job.answers.push(Answer {
            layer: image,
            kind: NeedKind::Backing,
            name: b"base.raw".to_vec(),
            given: Given::Layer(LayerId(2)),
        });
    }
    convert_of(&mut job).before = Before::Unknown { len };
    (job, disks)
}

/// What info tells of an image, without what its content decides.
fn header(dir: &Path, file: &str) -> Json {
    let mut info: Json = serde_json::from_str(&qemu_img(dir, &format!("info --output=json {file}")).unwrap()).unwrap();
    for host in ["children", "filename", "actual-size"] {
        info.as_object_mut().unwrap().remove(host);
    }
    info
}

/// Writes `a.raw` over `old.qcow2` with 1, 2 and 4 lanes, and holds the result against qemu-img's.
fn check(dir: &Path, compress: bool, with_base: bool) {
    std::fs::copy(dir.join("old.qcow2"), dir.join("expected.qcow2")).unwrap();
    // qemu-img can't compress over clusters that have a place.
    qemu_img(dir, "convert -n -f raw -O qcow2 a.raw expected.qcow2").unwrap();
    let mut first = None;
    for lanes in [1, 2, 4] {
        let (mut job, disks) = existing(dir, compress, with_base);
        job.lanes = lanes;
        let ours = run(&job, &disks).unwrap();
        let first = first.get_or_insert_with(|| ours.clone());
        assert!(*first == ours, "bytes depend on lanes");
    }
    std::fs::write(dir.join("ours.qcow2"), first.unwrap()).unwrap();
    let report = qemu_img(dir, "check ours.qcow2").unwrap();
    assert!(report.starts_with("No errors were found"), "{report}");
    assert_eq!(qemu_img(dir, "compare expected.qcow2 ours.qcow2").as_deref(), Ok("Images are identical.\n"));
    assert_eq!(header(dir, "ours.qcow2"), header(dir, "old.qcow2"));
}

const OPTIONS: [&str; 8] = [
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=2M,refcount_bits=64",
    "compat=0.10,cluster_size=64k",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=128k,lazy_refcounts=on",
    "cluster_size=64k,preallocation=metadata",
];

const WRITES: &str =
    "write -P 0xaa 0 1M; write -z 1M 64k; write -P 0xbb 2500k 800k; write -P 0xcc 4600k 3k; discard 3M 64k";

#[test]
fn an_existing_image_has_the_new_content_and_keeps_what_lies_beyond() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    for (len, compress) in
        [(3 << 20, false), ((3 << 20) + 1536, false), ((5 << 20) - 512, false), ((2 << 20) + 512, true)]
    {
        std::fs::write(dir.join("a.raw"), content(len)).unwrap();
        for options in OPTIONS {
            qemu_img(dir, &format!("create -q -f qcow2 -o {options} old.qcow2 5M")).unwrap();
            qemu_io(dir, "old.qcow2", WRITES).unwrap();
            check(dir, compress, false);
        }
    }
}

#[test]
fn over_a_backing_file_zeros_are_written_and_nothing_shows_through() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("base.raw"), vec![0xee; 4 << 20]).unwrap();
    for (len, compress) in [(3 << 20, false), ((3 << 20) + 1536, false), ((3 << 20) + 1536, true)] {
        std::fs::write(dir.join("a.raw"), content(len)).unwrap();
        for options in OPTIONS.iter().filter(|options| !options.contains("preallocation")) {
            qemu_img(dir, &format!("create -q -f qcow2 -o {options} -b base.raw -F raw old.qcow2 5M")).unwrap();
            qemu_io(dir, "old.qcow2", WRITES).unwrap();
            check(dir, compress, true);
        }
    }
}

/// What is below is asked for only where it can show in a cluster that is written.
#[test]
fn a_backing_file_is_needed_only_for_clusters_in_part() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("base.raw"), vec![0xee; 4 << 20]).unwrap();
    qemu_img(dir, "create -q -f qcow2 -b base.raw -F raw old.qcow2 5M").unwrap();
    for (len, is_needed) in [(3 << 20, false), ((3 << 20) + 512, true), (5 << 20, false)] {
        std::fs::write(dir.join("a.raw"), content(len)).unwrap();
        let (job, disks) = existing(dir, false, false);
        let old = disks[1].bytes();
        let mut machine = Machine::new(&job, &disks);
        let end = super::convert(&job, &mut machine).unwrap();
        assert_eq!(end == End::NeedsMore, is_needed, "{len}");
        if is_needed {
            assert!(matches!(machine.frames.as_slice(), [Frame::Needs(needs)] if needs[0].layer == LayerId(1)));
            assert!(disks[1].bytes() == old);
        }
    }
}

/// A crash is a request that fails and all after it: the old content or the new, never a mixture.
#[test]
fn a_conversion_that_fails_leaves_the_old_state() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), content(3 << 20)).unwrap();
    qemu_img(dir, "create -q -f qcow2 -o cluster_size=4k old.qcow2 5M").unwrap();
    qemu_io(dir, "old.qcow2", WRITES).unwrap();
    let (job, disks) = existing(dir, false, false);
    let mut sound = Machine::new(&job, &disks);
    run_all(&mut sound, &job, &disks).unwrap();
    for number in 0..sound.requests() {
        let (job, disks) = existing(dir, false, false);
        let old = disks[1].bytes();
        let mut machine = Machine::with_fault(&job, &disks, Fault::Request(number), number % 2 == 0);
        let result = run_all(&mut machine, &job, &disks);
        assert!(matches!(result, Err(Error::Read(_) | Error::Write(_))), "{number}: {:?}", result.is_ok());
        // The last request is the flush after the commit.
        if number + 1 < sound.requests() {
            assert!(disks[1].bytes().starts_with(&old), "{number}: the old state is touched");
        }
    }
}

#[test]
fn what_a_new_state_would_lose_is_refused() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), content(1 << 20)).unwrap();
    let refused = |expected: ExistingError| {
        let (job, disks) = existing(dir, false, false);
        let old = disks[1].bytes();
        assert_eq!(run(&job, &disks), Err(Error::Target(TargetError::Existing(expected))));
        assert!(disks[1].bytes() == old && disks[1].written() == 0);
    };
    let create = |options: &str| qemu_img(dir, &format!("create -q -f qcow2 {options}old.qcow2 5M")).unwrap();
    create("");
    qemu_img(dir, "snapshot -c one old.qcow2").unwrap();
    refused(ExistingError::Snapshots { count: 1 });
    create("");
    qemu_img(dir, "bitmap --add old.qcow2 b").unwrap();
    refused(ExistingError::Bitmaps);
    create("-o data_file=d.raw ");
    refused(ExistingError::DataFile);
    create("--object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s ");
    refused(ExistingError::Encrypted);
    for (bit, expected) in [(1u8, ExistingError::Dirty), (2, ExistingError::Corrupt)] {
        create("");
        let mut bytes = read(dir, "old.qcow2");
        bytes[79] |= bit;
        std::fs::write(dir.join("old.qcow2"), bytes).unwrap();
        refused(expected);
    }
    qemu_img(dir, "create -q -f qcow2 old.qcow2 512k").unwrap();
    let (job, disks) = existing(dir, false, false);
    let expected = TargetError::TooSmall { len: 512 << 10, needed: 1 << 20 };
    assert_eq!(run(&job, &disks), Err(Error::Target(expected)));
}

/// Again and again: each new state leaves nothing in use of the one before.
#[test]
fn states_follow_each_other_without_leaks() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 -o cluster_size=4k old.qcow2 5M").unwrap();
    for round in 1..4 {
        std::fs::write(dir.join("a.raw"), content(round << 20)).unwrap();
        check(dir, round == 2, false);
        std::fs::copy(dir.join("ours.qcow2"), dir.join("old.qcow2")).unwrap();
    }
}

/// A cluster was set aside for an L1 table without an entry, to which nothing led.
#[test]
fn an_empty_disk_over_an_empty_image_leaks_nothing() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), []).unwrap();
    for options in OPTIONS {
        qemu_img(dir, &format!("create -q -f qcow2 -o {options} old.qcow2 0")).unwrap();
        check(dir, false, false);
    }
}

/// A job that writes what `top.qcow2` owns into `old.qcow2`; `base.raw` is below both.
fn top_only(dir: &Path) -> (Request, Vec<MemoryDisk>) {
    let (mut job, mut disks) = existing(dir, false, true);
    disks[0] = MemoryDisk::new(read(dir, "top.qcow2"));
    job.disks[0].len = read(dir, "top.qcow2").len() as u64;
    job.layers[0].format = Some(Format::Qcow2);
    job.answers.push(Answer { layer: LayerId(0), ..job.answers[0].clone() });
    convert_of(&mut job).top_only = true;
    (job, disks)
}

/// `-n -B`: in granules of every kind the target keeps what it has where the source owns nothing.
#[test]
fn only_the_top_layer_is_copied_over_what_is_there() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("base.raw"), vec![0xee; 5 << 20]).unwrap();
    std::fs::write(dir.join("a.raw"), []).unwrap();
    for source in ["cluster_size=512", "cluster_size=64k", "extended_l2=on,cluster_size=16k"] {
        qemu_img(dir, &format!("create -q -f qcow2 -o {source} -b base.raw -F raw top.qcow2 5M")).unwrap();
        qemu_io(dir, "top.qcow2", "write -P 1 100k 3k; write -P 2 900k 300k; write -z 3M 1M; write -P 3 5119k 1k")
            .unwrap();
        for options in OPTIONS.iter().filter(|options| !options.contains("preallocation")) {
            for (backing, is_dirty) in [("-b base.raw -F raw ", false), ("-b base.raw -F raw ", true), ("", true)] {
                qemu_img(dir, &format!("create -q -f qcow2 -o {options} {backing}old.qcow2 5M")).unwrap();
                if is_dirty {
                    qemu_io(dir, "old.qcow2", WRITES).unwrap();
                }
                std::fs::copy(dir.join("old.qcow2"), dir.join("expected.qcow2")).unwrap();
                qemu_img(dir, "convert -n -B base.raw -O qcow2 top.qcow2 expected.qcow2").unwrap();
                for (lanes, any_order) in [(1, false), (2, false), (4, true)] {
                    let (mut job, disks) = top_only(dir);
                    (job.lanes, convert_of(&mut job).any_order) = (lanes, any_order);
                    std::fs::write(dir.join("ours.qcow2"), run(&job, &disks).unwrap()).unwrap();
                    let report = qemu_img(dir, "check ours.qcow2").unwrap();
                    assert!(report.starts_with("No errors were found"), "{source} {options}: {report}");
                    let same = qemu_img(dir, "compare expected.qcow2 ours.qcow2");
                    assert_eq!(
                        same.as_deref(),
                        Ok("Images are identical.\n"),
                        "{source} {options} {backing}{is_dirty}"
                    );
                    assert_eq!(header(dir, "ours.qcow2"), header(dir, "old.qcow2"));
                }
            }
        }
    }
}

/// qemu-img takes them for what shows there anyway, and leaves what the target has.
#[test]
fn past_the_end_of_what_is_below_zeros_are_written() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("base.raw"), vec![0xee; 1 << 20]).unwrap();
    std::fs::write(dir.join("a.raw"), []).unwrap();
    for name in ["top.qcow2", "old.qcow2"] {
        qemu_img(dir, &format!("create -q -f qcow2 -b base.raw -F raw {name} 3M")).unwrap();
    }
    qemu_io(dir, "top.qcow2", "write -P 1 512k 64k; write -z 2M 64k").unwrap();
    qemu_io(dir, "old.qcow2", "write -P 2 2M 64k").unwrap();
    let (job, disks) = top_only(dir);
    std::fs::write(dir.join("ours.qcow2"), run(&job, &disks).unwrap()).unwrap();
    assert!(qemu_img(dir, "check ours.qcow2").unwrap().starts_with("No errors were found"));
    assert_eq!(qemu_img(dir, "compare top.qcow2 ours.qcow2").as_deref(), Ok("Images are identical.\n"));
}
