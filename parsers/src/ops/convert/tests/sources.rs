//! Several sources, internal snapshots, and raw targets that exist.

use super::{check_clean, convert, convert_full, convert_of, job, read, run};
use crate::testing::{Machine, MemoryDisk, qemu_img, qemu_io, scratch};
use instar_abi::error::{Error, TargetError};
use instar_abi::format::Format;
use instar_abi::request::{Before, Compression, LayerId, Qcow2Options, Request, SnapshotName, TargetFormat};

#[test]
fn sources_are_read_one_behind_the_other() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), vec![1; 700_001]).unwrap();
    std::fs::write(dir.join("empty.raw"), []).unwrap();
    qemu_img(dir, "create -q -f qcow2 b.qcow2 5M").unwrap();
    qemu_io(dir, "b.qcow2", "write -P 2 0 100k; write -P 3 3M 70k").unwrap();
    qemu_img(dir, "convert -O qcow2 -c b.qcow2 c.qcow2").unwrap();
    let names = ["a.raw", "empty.raw", "b.qcow2", "c.qcow2", "a.raw"];
    qemu_img(dir, &format!("convert -O raw {} expected.raw", names.join(" "))).unwrap();
    let expected = read(dir, "expected.raw");
    let mut first = None;
    for (lanes, target) in [1, 2, 4].into_iter().flat_map(|lanes| {
        let compressed = Qcow2Options { compress: true, ..Qcow2Options::default() };
        [TargetFormat::Raw, TargetFormat::Qcow2(compressed)].map(|target| (lanes, target))
    }) {
        let (mut job, disks) = job(names.iter().map(|name| read(dir, name)).collect(), target.clone());
        job.lanes = lanes;
        for (index, name) in names.iter().enumerate() {
            job.layers[index].format = name.ends_with("raw").then_some(Format::Raw);
        }
        convert_of(&mut job).sources = (0..names.len()).map(|index| LayerId(index as u32)).collect();
        let ours = run(&job, &disks).unwrap();
        if target == TargetFormat::Raw {
            assert!(ours == expected);
        } else {
            assert!(*first.get_or_insert_with(|| ours.clone()) == ours, "bytes depend on lanes");
            check_clean(dir, &ours, &expected);
        }
    }
}

#[test]
fn a_snapshot_is_found_by_identifier_then_name_and_converted_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    for compat in ["0.10", "1.1"] {
        qemu_img(dir, &format!("create -q -f qcow2 -o compat={compat},cluster_size=4k a.qcow2 3M")).unwrap();
        qemu_io(dir, "a.qcow2", "write -P 1 0 1M").unwrap();
        qemu_img(dir, "snapshot -c 2 a.qcow2").unwrap();
        qemu_io(dir, "a.qcow2", "write -P 2 512k 1M").unwrap();
        qemu_img(dir, "snapshot -c two a.qcow2").unwrap();
        qemu_io(dir, "a.qcow2", "write -P 3 0 3M").unwrap();
        let text = |text: &str| text.as_bytes().to_vec();
        for (name, theirs) in [
            (SnapshotName::IdOrName(text("2")), "2"),
            (SnapshotName::IdOrName(text("two")), "two"),
            (SnapshotName::Id(text("1")), "snapshot.id=1"),
            (SnapshotName::Name(text("2")), "snapshot.name=2"),
        ] {
            qemu_img(dir, &format!("convert -l {theirs} -O raw a.qcow2 expected.raw")).unwrap();
            let (mut job, disks) = job(vec![read(dir, "a.qcow2")], TargetFormat::Raw);
            convert_of(&mut job).snapshot = Some(name);
            assert!(run(&job, &disks) == Ok(read(dir, "expected.raw")), "{compat} {theirs}");
        }
        for name in [SnapshotName::Id(text("two")), SnapshotName::Name(text("1")), SnapshotName::IdOrName(text("3"))] {
            let (mut job, disks) = job(vec![read(dir, "a.qcow2")], TargetFormat::Raw);
            convert_of(&mut job).snapshot = Some(name);
            assert_eq!(run(&job, &disks), Err(Error::Snapshot { format: Format::Qcow2 }));
            assert_eq!(disks[1].written(), 0);
        }
    }
}

/// The table of a snapshot may be shorter than the disk has become.
#[test]
fn a_snapshot_from_before_the_disk_grew_reads_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 -o cluster_size=512 a.qcow2 100k").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 0 100k").unwrap();
    qemu_img(dir, "snapshot -c one a.qcow2").unwrap();
    qemu_img(dir, "resize -q a.qcow2 9M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 2 0 9M").unwrap();
    qemu_img(dir, "convert -l one -O raw a.qcow2 expected.raw").unwrap();
    let (mut job, disks) = job(vec![read(dir, "a.qcow2")], TargetFormat::Raw);
    convert_of(&mut job).snapshot = Some(SnapshotName::IdOrName(b"one".to_vec()));
    assert!(run(&job, &disks) == Ok(read(dir, "expected.raw")));
}

#[test]
fn a_raw_target_that_exists_is_written_over_and_keeps_its_length() {
    let mut source = vec![0; 3 << 20];
    source[70_000..200_000].fill(5);
    let len = 4 << 20;
    for (before, old) in [(Before::Unknown { len }, 0xaa), (Before::Zeros { len }, 0)] {
        for lanes in [1, 4] {
            let (mut job, disks) = job(vec![source.clone(), vec![old; len as usize]], TargetFormat::Raw);
            // The second disk is the target; it exists.
            let (mut disks, target) = (disks, job.disks[2].clone());
            disks.pop();
            job.disks = vec![job.disks[0].clone(), target];
            job.lanes = lanes;
            job.layers[0].format = Some(Format::Raw);
            convert_of(&mut job).target = instar_abi::request::DiskId(1);
            convert_of(&mut job).before = before;
            let mut expected = source.clone();
            expected.resize(len as usize, old);
            assert!(run(&job, &disks) == Ok(expected), "{before:?}");
            let written = if old == 0 { 131_072 } else { 3 << 20 };
            assert_eq!(disks[1].written(), written, "{before:?}");
        }
    }
    let (mut job, disks) = job(vec![source], TargetFormat::Raw);
    job.layers[0].format = Some(Format::Raw);
    convert_of(&mut job).before = Before::Zeros { len: (3 << 20) - 512 };
    let expected = TargetError::TooSmall { len: (3 << 20) - 512, needed: 3 << 20 };
    assert_eq!(run(&job, &disks), Err(Error::Target(expected)));
}

#[test]
fn what_this_op_cannot_do_is_refused() {
    let (mut over_existing, _) = job(vec![vec![1; 4096]], TargetFormat::Qcow2(Qcow2Options::default()));
    convert_of(&mut over_existing).before = Before::Unknown { len: 1 << 20 };
    let compressing =
        |compression| TargetFormat::Qcow2(Qcow2Options { compress: true, compression, ..Qcow2Options::default() });
    let [zlib, zstd] = [Compression::Zlib, Compression::Zstd].map(|c| job(vec![vec![1; 4096]], compressing(c)).0);
    for (job, op) in
        [(over_existing, convert_full::<Machine> as fn(&Request, &mut Machine) -> _), (zlib, convert), (zstd, convert)]
    {
        let target = MemoryDisk::default();
        let mut machine = Machine::new(&job, &[MemoryDisk::new(vec![1; 4096]), target.clone()]);
        assert_eq!(op(&job, &mut machine), Err(Error::Target(TargetError::Unsupported)));
        assert_eq!(target.written(), 0);
    }
}
