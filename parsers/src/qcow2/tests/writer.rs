//! The plans of a new image, and what a crash leaves of them.

use crate::codec::Encoder;
use crate::plan::sim::every_crash;
use crate::qcow2::create::{Finish, Layout, Writer};
use crate::store::Budget;
use crate::testing::{qemu_img, scratch};
use instar_abi::error::{Error, TargetError};
use instar_abi::request::{self, DiskId, Qcow2Options};

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
        let placed = writer.place(*place..place + CLUSTER_SIZE).unwrap();
        assert_eq!(placed.parts.len(), 1);
        put(placed.parts[0].0, &[7; CLUSTER_SIZE as usize]);
        for (at, table) in placed.tables {
            put(at, &table);
        }
    }
    (file, writer.finish().unwrap())
}

const PLACES: [u64; 4] = [0, 65536, 1 << 30, (4 << 30) - 65536];

#[test]
fn plans_satisfy_the_rules_and_are_the_same_twice() {
    let (_, mut first) = written(&PLACES);
    let (_, mut second) = written(&PLACES);
    let mut plans = 0;
    while let Some(plan) = first.next_plan() {
        plan.check(96).unwrap();
        assert_eq!(Some(plan), second.next_plan());
        plans += 1;
    }
    assert_eq!(plans, 1);
    assert_eq!(second.next_plan(), None);
}

/// An image of small clusters with streams that share them, plain clusters in between, and a tail in no whole sector.
fn packed(options: &Qcow2Options) -> (Vec<u8>, Finish) {
    let layout = Layout::try_from(options).unwrap();
    let mut writer = Writer::new(&mut budget(), layout, 1 << 20, DiskId(0), u64::MAX).unwrap();
    let (mut file, mut complete) = (Vec::new(), Vec::new());
    let cluster = layout.cluster_size();
    for index in 0..24u64 {
        let start = index * cluster;
        if index % 5 == 4 {
            let placed = writer.place(start..start + cluster).unwrap();
            complete.extend(placed.tables);
            complete.extend(placed.parts.iter().map(|(at, len)| (*at, vec![7; *len as usize])));
        } else {
            let plain: Vec<u8> = (0..cluster).map(|at| (at % (7 + index)) as u8).collect();
            let stream = Encoder::default().encode(&plain).expect("it shrinks");
            writer.pack(start, &stream, &mut complete).unwrap();
        }
        complete.extend(writer.whole_sectors());
    }
    for (at, bytes) in complete {
        let end = at as usize + bytes.len();
        file.resize(file.len().max(end), 0);
        file[at as usize..end].copy_from_slice(&bytes);
    }
    (file, writer.finish().unwrap())
}

#[test]
fn after_any_crash_there_is_no_image_or_a_clean_one() {
    let mut images = vec![written(&PLACES)];
    for (version, cluster_bits, refcount_order) in [(3, 9, 4), (3, 12, 1), (2, 12, 4), (3, 16, 6)] {
        images.push(packed(&Qcow2Options { version, cluster_bits, refcount_order, ..Qcow2Options::default() }));
    }
    for (file, mut finish) in images {
        let plan = finish.next_plan().unwrap();
        plan.check(96).unwrap();
        let (mut none, mut complete) = (0, Vec::new());
        every_crash(&plan, &file, 1, |epochs, crashed| {
            if crashed.starts_with(b"QFI\xfb") {
                assert!(epochs > 0, "a header before the tables");
                complete.push(crashed);
            } else {
                none += 1;
            }
        });
        assert!(none > 16 && !complete.is_empty());
        let Some(dir) = scratch() else { return };
        complete.dedup();
        for image in complete {
            std::fs::write(dir.path().join("a.qcow2"), image).unwrap();
            let report = qemu_img(dir.path(), "check a.qcow2").unwrap();
            assert!(report.starts_with("No errors were found"), "{report}");
        }
    }
}

/// Refcount blocks by the thousand: they come in plans of 1 MiB.
#[test]
fn a_large_image_is_finished_in_bounded_memory() {
    let mut writer = Writer::new(&mut budget(), layout(), 1 << 50, DiskId(0), u64::MAX).unwrap();
    for cluster in 0..1 << 21 {
        writer.place(cluster * CLUSTER_SIZE..(cluster + 1) * CLUSTER_SIZE).unwrap();
    }
    let mut finish = writer.finish().unwrap();
    let mut end = 0;
    while let Some(plan) = finish.next_plan() {
        plan.check(96).unwrap();
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
