//! Snapshot tables and bitmap directories of qcow2, and images to be measured.

use super::blocks::{fields, images};
use super::{formats, qcow2};

type Set = Vec<(String, Vec<u8>)>;

/// An entry of a snapshot table, up to the next one.
fn snapshot(id: &str, name: &str, l1: u64, extra: &[u8]) -> Vec<u8> {
    let mut entry = [
        &l1.to_be_bytes()[..],
        &3u32.to_be_bytes(),
        &(id.len() as u16).to_be_bytes(),
        &(name.len() as u16).to_be_bytes(),
        &[0; 16],
        &7u32.to_be_bytes(),
        &(extra.len() as u32).to_be_bytes(),
        extra,
        id.as_bytes(),
        name.as_bytes(),
    ]
    .concat();
    entry.resize(entry.len().next_multiple_of(8), 0);
    entry
}

/// Images with a snapshot table at byte 1024, and a name that is looked for.
pub fn snapshots() -> Set {
    let header = [
        &b"QFI\xfb\0\0\0\x03"[..],
        &[0; 12],
        &9u32.to_be_bytes(),
        &16384u64.to_be_bytes(),
        &[0; 4],
        &1u32.to_be_bytes(),
        &4096u64.to_be_bytes(),
        &8192u64.to_be_bytes(),
        &1u32.to_be_bytes(),
        &[0; 36],
        &[4u32, 104].map(u32::to_be_bytes).concat(),
    ]
    .concat();
    let image = |count: u32, stop: u8, name: &str, entries: &[Vec<u8>]| {
        let control = [
            &1024u64.to_le_bytes()[..],
            &count.to_le_bytes(),
            &0u32.to_le_bytes(),
            &9u16.to_le_bytes(),
            &[stop, name.len() as u8],
            &544u64.to_le_bytes(),
            &[1],
        ]
        .concat();
        let mut bytes = fields(1024, &[(0, &header), (512, &control), (544, name.as_bytes())]);
        bytes.extend(entries.concat());
        bytes
    };
    let extra = [&9u64.to_be_bytes()[..], &8192u64.to_be_bytes(), &u64::MAX.to_be_bytes()].concat();
    let three = [
        snapshot("1", "first", 512, &extra),
        snapshot("2", "again", 1024, &extra[..16]),
        snapshot("again", "again", 1536, &[]),
        snapshot("22", "again", 2048, &extra[..8]),
    ];
    let long = [snapshot(&"7".repeat(200), &"n\0".repeat(200), 512, &[5; 1024])];
    [
        ("four", image(4, 0, "again", &three)),
        ("from-the-second", image(4, 1, "again", &three)),
        ("by-name", image(4, 0, "first", &three)),
        ("more-than-there-are", image(40, 2, "", &three)),
        ("long", image(1, 0, "n", &long)),
        ("too-much-extra", image(2, 1, "1", &[snapshot("1", "a", 512, &[]), snapshot("2", "b", 0, &[5; 1025])])),
        ("none", image(0, 0, "", &[])),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

/// An entry of a bitmap directory, up to the next one.
fn bitmap(name: &str, table: u64, count: u32, flags: u32, granularity: u8) -> Vec<u8> {
    let mut entry = [
        &table.to_be_bytes()[..],
        &count.to_be_bytes(),
        &flags.to_be_bytes(),
        &[1, granularity],
        &(name.len() as u16).to_be_bytes(),
        &[0; 4],
        name.as_bytes(),
    ]
    .concat();
    entry.resize(entry.len().next_multiple_of(8), 0);
    entry
}

/// Directories in the second cluster, of 512 bytes, of disks of 16 MiB; a table in the fourth.
pub fn bitmaps() -> Set {
    let image = |entries: &[Vec<u8>], words: &[u64]| {
        let directory = entries.concat();
        let mut bytes = [
            &0u64.to_le_bytes()[..],
            &(directory.len() as u32).to_le_bytes(),
            &[entries.len() as u8, 0, 15, 0],
            &directory,
        ]
        .concat();
        bytes.resize(16 + 1024, 0);
        bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        bytes
    };
    // A bit for 4 KiB: 4096 bits in one cluster. A bit for 512 bytes: 8 clusters.
    let plain = bitmap("a", 1536, 1, 2, 12);
    [
        ("one", image(std::slice::from_ref(&plain), &[2048])),
        ("two", image(&[plain.clone(), bitmap("fine", 1536, 8, 0, 9)], &[2048, 1, 0, 4096])),
        ("in-use", image(&[bitmap("b", 512, 77, 1, 31)], &[])),
        ("of-a-name", image(&[plain.clone(), plain.clone()], &[2048])),
        ("unknown-flag", image(&[bitmap("a", 1536, 1, 4, 12)], &[2048])),
        ("reserved-bit", image(std::slice::from_ref(&plain), &[2048 | 2])),
        ("ones-and-a-place", image(std::slice::from_ref(&plain), &[2048 | 1])),
        ("short-table", image(&[bitmap("fine", 1536, 7, 0, 9)], &[0])),
        ("nul", image(&[bitmap("a\0b", 1536, 1, 0, 12)], &[0])),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}

/// Images of every format, each with a unit.
pub fn measured() -> Set {
    let names = ["vmdk", "vpc", "vhdx"];
    let others = ["vdi", "parallels", "qed", "qcow"];
    let place = |name: &str, of: &[&str]| of.iter().position(|prefix| name.starts_with(prefix));
    let blocks = images().into_iter().zip([1u8, 2, 3].into_iter().cycle()).map(|((name, bytes), unit)| {
        // qcow2 is the only other with that beginning, and is none of these.
        let (format, other) = match place(&name, &names) {
            Some(format) => (format as u8 + 1, 0),
            None => (4, place(&name, &others).expect("a format") as u8),
        };
        (name, [&[format, unit | other << 2 | bytes[0] & 0x80], &bytes[1..]].concat())
    });
    let small = qcow2::images().into_iter().filter(|(_, bytes)| bytes.len() <= 16 << 10).take(20);
    let qcow2 = small.enumerate().map(|(index, (name, bytes))| (name, [&[0, index as u8 % 4], &bytes[..]].concat()));
    let uneven = formats::uneven();
    let uneven = uneven.map(|(name, format, bytes)| (name.to_owned(), [&[format, 1], &bytes[..]].concat()));
    blocks.chain(qcow2).chain(uneven).collect()
}
