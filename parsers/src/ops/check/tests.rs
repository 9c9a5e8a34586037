//! Checks held against qemu-img: as many lines, the same counts. What the lines say is held end to end.

mod blocks;

use super::check;
use crate::testing::{Fault, Machine, MemoryDisk, Qcow2Builder, qemu_img, qemu_io, request, scratch};
use instar_abi::check::{CheckFailure, Checked, Finding, ParallelsFinding, Qcow2Finding};
use instar_abi::error::{Error, ReadError, Resource};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Check, LayerId, Op};
use std::path::Path;

const CHECK: Op = Op::Check(Check { image: LayerId(0), as_qemu_img: true });

/// What a check says of these bytes.
fn checked(bytes: &[u8]) -> Result<(Checked, Vec<Finding>), Error> {
    run(bytes, Fault::None).0
}

fn run(bytes: &[u8], fault: Fault) -> (Result<(Checked, Vec<Finding>), Error>, u64) {
    run_as(CHECK, bytes, fault)
}

fn run_as(op: Op, bytes: &[u8], fault: Fault) -> (Result<(Checked, Vec<Finding>), Error>, u64) {
    let disks = [MemoryDisk::new(bytes.to_vec())];
    let request = request(op, &disks);
    let mut machine = Machine::with_fault(&request, &disks, fault, true);
    let result = check(&request, &mut machine).map(|end| {
        assert_eq!(end, End::Done { lengths: vec![] });
        let mut findings = Vec::new();
        let mut checked = None;
        for frame in &machine.frames {
            match frame {
                Frame::Findings(more) if checked.is_none() => findings.extend(more.iter().cloned()),
                Frame::Checked(found) if checked.is_none() => checked = Some(found.clone()),
                frame => panic!("{frame:?}"),
            }
        }
        (checked.expect("a result"), findings)
    });
    (result, machine.requests())
}

/// A number of qemu-img's JSON.
fn number(json: &str, key: &str) -> u64 {
    let line = json.lines().find_map(|line| line.trim().strip_prefix(&format!("\"{key}\": ")));
    line.map_or(0, |value| value.trim_end_matches(',').parse().expect("a number"))
}

/// Holds our check of `file` against qemu-img's; what is found.
fn same_as_qemu_img(dir: &Path, file: &str) -> Vec<Finding> {
    let bytes = std::fs::read(dir.join(file)).unwrap();
    let arguments = ["check", "--output=json", file];
    let theirs = std::process::Command::new("qemu-img").args(arguments).current_dir(dir).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&theirs.stdout), String::from_utf8_lossy(&theirs.stderr));
    let (ours, findings) = checked(&bytes).unwrap_or_else(|error| panic!("{file}: {error:?}, qemu-img: {err}"));
    assert_eq!(ours.failure.is_some() || ours.check_errors > 0, theirs.status.code() == Some(1), "{file}: {err}");
    let lines = |finding: &Finding| match finding {
        Finding::Qcow2(Qcow2Finding::Overflow { .. }) => 2,
        Finding::Qcow2(
            Qcow2Finding::TooManySnapshots { .. }
            | Qcow2Finding::SnapshotExtraData { .. }
            | Qcow2Finding::SnapshotTableLen { .. },
        ) => 2,
        _ => 1,
    };
    let extra = usize::from(theirs.status.code() == Some(1));
    let cut: String = err.chars().take(2000).collect();
    let shown: Vec<_> = findings.iter().take(20).collect();
    assert_eq!(findings.iter().map(lines).sum::<usize>() + extra, err.lines().count(), "{file}: {shown:?}\n{cut}");
    if ours.failure.is_none() {
        let counts = [
            ("check-errors", ours.check_errors),
            ("corruptions", ours.corruptions),
            ("leaks", ours.leaks),
            ("total-clusters", ours.total_clusters),
            ("allocated-clusters", ours.allocated_clusters),
            ("fragmented-clusters", ours.fragmented_clusters),
            ("compressed-clusters", ours.compressed_clusters),
            ("image-end-offset", ours.image_end_offset),
        ];
        for (key, found) in counts {
            assert_eq!(found, number(&out, key), "{file}: {key}\n{cut}");
        }
    }
    findings
}

/// Images of every kind, with content that is fragmented, compressed, zero and shared.
const KINDS: &[&str] = &[
    "",
    "-o compat=0.10",
    "-o cluster_size=512",
    "-o cluster_size=4k,refcount_bits=1",
    "-o refcount_bits=2",
    "-o refcount_bits=4",
    "-o refcount_bits=8",
    "-o refcount_bits=32",
    "-o refcount_bits=64",
    "-o cluster_size=2M",
    "-o extended_l2=on",
    "-o extended_l2=on,cluster_size=16k,refcount_bits=64",
    "-o lazy_refcounts=on",
    "-o preallocation=metadata",
];

fn images(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for (index, options) in KINDS.iter().enumerate() {
        let file = format!("{index}.qcow2");
        qemu_img(dir, &format!("create -q -f qcow2 {options} {file} 6M").replace("  ", " ")).unwrap();
        qemu_io(dir, &file, "write -P 1 0 700k; write -P 2 4M 200k; write -P 3 2M 64k; write -z 1M 128k").unwrap();
        qemu_io(dir, &file, "write -c -P 9 5M 64k").unwrap_or_default();
        if !options.contains("refcount_bits=1") {
            qemu_img(dir, &format!("snapshot -c one {file}")).unwrap();
            qemu_io(dir, &file, "write -P 4 100k 300k; discard 2M 64k").unwrap();
            qemu_img(dir, &format!("snapshot -c two {file}")).unwrap();
        }
        if !options.contains("compat=0.10") {
            qemu_img(dir, &format!("bitmap --add -g 64k {file} b0")).unwrap();
            qemu_io(dir, &file, "write -P 5 3M 64k").unwrap();
        }
        files.push(file);
    }
    files
}

#[test]
fn sound_images_of_every_kind_are_counted_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    for file in images(dir.path()) {
        assert_eq!(same_as_qemu_img(dir.path(), &file), vec![], "{file}");
    }
}

/// A small generator: the same edits in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Where metadata is: header fields that open all the same, tables, blocks.
fn places(bytes: &[u8]) -> Vec<usize> {
    let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (l1, l1_count, table) = (u64_at(40), u32_at(36), u64_at(48));
    let offset = |at: usize| u64_at(at) & 0x00ff_ffff_ffff_fe00;
    let mut places = Vec::new();
    for index in 0..l1_count.min(4) {
        places.push(l1 + 8 * index);
        let l2 = offset(l1 + 8 * index);
        places.extend((0..20).map(|entry| l2 + 8 * entry).filter(|at| l2 > 0 && at + 8 <= bytes.len()));
    }
    places.extend([table, table + 8]);
    places.extend((0..8).map(|index| offset(table) + 4 * index));
    places.extend([u64_at(64), u64_at(64) + 8].into_iter().filter(|_| u32_at(60) > 0));
    places
}

#[test]
fn bent_images_are_judged_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let mut kinds = std::collections::BTreeSet::new();
    let mut dice = Dice(7);
    for file in images(dir.path()) {
        let bytes = std::fs::read(dir.path().join(&file)).unwrap();
        let places = places(&bytes);
        for _ in 0..40 {
            let mut bent = bytes.clone();
            for _ in 0..=dice.roll(2) {
                let at = places[dice.roll(places.len() as u64) as usize];
                let word = u64::from_be_bytes(bent[at..at + 8].try_into().unwrap());
                let word = match dice.roll(8) {
                    0 => 0,
                    1 => word ^ 1 << 63,
                    2 => word ^ 1 << 62,
                    3 => word ^ 1 << dice.roll(64),
                    4 => word ^ 0x200 << dice.roll(8),
                    5 => word.wrapping_add(bytes.len() as u64 & !511),
                    6 => u64::from_be_bytes(bent[places[0]..places[0] + 8].try_into().unwrap()),
                    _ => 0x8000_0000_0001_0000 + 0x2_0000 * dice.roll(2),
                };
                bent[at..at + 8].copy_from_slice(&word.to_be_bytes());
            }
            std::fs::write(dir.path().join("bent"), &bent).unwrap();
            for finding in same_as_qemu_img(dir.path(), "bent") {
                let name = format!("{finding:?}");
                kinds.insert(name.split([' ', '{', ')']).next().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(kinds.len() >= 14, "{kinds:?}");
}

/// A cluster with two references and a refcount of 2: only the flags of its entries are wrong. And one whose entry lacks
/// the flag.
#[test]
fn flags_are_wrong_though_every_count_is_right() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 6M").unwrap();
    qemu_io(dir, "a.qcow2", "write 0 128k").unwrap();
    let sound = std::fs::read(dir.join("a.qcow2")).unwrap();
    let offset = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00;
    let l2 = offset(offset(40) as usize) as usize;
    let block = offset(offset(48) as usize) as usize;
    let mut shared = sound.clone();
    shared.copy_within(l2..l2 + 8, l2 + 8);
    for (entry, count) in [(l2, 2), (l2 + 8, 0)] {
        shared[block + 2 * (offset(entry) >> 16) as usize + 1] = count;
    }
    let mut unflagged = sound.clone();
    unflagged[l2] &= 0x7f;
    for (bent, count) in [(sound, 0), (shared, 2), (unflagged, 1)] {
        std::fs::write(dir.join("bent"), &bent).unwrap();
        let found = same_as_qemu_img(dir, "bent");
        let is_flag = |finding: &Finding| matches!(finding, Finding::Qcow2(Qcow2Finding::CopiedData { .. }));
        assert!(found.len() == count && found.iter().all(is_flag), "{found:?}");
    }
}

#[test]
fn a_failing_request_is_told_whichever_it_is() {
    let Some(dir) = scratch() else { return };
    qemu_img(dir.path(), "create -q -f qcow2 -o cluster_size=4k a.qcow2 6M").unwrap();
    qemu_io(dir.path(), "a.qcow2", "write 0 700k; write 4M 200k").unwrap();
    qemu_img(dir.path(), "snapshot -c one a.qcow2").unwrap();
    let bytes = std::fs::read(dir.path().join("a.qcow2")).unwrap();
    let (result, requests) = run(&bytes, Fault::None);
    assert!(result.is_ok() && requests > 5);
    for number in 0..requests {
        let (result, _) = run(&bytes, Fault::Request(number));
        assert!(matches!(result, Err(Error::Read(ReadError::Io { .. }))), "{number}: {result:?}");
    }
}

#[test]
fn formats_without_a_check_say_so() {
    let Some(dir) = scratch() else { return };
    qemu_img(dir.path(), "create -q -f qcow a 1M").unwrap();
    let found = checked(&std::fs::read(dir.path().join("a")).unwrap());
    assert_eq!(found, Err(Error::NoCheck { format: Format::Qcow }));
}

#[test]
fn a_broken_snapshot_table_ends_the_check_and_not_the_opening() {
    for (change, finding, failure) in [
        ((70_000, 0), Qcow2Finding::TooManySnapshots { overhanging: 70_000 - 65_536 }, CheckFailure::TooLarge),
        ((1, 77), Qcow2Finding::SnapshotTableOffset, CheckFailure::Invalid),
    ] {
        let image = Qcow2Builder::v3().header(|header| {
            header.nb_snapshots = change.0.into();
            header.snapshots_offset = change.1.into();
        });
        let (checked, findings) = checked(&image.build()).unwrap();
        assert_eq!((findings, checked.failure), (vec![Finding::Qcow2(finding)], Some(failure)));
    }
}

/// 1.3 million L1 entries that name the same L2 table of 64 KiB: as many reads would take minutes.
#[test]
fn a_table_that_is_named_again_and_again_is_read_once() {
    const CLUSTER: u64 = 64 << 10;
    let entries: u64 = 1 << 20;
    let l1 = 3 * CLUSTER;
    let l2 = l1 + entries * 8;
    let mut image = Qcow2Builder::v3().header(|header| {
        header.cluster_bits = 16.into();
        header.l1_size = (entries as u32).into();
        header.l1_table_offset = l1.into();
        header.refcount_table_offset = CLUSTER.into();
    });
    image.bytes = vec![0; l2 as usize];
    image.put(CLUSTER, (2 * CLUSTER).to_be_bytes());
    for index in 0..entries {
        image.put(l1 + 8 * index, l2.to_be_bytes());
    }
    for index in 0..CLUSTER / 8 {
        image.put(l2 + 8 * index, (l2 + CLUSTER).to_be_bytes());
    }
    image.put(l2 + 2 * CLUSTER - 1, [0]);
    let begin = std::time::Instant::now();
    let (found, findings) = checked(&image.build()).unwrap();
    assert!(begin.elapsed() < std::time::Duration::from_secs(30), "{:?}", begin.elapsed());
    // Each cluster has a refcount of 0, and the data cluster more references than 16 bits count.
    let overflows = (entries * CLUSTER / 8 - 65_535) + (entries - 65_535);
    let clusters = l2 / CLUSTER + 2;
    assert_eq!((found.corruptions, found.untold > 0), (overflows + clusters, true), "{:?}", findings.last());
}

#[test]
fn what_no_image_of_its_size_needs_is_refused() {
    // 65,536 snapshots, each with an L1 table as long as the file.
    let mut image = Qcow2Builder::v3();
    image.bytes.resize(8 << 20, 0);
    let table = 4 << 20;
    let mut entry = vec![0; 40];
    entry[..8].copy_from_slice(&512u64.to_be_bytes());
    entry[8..12].copy_from_slice(&1_000_000u32.to_be_bytes());
    for index in 0..65_536u64 {
        image.put(table + 40 * index, &entry);
    }
    let image = image.header(|header| {
        header.nb_snapshots = 65_536.into();
        header.snapshots_offset = table.into();
    });
    assert_eq!(checked(&image.build()), Err(Error::OutOfBudget(Resource::ReadBytes)));
}

/// Bends 32-bit words at `places` of an image of a format with little-endian tables, and holds each against qemu-img.
fn bent_words(format: &str, places: &[usize], words: &[u32], skip: impl Fn(&[u8]) -> bool) {
    let Some(dir) = scratch() else { return };
    qemu_img(dir.path(), &format!("create -q -f {format} a 6M")).unwrap();
    qemu_io(dir.path(), &format!("-f {format} a"), "write 0 2M; write 4M 64k").unwrap();
    let bytes = std::fs::read(dir.path().join("a")).unwrap();
    assert_eq!(same_as_qemu_img(dir.path(), "a"), vec![]);
    for at in places {
        for word in words {
            let mut bent = bytes.clone();
            bent[*at..at + 4].copy_from_slice(&word.to_le_bytes());
            if !skip(&bent) {
                std::fs::write(dir.path().join("bent"), &bent).unwrap();
                same_as_qemu_img(dir.path(), "bent");
            }
        }
    }
    let shorter = [512, 40_000].map(|cut| bytes.len() - cut);
    // A block of Parallels past the end of the file: see below.
    let shorter = shorter.into_iter().filter(|_| format != "parallels");
    for len in shorter.chain([bytes.len() + 70_000, bytes.len() + 3_000_000]) {
        let mut bent = bytes.clone();
        bent.resize(len, 0);
        std::fs::write(dir.path().join("bent"), &bent).unwrap();
        same_as_qemu_img(dir.path(), "bent");
    }
}

#[test]
fn bent_tables_of_vdi_are_judged_as_by_qemu_img() {
    bent_words("vdi", &[0x184, 0x200, 0x204, 0x208, 0x214], &[0, 1, 2, 5, 6, 77, u32::MAX - 1, u32::MAX], |_| false);
}

#[test]
fn bent_tables_of_qed_are_judged_as_by_qemu_img() {
    let l1 = 0x1_0000;
    let l2 = 0x5_0000;
    let words = [0, 1, 0x1_0000, 0x5_0000, 0x6_0000, 0x9_0000, 0xa_0000, 0x1234, 0x7fff_0000, 0x25_0000];
    bent_words("qed", &[l1, l1 + 8, l1 + 80, l2, l2 + 8, l2 + 4096, 0x25_0000, 0x25_0008], &words, |_| false);
}

#[test]
fn bent_tables_of_parallels_are_judged_as_by_qemu_img() {
    // qemu-img dies of blocks past the end of the file, for which its bitmap is too short, and fails where the last
    // block is one that an entry before it has.
    let dies = |bytes: &[u8]| {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let blocks: Vec<u32> = (0..6).map(|index| word(64 + 4 * index)).filter(|block| *block > 0).collect();
        let is_last_twice = blocks.split_last().is_some_and(|(last, rest)| rest.contains(last));
        is_last_twice || blocks.iter().any(|block| *block > 3) || word(48) == 4096
    };
    bent_words("parallels", &[44, 48, 64, 68, 72, 80], &[0, 1, 2, 3, 2048, 4096, 1 << 20, 0x746f_6e59], dies);
}

#[test]
fn blocks_of_parallels_past_the_end_of_the_file_are_told() {
    let Some(dir) = scratch() else { return };
    qemu_img(dir.path(), "create -q -f parallels a 6M").unwrap();
    qemu_io(dir.path(), "-f parallels a", "write 0 2M").unwrap();
    let mut bytes = std::fs::read(dir.path().join("a")).unwrap();
    bytes[64..68].copy_from_slice(&99u32.to_le_bytes());
    let (checked, findings) = checked(&bytes).unwrap();
    let past = ParallelsFinding::PastEnd { index: 0 };
    assert_eq!((findings, checked.corruptions, checked.allocated_clusters), (vec![Finding::Parallels(past)], 1, 1));
}
