//! What an image asks for is drawn from the budget, and ends there.

use super::super::wire::extension;
use crate::ops;
use crate::testing::{INFO, Machine, MemoryDisk, Qcow2Builder, map_all, request};
use instar_abi::error::{Error, Resource};
use instar_abi::format::Format;
use instar_abi::request::{Answer, Budget, Given, LayerId, NeedKind};

fn info(bytes: Vec<u8>, budget: impl FnOnce(&mut Budget)) -> Option<Resource> {
    let disks = [MemoryDisk::new(bytes)];
    let mut request = request(INFO, &disks);
    request.layers[0].format = Some(Format::Qcow2);
    budget(&mut request.budget);
    let mut machine = Machine::new(&request, &disks);
    match ops::info(&request, &mut machine) {
        Ok(_) => None,
        Err(Error::OutOfBudget(resource)) => Some(resource),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_long_name_is_paid_for_from_the_heap() {
    let image = Qcow2Builder::v3()
        .header(|header| {
            header.cluster_bits = 21.into();
            header.l1_table_offset = (4u64 << 20).into();
            header.refcount_table_offset = (2u64 << 20).into();
        })
        .extension(extension::DATA_FILE, &vec![b'x'; 500_000]);
    assert_eq!(info(image.build(), |budget| budget.heap_bytes = 499_999), Some(Resource::Heap));
    assert_eq!(info(image.build(), |budget| budget.heap_bytes = 600_000), None);
}

#[test]
fn many_snapshots_and_extensions_take_steps() {
    let snapshots = Qcow2Builder::v3().header(|header| {
        header.nb_snapshots = 65536.into();
        header.snapshots_offset = (1u64 << 40).into();
    });
    assert_eq!(info(snapshots.build(), |budget| budget.steps = 1000), Some(Resource::Steps));
    let mut extensions = Qcow2Builder::v3().header(|header| header.cluster_bits = 21.into());
    extensions.header.l1_table_offset = 0.into();
    extensions.header.refcount_table_offset = 0.into();
    for at in (112..2 << 20).step_by(8) {
        extensions.put(at, [0x77, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(info(extensions.build(), |budget| budget.steps = 100_000), Some(Resource::Steps));
}

#[test]
fn a_chain_that_leads_back_to_itself_ends() {
    let image = Qcow2Builder::v3()
        .header(|header| {
            header.backing_file_offset = 500.into();
            header.backing_file_size = 4.into();
        })
        .with(500, b"self");
    let disks = [MemoryDisk::new(image.build())];
    let mut request = request(INFO, &disks);
    let given = Given::Layer(LayerId(0));
    request.answers = vec![Answer { layer: LayerId(0), kind: NeedKind::Backing, name: b"self".to_vec(), given }];
    assert_eq!(map_all(&request, &disks).err(), Some(Error::OutOfBudget(Resource::Depth)));
}

/// A disk of 64 TiB of holes costs what its L1 table does, and a tiny one nothing.
#[test]
fn holes_are_mapped_by_the_table() {
    let image = Qcow2Builder::v3().header(|header| {
        header.cluster_bits = 21.into();
        header.size = (1u64 << 46).into();
        header.l1_size = 128.into();
        header.l1_table_offset = (2u64 << 20).into();
        header.refcount_table_offset = (2u64 << 20).into();
    });
    let disks = [MemoryDisk::new(image.build())];
    let mut request = request(INFO, &disks);
    request.budget.steps = 1000;
    assert_eq!(map_all(&request, &disks).map(|extents| extents.len()), Ok(1));
}
