//! Inputs of the operations that only read.

use super::{blocks, disks, qcow2};

/// Inputs of `map_iter`.
pub fn maps() -> Vec<(String, Vec<u8>)> {
    let input = |how: u8, bytes: &[u8]| {
        let mut input = 70_000u64.to_le_bytes().to_vec();
        input.extend(3_000_000u64.to_le_bytes());
        input.push(how);
        input.extend(bytes);
        input
    };
    let blocks = blocks::images().into_iter().map(|(name, bytes)| (name, input(0, &bytes)));
    let small = |(_, bytes): &(String, Vec<u8>)| bytes.len() <= 16 << 10;
    let qcow2 = qcow2::images().into_iter().filter(small).take(24).enumerate();
    let qcow2 = qcow2.map(|(index, (name, bytes))| (name, input(0x80 | (index as u8 % 2), &bytes)));
    let raw = disks::partitioned().into_iter().filter(small).take(2).map(|(name, bytes)| (name, input(0x40, &bytes)));
    let holes = [("raw-with-a-hole".to_owned(), input(0x41, &[7; 60_000]))];
    blocks.chain(qcow2).chain(raw).chain(holes).collect()
}

/// Inputs of `measure_calc`.
pub fn sizes() -> Vec<(String, Vec<u8>)> {
    let input = |cluster: u8, refcount: u8, flags: u8, size: u64, luks: u32| {
        let mut input = vec![cluster, refcount, flags];
        input.extend(size.to_le_bytes());
        input.extend(luks.to_le_bytes());
        input
    };
    [
        ("default-1g", input(8, 4, 0, 1 << 30, 0)),
        ("empty", input(8, 4, 0, 0, 0)),
        ("odd", input(8, 4, 0, 1000, 0)),
        ("512-bytes", input(1, 4, 0, 137_438_953_472, 0)),
        ("2m-1-bit", input(13, 0, 0, 1 << 45, 0)),
        ("extended-64-bits", input(8, 6, 1, 1 << 40, 0)),
        ("version-2", input(8, 4, 2, 1 << 33, 0)),
        ("allocated", input(8, 4, 4, 1 << 33, 2 << 20)),
        ("raw", input(8, 4, 8, 12345, 2 << 20)),
        ("too-large", input(8, 4, 0, u64::MAX, 0)),
        ("largest", input(13, 6, 1, i64::MAX as u64, 0)),
    ]
    .map(|(name, input)| (name.to_owned(), input))
    .into()
}

/// Inputs of `dd_window`.
pub fn parts() -> Vec<(String, Vec<u8>)> {
    let input = |size: u64, start: u64, len: u64, flags: u8| {
        let mut input: Vec<u8> = [size, start, len].iter().flat_map(|number| number.to_le_bytes()).collect();
        input.push(flags);
        input
    };
    [
        ("all", input(200_000, 0, u64::MAX, 1)),
        ("middle", input(200_000, 66_000, 70_001, 0)),
        ("end-of-a-sector", input(1000, 990, 100, 0)),
        ("past-the-end", input(1000, 5000, 10, 1)),
        ("at-the-end", input(1024, 1024, 10, 1)),
        ("nothing", input(1024, 512, 0, 0)),
        ("overflow", input(1024, u64::MAX, u64::MAX, 1)),
        ("to-qcow2", input(200_000, 3, 150_000, 2)),
        ("lanes", input(262_144, 1, 262_000, 12)),
    ]
    .map(|(name, input)| (name.to_owned(), input))
    .into()
}
