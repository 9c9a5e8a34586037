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

/// Inputs of `qcow2_struct`.
pub fn structures() -> Vec<(String, Vec<u8>)> {
    let input = |shape: u8, extra: u8, edits: &[(u8, u8, u16, u64)]| {
        let mut input = vec![shape, extra];
        for (kind, index, place, value) in edits {
            input.extend([*kind, *index]);
            input.extend(place.to_le_bytes());
            input.extend(value.to_le_bytes());
        }
        input
    };
    // Widths in bits 2 to 4.
    let mut inputs: Vec<(String, Vec<u8>)> =
        (0..7).map(|order| (format!("sound-{}-bit", 1 << order), input(order << 2, 1, &[]))).collect();
    let data = |cluster: u64| (cluster << 8) | 1;
    let others = [
        ("sound-4k", input(0x13, 3, &[])),
        ("sound-v2", input(0x50, 1, &[])),
        ("sound-extended", input(0x30, 0, &[])),
        ("sound-extended-snapshot", input(0x30, 1, &[])),
        ("leaked", input(0x10, 2, &[])),
        ("refcounts", input(0x10, 0, &[(5, 0, 6, 0), (5, 0, 7, 2)])),
        ("l1", input(0x10, 0, &[(1, 1, 0, 0), (1, 2, 0, (1 << 63) | (4 * 512))])),
        ("shared", input(0x10, 0, &[(3, 0, 1, data(6)), (3, 1, 0, data(6))])),
        ("shared-counted", input(0x10, 0, &[(3, 0, 1, data(6)), (5, 0, 6, 2), (5, 0, 7, 0)])),
        ("unflagged", input(0x10, 0, &[(3, 0, 0, data(6) & !1)])),
        ("unaligned", input(0x10, 1, &[(2, 0, 1, (1 << 63) | 777)])),
        ("far", input(0x10, 0, &[(2, 0, 1, 1 << 40)])),
        ("table", input(0x10, 0, &[(6, 0, 0, 0x1200)])),
        ("snapshot", input(0x10, 1, &[(7, 7, 0, 0), (7, 3, 36, 0x0100_0000)])),
        ("short", input(0x10, 0, &[(8, 0, 0, 4700)])),
        ("long", input(0x10, 0, &[(8, 0, 0, 100_000)])),
        ("larger", input(0x10, 0, &[(0, 1, 24, 0x0000_0100_0000_0000)])),
        ("subclusters", input(0x30, 0, &[(4, 0, 0, u64::MAX), (4, 0, 9, 7)])),
    ];
    inputs.extend(others.map(|(name, input)| (name.to_owned(), input)));
    inputs
}

/// Inputs of `chs_rounded_size`: sizes around which another geometry is taken.
pub fn capacities() -> Vec<(String, Vec<u8>)> {
    [0, 1, 4 << 20, 69632 * 512, 104_349 * 512, 278_528 * 512, 16 * 1024 * 31 * 512, 65535 * 16 * 63 * 512]
        .into_iter()
        .chain([65535 * 16 * 255 * 512, 0xff00_0000 * 512, u64::MAX])
        .map(|size| (format!("{size}"), size.to_le_bytes().to_vec()))
        .collect()
}
