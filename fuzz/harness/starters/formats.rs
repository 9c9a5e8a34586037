//! Small whole images of VMDK and VHD, and variants of the VHDX: what opens each target of a format, and what only a broken reader
//! opens.

use super::blocks::{fields, images};
use super::parents::{piece, pieces, vhdxs};

type Set = Vec<(String, Vec<u8>)>;

fn named<const N: usize>(set: [(&str, Vec<u8>); N]) -> Set {
    set.map(|(name, bytes)| (name.to_owned(), bytes)).into()
}

/// A file with parts at their sectors.
fn file(sectors: usize, parts: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; sectors * 512];
    for (sector, part) in parts {
        bytes[sector * 512..sector * 512 + part.len()].copy_from_slice(part);
    }
    bytes
}

/// A sparse extent whose first grain is a hole, and a dynamic disk that ends within a block: files of one piece each.
pub fn uneven() -> [(&'static str, u8, Vec<u8>); 2] {
    let input = |bytes: Vec<u8>| [&(bytes.len() as u32 / 512).to_le_bytes()[..], &pieces(&[(0, bytes)])].concat();
    let mut grains = grains().remove(0).1;
    grains[2048..2056].copy_from_slice(&[0, 0, 0, 0, 8, 0, 0, 0]);
    let mut disk = tables().remove(0).1;
    disk[..512].copy_from_slice(&footer(3, 1024, 3 * 4096 - 1536, b"win ", [0; 4]));
    [("uneven-grains", 1, input(grains)), ("uneven-blocks", 2, input(disk))]
}

/// Sparse extents with grains of one sector; the number at byte 512 is an offset that is asked about.
pub fn grains() -> Set {
    let (le16, le32, le64) = (u16::to_le_bytes, u32::to_le_bytes, u64::to_le_bytes);
    let header = |directory: u64, flags: u32, compression: u16| {
        fields(
            512,
            &[
                (0, b"KDMV"),
                (4, &le32(1)),
                (8, &le32(flags)),
                (12, &le64(600)),
                (20, &le64(1)),
                (28, &le64(1)),
                (36, &le64(1)),
                (44, &le32(512)),
                (56, &le64(directory)),
                (64, &le64(4)),
                (73, b"\n \r\n"),
                (77, &le16(compression)),
            ],
        )
    };
    let asked = (1, le64(700).to_vec());
    let entries = |numbers: &[u32]| numbers.iter().copied().flat_map(le32).collect::<Vec<u8>>();
    let sparse = |directory: &[u32], table: &[u32]| {
        let parts = [(0, header(2, 4, 0)), asked.clone(), (2, entries(directory)), (4, entries(table))];
        file(16, &parts)
    };
    let stream = [&[0; 12][..], &[0x78, 0x01, 0x01, 0, 0, 0xff, 0xff]].concat();
    let compressed = [
        (0, header(u64::MAX, 1 << 17, 1)),
        asked.clone(),
        (2, entries(&[4])),
        (4, entries(&[3, 0, 1])),
        (3, stream),
        (9, fields(512, &[(0, &[1]), (12, &[3])])),
        (10, header(2, 1 << 17, 1)),
    ];
    let cowd = [
        (0, [b"COWD".as_slice(), &entries(&[1, 3, 64, 8, 2, 1])].concat()),
        asked.clone(),
        (2, entries(&[3])),
        (3, entries(&[36, 0, 44])),
    ];
    named([
        ("sparse", sparse(&[4, 0], &[8, 1, 0, 9, 12])),
        ("past-the-end", sparse(&[4, 900], &[8, 16, 17, u32::MAX])),
        ("no-table", sparse(&[u32::MAX, 4], &[8])),
        ("stream", file(12, &compressed)),
        ("cowd", file(64, &cowd)),
    ])
}

/// A footer of a disk that is not a fixed one, by the program `maker`.
fn footer(kind: u32, header: u64, size: u64, maker: &[u8; 4], geometry: [u8; 4]) -> Vec<u8> {
    let bytes = fields(
        512,
        &[
            (0, b"conectix"),
            (16, &header.to_be_bytes()),
            (28, maker),
            (48, &size.to_be_bytes()),
            (56, &geometry),
            (60, &kind.to_be_bytes()),
            (68, b"id"),
        ],
    );
    let sum = !bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let mut bytes = bytes;
    bytes[64..68].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn dynamic_header(table: u64, entries: u32, block: u32) -> Vec<u8> {
    let name: Vec<u8> = "b.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
    fields(
        1024,
        &[
            (0, b"cxsparse"),
            (16, &table.to_be_bytes()),
            (24, &0x1_0000u32.to_be_bytes()),
            (28, &entries.to_be_bytes()),
            (32, &block.to_be_bytes()),
            (40, b"parent"),
            (64, &name),
        ],
    )
}

/// Files with footers at their fronts and ends.
pub fn footers() -> Set {
    let largest = [0xff, 0xff, 16, 255];
    let behind = |footer: Vec<u8>| [vec![7; 1024], footer].concat();
    let dynamic = |kind, size| {
        file(
            5,
            &[(0, footer(kind, 512, size, b"win ", [0; 4])), (1, dynamic_header(1536, 2, 4096)), (3, vec![0xff; 8])],
        )
    };
    let mut short = behind(footer(2, u64::MAX, 1024, b"win ", [0; 4]));
    short.pop();
    let mut unsigned = behind(footer(2, u64::MAX, 1024, b"win ", [0; 4]));
    unsigned[1024 + 67] ^= 1;
    named([
        ("fixed", behind(footer(2, u64::MAX, 1024, b"win ", [0; 4]))),
        ("fixed-511", short),
        ("unsigned", unsigned),
        ("by-geometry", behind(footer(2, u64::MAX, 9999, b"vpc ", [0, 2, 4, 17]))),
        ("largest-geometry", behind(footer(2, u64::MAX, 1024, b"qemu", largest))),
        ("largest", behind(footer(2, u64::MAX, 0xff00_0000 * 512, b"win ", largest))),
        ("too-large", behind(footer(2, u64::MAX, 0xff00_0001 * 512, b"win ", largest))),
        ("far-too-large", behind(footer(2, u64::MAX, u64::MAX, b"d2v ", largest))),
        ("dynamic", dynamic(3, 8192)),
        ("differencing", dynamic(4, 8192)),
        ("short-table", dynamic(3, 1 << 30)),
    ])
}

/// Dynamic disks whose header is not at byte 512: the number there is an offset that is asked about.
pub fn tables() -> Set {
    let be32 = u32::to_be_bytes;
    let disk = |kind, block: u32, entries: &[u32]| {
        let parts = [
            (0, footer(kind, 1024, 4 * u64::from(block), b"win ", [0; 4])),
            (1, 5000u64.to_le_bytes().to_vec()),
            (2, dynamic_header(2048, entries.len() as u32, block)),
            (4, entries.iter().copied().flat_map(be32).collect()),
            (5, vec![0xa5, 0x0f]),
        ];
        file(24, &parts)
    };
    named([
        ("dynamic", disk(3, 4096, &[5, u32::MAX, 14, u32::MAX])),
        ("differencing", disk(4, 4096, &[5, u32::MAX, 14, u32::MAX])),
        ("sector-blocks", disk(3, 512, &[5, 7, u32::MAX, 9])),
        ("past-the-end", disk(3, 4096, &[5, 16, 40, 0xffff_fffe])),
        ("more-entries", disk(3, 4096, &[5, u32::MAX, u32::MAX, u32::MAX, 6, 7])),
    ])
}

/// The VHDX with other pieces over its own.
fn over(more: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let plain = images().into_iter().find(|(name, _)| name == "vhdx").map(|(_, bytes)| bytes[1..].to_vec());
    let mut image = plain.expect("there is one");
    image.extend(pieces(more));
    image
}

fn values(block: u32, size: u64, sector: u32) -> (u32, Vec<u8>) {
    let (le32, le64) = (u32::to_le_bytes, u64::to_le_bytes);
    let values = fields(80, &[(0, &le32(block)), (16, &le64(size)), (48, &le32(sector)), (64, &le32(4096))]);
    (4096 + 128, values)
}

/// The VHDX with other sizes.
pub fn metadata() -> Set {
    let asked = |image: Vec<u8>| [&0x12_3456u64.to_le_bytes()[..], &image].concat();
    named([
        ("plain", asked(over(&[]))),
        ("large-sectors", asked(over(&[values(1 << 20, 4 << 20, 4096)]))),
        ("large-blocks", asked(over(&[values(256 << 20, 1 << 40, 512)]))),
        ("odd-blocks", asked(over(&[values(3 << 20, 4 << 20, 512)]))),
        ("odd-sectors", asked(over(&[values(1 << 20, 4 << 20, 1024)]))),
        ("short-table", asked(over(&[values(1 << 20, 1 << 40, 512)]))),
        ("no-disk", asked(over(&[values(1 << 20, 0, 512)]))),
    ])
}

/// The VHDX with other headers and regions, and with logs.
pub fn headers() -> Set {
    let regions = |at: u64| {
        let mut table = piece(&over(&[]), 384).expect("the regions");
        table[32..40].copy_from_slice(&at.to_le_bytes());
        over(&[(384, table)])
    };
    let same_number = over(&[(256, piece(&over(&[]), 128).expect("a header")), (257, vec![1])]);
    let log = vhdxs(false).remove(0).1;
    let mut twice = piece(&log, 2048).expect("an entry");
    let (first, second) = twice.split_at_mut(96);
    second[16..24].copy_from_slice(&first[80..88]);
    let twice = [log.clone(), pieces(&[(2048, twice)])].concat();
    named([
        ("plain", over(&[])),
        ("same-number", same_number),
        ("overlap", regions(2 << 20)),
        ("over-the-log", regions(1 << 20)),
        ("past-the-end", regions(1 << 40)),
        ("log", log),
        ("log-twice", twice),
    ])
}
