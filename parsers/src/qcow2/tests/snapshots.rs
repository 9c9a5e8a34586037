//! Snapshot tables by hand: what is found by which text.

use crate::qcow2::invariants::check_found;
use crate::qcow2::{Header, Snapshot, Snapshots};
use crate::testing::{INFO, MemoryDisk, Qcow2Builder, request, with_store};
use instar_abi::request::{DiskId, LayerId, SnapshotName};

/// An entry without extra data.
fn entry(id: &str, name: &str) -> Vec<u8> {
    let [id_len, name_len] = [id.len() as u16, name.len() as u16].map(u16::to_be_bytes);
    let mut bytes = [&[0; 12][..], &id_len, &name_len, &[0; 24], id.as_bytes(), name.as_bytes()].concat();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// An image with these snapshots, each an identifier and a name.
fn image(snapshots: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = Qcow2Builder::v3();
    let at = builder.cluster(&[]);
    builder.put(at, snapshots.iter().flat_map(|(id, name)| entry(id, name)).collect::<Vec<u8>>());
    let builder = builder.header(|header| {
        header.nb_snapshots = (snapshots.len() as u32).into();
        header.snapshots_offset = at.into();
    });
    builder.build()
}

#[test]
fn an_identifier_is_found_before_any_name_and_the_first_of_those_alike() {
    type Kind = fn(Vec<u8>) -> SnapshotName;
    let (id, name, either): (Kind, Kind, Kind) = (SnapshotName::Id, SnapshotName::Name, SnapshotName::IdOrName);
    let disks = [MemoryDisk::new(image(&[("1", "2"), ("2", "one"), ("3", "one"), ("3", "four")]))];
    with_store(&request(INFO, &disks), &disks, |io| {
        let header = Header::read(io, LayerId(0), DiskId(0)).expect("sound");
        let mut walk = Snapshots::new(LayerId(0), DiskId(0), &header);
        let whole = walk.clone();
        let all: Vec<Snapshot> = core::iter::from_fn(|| walk.next(io).expect("sound")).collect();
        assert_eq!(all.len(), 4);
        for (kind, text, expected) in [
            (either, "2", Some(1)),
            (name, "2", Some(0)),
            (id, "2", Some(1)),
            (either, "one", Some(1)),
            (name, "one", Some(1)),
            (id, "one", None),
            (either, "3", Some(2)),
            (either, "four", Some(3)),
            (either, "", None),
        ] {
            let wanted = kind(text.as_bytes().to_vec());
            let found = whole.clone().find(io, &wanted).expect("sound");
            assert_eq!(found.as_ref(), expected.map(|index: usize| &all[index]), "{wanted:?}");
            check_found(&all, &wanted, found.as_ref());
        }
    });
}
