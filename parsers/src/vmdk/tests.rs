//! Sparse extents by hand.

use crate::image::{Extent, Kind};
use crate::testing::{INFO, MemoryDisk, map_all, request};
use instar_abi::format::Format;

/// A grain of 64 KiB, and a table of 512 of them.
const GRAIN: u64 = 64 << 10;
const TABLE: u64 = 512 * GRAIN;

/// A sparse extent whose directory has `tables` entries, all of them empty: nothing is allocated.
fn without_tables(tables: u64) -> Vec<u8> {
    const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n";
    const DIRECTORY: u64 = 2;
    let mut file = vec![0; (DIRECTORY * 512 + tables * 4).next_multiple_of(512) as usize];
    let fields: [(usize, &[u8]); 9] = [
        (0, b"KDMV\x01\0\0\0\x03"),
        (12, &(tables * TABLE / 512).to_le_bytes()),
        (20, &(GRAIN / 512).to_le_bytes()),
        (28, &1u64.to_le_bytes()),
        (36, &1u64.to_le_bytes()),
        (44, &512u32.to_le_bytes()),
        (56, &DIRECTORY.to_le_bytes()),
        (64, &1u64.to_le_bytes()),
        (73, b"\n \r\n"),
    ];
    for (at, bytes) in fields.into_iter().chain([(512, DESCRIPTOR)]) {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    file
}

/// A directory of 2.6 million empty entries, in a file of 10 MiB, took a step for each grain of its disk: a thousand million.
#[test]
fn a_missing_grain_table_is_one_step() {
    const TABLES: u64 = 4096;
    let disks = [MemoryDisk::new(without_tables(TABLES))];
    let mut request = request(INFO, &disks);
    request.layers[0].format = Some(Format::Vmdk);
    // There are two million grains.
    request.budget.steps = 4 * TABLES;
    let hole = Extent { start: 0, len: TABLES * TABLE, kind: Kind::Hole };
    assert_eq!(map_all(&request, &disks), Ok(vec![(hole, 0)]));
}
