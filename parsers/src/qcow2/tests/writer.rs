//! The plans of a new image, and what a crash leaves of them.

use crate::codec::Codecs;
use crate::plan::Plan;
use crate::plan::invariants::{check_crash_order, check_memory, check_repeatable};
use crate::qcow2::Qcow2;
use crate::qcow2::create::{Finish, Layout, Names, Writer};
use crate::store::Budget;
use crate::testing::{INFO, MemoryDisk, qemu_img, qemu_io, request as job, scratch, with_store};
use instar_abi::error::{Error, Resource, TargetError};
use instar_abi::request::{self, Compression, DiskId, LayerId, Qcow2Options};

/// Bytes of a cluster.
const CLUSTER_SIZE: u64 = 65536;

fn layout() -> Layout {
    Layout::try_from(&Qcow2Options::default()).unwrap()
}

fn budget() -> Budget {
    Budget::from(request::Budget { heap_bytes: 64 << 20, read_bytes: 0, steps: 0, depth: 0 })
}

/// A file with content at these places of the disk, and the plans that are left.
fn written(places: &[u64]) -> (Vec<u8>, Finish) {
    let mut writer = Writer::new(&mut budget(), layout(), 4 << 30, DiskId(0), u64::MAX).unwrap();
    let mut file = Vec::new();
    let mut put = |at: u64, bytes: &[u8]| {
        let end = at as usize + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[at as usize..end].copy_from_slice(bytes);
    };
    for place in places {
        let parts = writer.place(*place..place + CLUSTER_SIZE).unwrap();
        assert_eq!(parts.len(), 1);
        put(parts[0].0, &[7; CLUSTER_SIZE as usize]);
        for (at, table) in writer.settle(if places.is_sorted() { *place } else { 0 }) {
            put(at, &table);
        }
    }
    (file, writer.finish().unwrap())
}

const PLACES: [u64; 4] = [0, 65536, 1 << 30, (4 << 30) - 65536];

#[test]
fn plans_satisfy_the_rules_and_are_the_same_twice() {
    let plans = check_repeatable(|| {
        let (_, mut finish) = written(&PLACES);
        std::iter::from_fn(|| finish.next_plan()).collect::<Vec<_>>()
    });
    assert_eq!(plans.len(), 1);
    plans[0].check(96).unwrap();
    check_memory(&plans, 1 << 21);
}

/// An image of small clusters with streams that share them, plain clusters in between, and a tail in no whole sector.
/// `indices`: its clusters, in the order in which they come.
fn packed(options: &Qcow2Options, indices: &[u64]) -> (Vec<u8>, Finish) {
    let layout = Layout::try_from(options).unwrap();
    let mut writer = Writer::new(&mut budget(), layout, 1 << 20, DiskId(0), u64::MAX).unwrap();
    let (mut file, mut complete) = (Vec::new(), Vec::new());
    let cluster = layout.cluster_size();
    for &index in indices {
        let start = index * cluster;
        if index % 5 == 4 {
            let parts = writer.place(start..start + cluster).unwrap();
            complete.extend(parts.iter().map(|(at, len)| (*at, vec![7; *len as usize])));
        } else {
            let plain: Vec<u8> = (0..cluster).map(|at| (at % (7 + index)) as u8).collect();
            let stream = Codecs::FULL.encoder(Some(Compression::Zlib)).encode(&plain).expect("it shrinks");
            writer.pack(start, &stream, &mut complete).unwrap();
        }
        complete.extend(writer.whole_sectors());
        complete.extend(writer.settle(if indices.is_sorted() { start } else { 0 }));
    }
    for (at, bytes) in complete {
        let end = at as usize + bytes.len();
        file.resize(file.len().max(end), 0);
        file[at as usize..end].copy_from_slice(&bytes);
    }
    (file, writer.finish().unwrap())
}

/// Checks a plan, and crashes it everywhere: the files that have a header then. All others are no image.
fn complete_after_crashes(plan: &Plan, file: &[u8], seed: u64) -> Vec<Vec<u8>> {
    plan.check(96).unwrap();
    check_memory(std::slice::from_ref(plan), 1 << 21);
    let (mut none, mut complete) = (0, Vec::new());
    check_crash_order(plan, file, seed, |epochs, crashed| {
        if crashed.starts_with(b"QFI\xfb") {
            assert!(epochs > 0, "a header before the tables");
            complete.push(crashed);
        } else {
            none += 1;
        }
    });
    assert!(none > 16 && !complete.is_empty());
    complete.dedup();
    complete
}

#[test]
fn after_any_crash_there_is_no_image_or_a_clean_one() {
    let mut shuffled = PLACES;
    shuffled.reverse();
    let mut images = vec![written(&PLACES), written(&shuffled)];
    let in_order: Vec<u64> = (0..24).collect();
    let any_order: Vec<u64> = (0..24).map(|index| index * 7 % 24).collect();
    for (version, cluster_bits, refcount_order) in [(3, 9, 4), (3, 12, 1), (2, 12, 4), (3, 16, 6)] {
        let options = Qcow2Options { version, cluster_bits, refcount_order, ..Qcow2Options::default() };
        images.extend([&in_order, &any_order].map(|indices| packed(&options, indices)));
    }
    for (file, mut finish) in images {
        let complete = complete_after_crashes(&finish.next_plan().unwrap(), &file, 1);
        let Some(dir) = scratch() else { return };
        for image in complete {
            std::fs::write(dir.path().join("a.qcow2"), image).unwrap();
            let report = qemu_img(dir.path(), "check a.qcow2").unwrap();
            assert!(report.starts_with("No errors were found"), "{report}");
        }
    }
}

/// Applies what is complete to a file.
fn put(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    file.resize(file.len().max(end), 0);
    file[at as usize..end].copy_from_slice(bytes);
}

/// An image of every kind of entry: zeros, reserved clusters, content, with what the header names.
fn mixed(options: &Qcow2Options, names: Names, is_preallocated: bool) -> (Vec<u8>, Finish) {
    let layout = Layout::try_from(options).unwrap();
    let writer = Writer::new(&mut budget(), layout, 1 << 20, DiskId(0), u64::MAX).unwrap();
    let has_data_file = names.data_file.is_some();
    let writer = writer.with_names(names).unwrap();
    let mut writer = if is_preallocated { writer.preallocated() } else { writer };
    let (mut file, mut complete) = (Vec::new(), Vec::new());
    let cluster = layout.cluster_size();
    for index in 0..(1 << 20) / cluster {
        let range = index * cluster..(index + 1) * cluster;
        match index % 4 {
            0 => {
                let parts = writer.place(range).unwrap();
                let parts = parts.iter().filter(|_| !has_data_file);
                complete.extend(parts.map(|(at, len)| (*at, vec![7; *len as usize])));
            }
            1 if options.version >= 3 => writer.zero(range).unwrap(),
            2 if is_preallocated => writer.reserve(range).unwrap(),
            _ if is_preallocated => writer.reserve(range).unwrap(),
            _ => {}
        }
        complete.extend(writer.settle(index * cluster));
    }
    complete.iter().for_each(|(at, bytes)| put(&mut file, *at, bytes));
    (file, writer.finish().unwrap())
}

/// The backing file `b` or `bb`, by a path of this length.
fn names(backing_len: Option<usize>, data_file: Option<bool>) -> Names {
    let path = |len: usize| ["./".repeat(len.div_ceil(2) - 1), "b".repeat(2 - len % 2)].concat();
    Names {
        backing: backing_len.map(|len| (path(len).into_bytes(), b"raw".to_vec())),
        data_file: data_file.map(|raw| (b"a.data".to_vec(), raw)),
    }
}

#[test]
fn after_any_crash_a_header_that_is_there_is_whole() {
    let Some(dir) = scratch() else { return };
    for file in ["a.data", "b", "bb"] {
        std::fs::write(dir.path().join(file), vec![7; 1 << 20]).unwrap();
    }
    for (version, cluster_bits, extended_l2, backing_len, data_file, is_preallocated) in [
        (3, 9, false, Some(300), None, false),
        (3, 12, false, Some(1023), None, false),
        (2, 12, false, Some(1023), None, false),
        (3, 16, false, Some(1023), None, false),
        (3, 16, true, Some(600), None, true),
        (3, 14, true, None, None, true),
        (3, 12, false, None, None, true),
        (3, 12, false, None, Some(true), true),
        (3, 13, false, None, Some(false), false),
        (3, 16, true, Some(1023), Some(false), false),
    ] {
        let options = Qcow2Options { version, cluster_bits, extended_l2, ..Qcow2Options::default() };
        let (file, mut finish) = mixed(&options, names(backing_len, data_file), is_preallocated);
        let plan = finish.next_plan().unwrap();
        assert_eq!(finish.next_plan(), None);
        for mut image in complete_after_crashes(&plan, &file, 5) {
            image.resize(finish.file_len() as usize, 0);
            std::fs::write(dir.path().join("a.qcow2"), image).unwrap();
            let report = qemu_img(dir.path(), "check a.qcow2").unwrap_or_else(|error| panic!("{options:?}: {error}"));
            assert!(report.starts_with("No errors were found"), "{report}");
            let info = qemu_img(dir.path(), "info --output=json a.qcow2").unwrap();
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["backing-filename"].as_str().map(str::len), backing_len);
            assert_eq!(info["format-specific"]["data"]["data-file"].as_str(), data_file.map(|_| "a.data"));
        }
    }
}

#[test]
fn after_any_crash_an_image_that_exists_is_the_old_one_or_the_new() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    for options in
        ["cluster_size=512", "compat=0.10,cluster_size=4k", "extended_l2=on,cluster_size=16k,refcount_bits=1"]
    {
        qemu_img(dir, &format!("create -q -f qcow2 -o {options} old.qcow2 1M")).unwrap();
        qemu_io(dir, "old.qcow2", "write -P 1 0 600k").unwrap();
        qemu_img(dir, "convert -O raw old.qcow2 old.raw").unwrap();
        let old = std::fs::read(dir.join("old.qcow2")).unwrap();
        let disks = [MemoryDisk::new(old.clone())];
        let job = job(INFO, &disks);
        let mut writer = with_store(&job, &disks, |io| {
            let image = Qcow2::open(io, LayerId(0), DiskId(0)).unwrap();
            Writer::behind(io, &image, u64::MAX).unwrap()
        });
        let mut file = old.clone();
        for start in [0, 256 << 10, 768 << 10] {
            let parts = writer.place(start..start + (64 << 10)).unwrap();
            writer.settle(start).for_each(|(at, bytes)| put(&mut file, at, &bytes));
            parts.iter().for_each(|(at, len)| put(&mut file, *at, &vec![2; *len as usize]));
        }
        let mut new = vec![0; 1 << 20];
        [0, 256 << 10, 768 << 10].iter().for_each(|&start| new[start..start + (64 << 10)].fill(2));
        let mut finish = writer.finish().unwrap();
        let plan = finish.next_plan().unwrap();
        plan.check(96).unwrap();
        check_memory(std::slice::from_ref(&plan), 1 << 21);
        let mut states = [0, 0];
        check_crash_order(&plan, &file, 9, |_, crashed| {
            assert!(crashed[512..old.len()] == old[512..], "the old state is touched");
            let is_new = crashed[..512] != old[..512];
            states[usize::from(is_new)] += 1;
            if states[usize::from(is_new)] > 3 {
                return;
            }
            std::fs::write(dir.join("a.qcow2"), &crashed).unwrap();
            assert!(qemu_img(dir, "check a.qcow2").unwrap().starts_with("No errors"), "{options}");
            qemu_img(dir, "convert -O raw a.qcow2 a.raw").unwrap();
            let content = std::fs::read(dir.join("a.raw")).unwrap();
            assert!(content == if is_new { new.clone() } else { std::fs::read(dir.join("old.raw")).unwrap() });
        });
        assert!(states[0] > 16 && states[1] > 3, "{states:?}");
    }
}

/// What streams share is counted on the heap: a budget that is too small is told, and a small one is enough for much.
#[test]
fn counts_of_streams_are_paid_for() {
    let pack = |heap_bytes: u64| {
        let given = request::Budget { heap_bytes, read_bytes: 0, steps: 0, depth: 0 };
        let options = Qcow2Options { cluster_bits: 9, ..Qcow2Options::default() };
        let layout = Layout::try_from(&options).unwrap();
        let mut writer = Writer::new(&mut Budget::from(given), layout, 64 << 20, DiskId(0), u64::MAX).unwrap();
        for index in 0..1 << 17 {
            let mut complete = Vec::new();
            writer.pack(index * 512, &[1; 300], &mut complete)?;
            complete.extend(writer.settle(index * 512));
        }
        Ok(())
    };
    // An L1 table of 2048 entries, and half of the rest for five pages of 32 KiB.
    assert_eq!(pack((16 << 10) + 2 * 5 * (32 << 10)), Ok(()));
    assert_eq!(pack((16 << 10) + 2 * 4 * (32 << 10)), Err(Error::OutOfBudget(Resource::Heap)));
}

/// Refcount blocks by the thousand: they come in plans of 1 MiB.
#[test]
fn a_large_image_is_finished_in_bounded_memory() {
    let mut writer = Writer::new(&mut budget(), layout(), 1 << 50, DiskId(0), u64::MAX).unwrap();
    for cluster in 0..1 << 21 {
        writer.place(cluster * CLUSTER_SIZE..(cluster + 1) * CLUSTER_SIZE).unwrap();
        writer.settle(cluster * CLUSTER_SIZE).for_each(drop);
    }
    let mut finish = writer.finish().unwrap();
    let mut end = 0;
    while let Some(plan) = finish.next_plan() {
        plan.check(96).unwrap();
        // The L1 table is the largest piece.
        check_memory(std::slice::from_ref(&plan), 1 << 24);
        end = plan.final_len;
    }
    assert_eq!(end, finish.file_len());
}

#[test]
fn a_disk_of_more_than_2_pib_does_not_fit() {
    let max = 2 << 50;
    assert!(Writer::new(&mut budget(), layout(), max, DiskId(0), u64::MAX).is_ok());
    let refused = Writer::new(&mut budget(), layout(), max + 512, DiskId(0), u64::MAX).err();
    let too_large = TargetError::TooLarge { virtual_size: max + 512, max };
    assert_eq!(refused, Some(Error::Target(too_large)));
}
