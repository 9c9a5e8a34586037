//! Jobs: options of a target and the images that go with them.

use super::qcow2::{Builder, images, sample};
use instar_parsers::qcow2::wire::{entry, extension};

/// Every image into raw and into one qcow2 target, and raw disks into every kind of target.
pub fn conversions() -> Vec<(String, Vec<u8>)> {
    let job = |head: [u8; 7], source: &[u8]| [&head[..], &[0; 9], source].concat();
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let kept = |name: &str| !name.starts_with("bad-") && !name.starts_with("v3-2m") && !name.starts_with("v3-refcount");
    for (index, (name, image)) in images().into_iter().filter(|(name, _)| kept(name)).enumerate() {
        let head = if index % 2 == 0 { [2, 0, 0, 1, 0, 0, 0] } else { [0, 0, 4, 1, 5, 0, 0] };
        all.push((format!("{}-{name}", if index % 2 == 0 { "raw" } else { "qcow2" }), job(head, &image)));
    }
    let mut raw = sample(5000);
    raw.resize(20_000, 0);
    raw.extend(sample(3333));
    for (name, head) in [
        ("to-raw", [3, 0, 0, 1, 0, 0, 0]),
        ("to-raw-all", [3, 0, 0, 0, 6, 0, 0]),
        ("to-512", [1, 0, 4, 3, 5, 0, 0]),
        ("to-narrow", [1, 3, 0, 1, 0, 0, 2]),
        ("to-wide", [1, 0, 6, 1, 6, 0, 1]),
        ("to-v2", [0x21, 7, 4, 1, 0, 0, 0]),
        ("to-zlib", [5, 3, 4, 1, 5, 0, 0]),
        ("to-zlib-narrow", [5, 0, 1, 1, 0, 0, 0]),
        ("to-zstd", [13, 3, 4, 1, 6, 0, 0]),
        ("to-extended", [0x11, 5, 4, 3, 5, 0, 0]),
        ("to-preallocated", [0x41, 1, 4, 1, 6, 0, 0]),
        ("to-data-file", [0x81, 3, 4, 1, 5, 0, 0]),
        ("to-raw-data-file", [0xc1, 3, 4, 1, 0, 0, 0]),
        ("fails-first", [1, 3, 4, 1, 0, 1, 0]),
        ("fails-later", [1, 0, 4, 1, 0, 9, 0]),
        ("fails-second", [3, 0, 0, 1, 0, 2, 0]),
        ("fails-third", [3, 0, 0, 1, 0, 3, 0]),
        ("fails-fourth", [3, 0, 0, 1, 0, 4, 0]),
    ] {
        let len = if name.starts_with("fails-") { 6000 } else { raw.len() };
        all.push((name.to_owned(), job(head, &raw[..len])));
    }
    // -B, -n, both, and -C.
    let layered = images().into_iter().find(|(name, _)| name == "v3-backing").map(|(_, image)| image);
    let layered = layered.unwrap_or_default();
    for (name, head, mode, source) in [
        ("overlay", [1, 3, 4, 1, 5, 0, 0], [1, 1, 0], &raw[..6000]),
        ("overlay-of-layers", [0, 0, 4, 1, 0, 0, 1], [1, 2, 0], &layered),
        ("there", [1, 0, 4, 1, 5, 0, 0], [2, 0, 9], &raw[..6000]),
        ("there-layered", [0x11, 5, 4, 1, 0, 0, 1], [3, 3, 16], &raw[..6000]),
        ("there-raw", [3, 0, 0, 1, 0, 0, 0], [2, 0, 1], &raw[..6000]),
        ("top-into-there", [0, 3, 4, 1, 5, 0, 0], [7, 4, 200], &layered),
        ("top-into-raw", [2, 3, 4, 1, 0, 0, 0], [6, 4, 200], &layered),
        ("offloaded", [1, 0, 4, 1, 0, 0, 0], [8, 0, 0], &raw[..6000]),
        ("offloaded-raw", [3, 0, 0, 1, 0, 0, 0], [8, 0, 0], &raw[..6000]),
    ] {
        let mut input = job(head, source);
        input[7..10].copy_from_slice(&mode);
        all.push((name.to_owned(), input));
    }
    // Tables of 2 MiB, stretches of 1 MiB, and lanes that do not wait for each other.
    all.push(("any-order".into(), job([0, 3, 4, 1, 7, 0, 1], &spread())));
    all.push(("empty-disk".into(), job([1, 7, 4, 1, 0, 0, 0], &[])));
    all
}

/// A disk of 32 MiB with 2 KiB of data in each 64 KiB of it, all of them the same, by one L2 table that all of the disk goes through.
fn spread() -> Vec<u8> {
    const TABLES: usize = 64;
    let image = Builder::new(3, 11, TABLES as u64 * 256).header(|header| header.l1_size = (TABLES as u32).into());
    let data = entry::COPIED | image.next();
    let image = (0..256).fold(image, |image, index| image.entry(if index % 32 == 0 { data } else { 0 }));
    let mut bytes = image.cluster_of(&sample(2048)).build();
    let l1 = bytes[3 << 11..][..8].repeat(TABLES);
    bytes[3 << 11..][..l1.len()].copy_from_slice(&l1);
    bytes
}

/// Reads within windows and across their ends.
pub fn windows() -> Vec<(String, Vec<u8>)> {
    let input = |offset: u64, len: u64, how: u8, capacity: u64, window: Option<(u64, u64)>| {
        let mut input = [&offset.to_le_bytes()[..], &len.to_le_bytes(), &[how], &capacity.to_le_bytes()].concat();
        if let Some((offset, len)) = window {
            input.extend([offset.to_le_bytes(), len.to_le_bytes()].concat());
        }
        input
    };
    [
        ("whole", input(0, 4096, 0, 4096, None)),
        ("odd", input(777, 70_001, 0, 100_000, None)),
        ("padded", input(4000, 4096, 1, 5001, None)),
        ("prefetched", input(100, 200_000, 2, 300_000, None)),
        ("window", input(3, 1000, 0, 100_000, Some((515, 4096)))),
        ("window-past-end", input(3, 5000, 0, 100_000, Some((515, 4096)))),
        ("window-end", input(3, 5000, 1, 100_000, Some((515, 4096)))),
        ("window-open", input(3, 5000, 2, 100_000, Some((515, u64::MAX)))),
        ("window-raw", input(3, 5000, 0x80, 100_000, Some((u64::MAX - 5, 512)))),
        ("offset-raw", input(u64::MAX, 512, 0x81, 100_000, None)),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}

/// Layers in one input: sound chains, and what is wrong with others.
pub fn chains() -> Vec<(String, Vec<u8>)> {
    let layer = |format: u8, name: &[u8], image: &[u8]| {
        let len = u32::try_from(image.len()).expect("short");
        let name_len = [u8::try_from(name.len()).expect("short")];
        [&len.to_le_bytes()[..], &[format], &name_len, name, image].concat()
    };
    let top = |below: &[u8], format: &[u8]| {
        let image = Builder::new(3, 9, 16).extension(extension::BACKING_FORMAT, format).backing(below);
        image.data(1).entry(0).entry(1).data(2).build()
    };
    let input = |layers: &[Vec<u8>]| {
        let count = [u8::try_from(layers.len()).expect("few")];
        [&count[..], &layers.concat()].concat()
    };
    let raw = sample(6000);
    let plain = Builder::new(3, 9, 16).data(7).entry(0).data(8).build();
    let mut deep: Vec<Vec<u8>> = Vec::new();
    for index in 0..16u8 {
        deep.push(layer(0, &[b'a' + index], &top(&[b'b' + index], b"qcow2")));
    }
    let mut all = vec![
        ("alone", input(&[layer(0, b"a", &plain)])),
        ("raw-alone", input(&[layer(1, b"a", &raw)])),
        ("over-raw", input(&[layer(0, b"a", &top(b"b", b"raw")), layer(1, b"b", &raw)])),
        (
            "three",
            input(&[layer(0, b"a", &top(b"b", b"qcow2")), layer(0, b"b", &top(b"c", b"raw")), layer(1, b"c", &raw)]),
        ),
        ("missing", input(&[layer(0, b"a", &top(b"b", b"raw"))])),
        ("cycle", input(&[layer(0, b"a", &top(b"b", b"qcow2")), layer(0, b"b", &top(b"a", b"qcow2"))])),
        ("refused", input(&[layer(0, b"a", &top(b"../b", b"raw")), layer(1, b"../b", &raw)])),
        ("deep", input(&deep)),
    ];
    let fault = [&[2 | 0x80][..], &all[2].1[1..]].concat();
    all.push(("fault", fault));
    all.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

/// One new image of each kind.
pub fn new_images() -> Vec<(String, Vec<u8>)> {
    let input = |width: u8, flags: u8, prealloc: u8, backing: u8, path: &[u8], size: u64, cluster: u32| {
        let len = u8::try_from(path.len()).unwrap_or(128);
        let mut input = vec![0, width, flags, prealloc, 0, 0, backing, len];
        input.extend(size.to_le_bytes());
        input.extend(cluster.to_le_bytes());
        input.extend([0; 4]);
        input.extend(path);
        input
    };
    [
        ("default", input(4, 4, 0, 0, b"", 10 << 20, 65536)),
        ("v2", input(4, 0, 0, 0, b"", 1 << 30, 65536)),
        ("512", input(4, 4, 0, 0, b"", 1 << 20, 512)),
        ("metadata-512", input(0, 4, 1, 0, b"", 1 << 20, 512)),
        ("metadata-wide", input(6, 4, 1, 0, b"", 3 << 20, 4096)),
        ("metadata-extended", input(4, 5, 1, 3, b"base", 8 << 20, 16384)),
        ("extended", input(4, 5, 0, 0, b"", 1 << 40, 1 << 21)),
        ("lazy", input(3, 6, 0, 0, b"", 5 << 30, 65536)),
        ("zstd", input(4, 12, 0, 0, b"", 1 << 20, 65536)),
        ("data-file", input(4, 0x14, 0, 0, b"", 1 << 20, 65536)),
        ("overlay", input(4, 4, 0, 0x13, b"base.qcow2", 1 << 20, 65536)),
        ("long-name", input(4, 4, 0, 3, &[b'n'; 200], 1 << 20, 65536)),
        ("name-no-room", input(4, 4, 0, 3, &[b'n'; 127], 1 << 16, 512)),
        ("bad-width", input(7, 4, 0, 0, b"", 1 << 20, 65536)),
        ("bad-cluster", input(4, 0x84, 0, 0, b"", 1 << 20, 12345)),
        ("no-disk", input(4, 4, 0, 0, b"", 0, 65536)),
        ("too-large", input(4, 0x84, 0, 0, b"", u64::MAX, 65536)),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}
