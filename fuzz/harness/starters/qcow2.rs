//! Small qcow2 images.
//!
//! ```text
//! cluster 0 header | 1 refcount table | 2 refcount block | 3 L1 table | 4 L2 table | 5 … whatever is added
//! ```

use instar_parsers::qcow2::wire::{self, autoclear, entry, extension, incompatible};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// An image in the making.
#[derive(Clone)]
pub struct Builder {
    header: wire::Header,
    extensions: Vec<u8>,
    /// L2 entries, 8 bytes each; pairs of them with extended entries.
    l2: Vec<u64>,
    /// Clusters 5 and on.
    rest: Vec<u8>,
    name: Vec<u8>,
}

impl Builder {
    /// An empty image of `clusters` clusters.
    pub fn new(version: u32, cluster_bits: u32, clusters: u64) -> Self {
        let cluster = 1u64 << cluster_bits;
        let mut header = wire::Header::new_zeroed();
        header.magic = wire::MAGIC;
        header.version = version.into();
        header.cluster_bits = cluster_bits.into();
        header.size = (clusters * cluster).into();
        header.l1_size = 1.into();
        header.l1_table_offset = (3 * cluster).into();
        header.refcount_table_offset = cluster.into();
        header.refcount_table_clusters = 1.into();
        if version == 3 {
            header.refcount_order = 4.into();
            header.header_length = 104.into();
        }
        Self { header, extensions: Vec::new(), l2: Vec::new(), rest: Vec::new(), name: Vec::new() }
    }

    fn cluster(&self) -> usize {
        1 << self.header.cluster_bits.get()
    }

    /// Changes the header.
    pub fn header(mut self, change: impl FnOnce(&mut wire::Header)) -> Self {
        change(&mut self.header);
        self
    }

    /// Adds a header extension.
    pub fn extension(mut self, kind: u32, data: &[u8]) -> Self {
        self.extensions.extend(kind.to_be_bytes());
        self.extensions.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
        self.extensions.extend(data);
        self.extensions.resize(self.extensions.len().next_multiple_of(8), 0);
        self
    }

    /// Adds a backing file name, at byte 400.
    pub fn backing(mut self, name: &[u8]) -> Self {
        self.header.backing_file_offset = 400.into();
        self.header.backing_file_size = u32::try_from(name.len()).expect("short").into();
        self.name = name.to_vec();
        self
    }

    /// Adds an L2 entry.
    pub fn entry(mut self, entry: u64) -> Self {
        self.l2.push(entry);
        self
    }

    /// Where the next cluster will be.
    pub fn next(&self) -> u64 {
        (self.cluster() * 5 + self.rest.len()) as u64
    }

    /// Adds bytes in clusters of their own.
    pub fn cluster_of(mut self, bytes: &[u8]) -> Self {
        self.rest.extend(bytes);
        self.rest.resize(self.rest.len().next_multiple_of(self.cluster()), 0);
        self
    }

    /// Adds a cluster of data and its entry.
    pub fn data(self, byte: u8) -> Self {
        let offset = self.next();
        let cluster = vec![byte; self.cluster()];
        self.entry(entry::COPIED | offset).cluster_of(&cluster)
    }

    /// Adds a compressed cluster and its entry.
    pub fn compressed(self, stream: &[u8]) -> Self {
        let x = 62 - (self.header.cluster_bits.get() - 8);
        let sectors = (stream.len() as u64).div_ceil(512) - 1;
        let offset = self.next();
        self.entry(entry::COMPRESSED | sectors << x | offset).cluster_of(stream)
    }

    /// The image, without zeros at its end beyond the L2 table.
    pub fn build(&self) -> Vec<u8> {
        let cluster = self.cluster();
        let mut image = vec![0; cluster * 5];
        let header_len = if self.header.version.get() == 2 { 72 } else { self.header.header_length.get() as usize };
        let place = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        place(&mut image, 0, &self.header.as_bytes()[..header_len.min(112)]);
        place(&mut image, header_len, &self.extensions);
        if !self.name.is_empty() {
            place(&mut image, 400, &self.name);
        }
        place(&mut image, cluster, &(cluster as u64 * 2).to_be_bytes());
        place(&mut image, cluster * 3, &(entry::COPIED | (cluster as u64 * 4)).to_be_bytes());
        for (index, entry) in self.l2.iter().enumerate() {
            place(&mut image, cluster * 4 + index * 8, &entry.to_be_bytes());
        }
        image.extend(&self.rest);
        self.count(&mut image);
        image
    }

    /// A refcount of 1 for every cluster, as far as the block goes.
    fn count(&self, image: &mut [u8]) {
        let bits = if self.header.version.get() == 2 { 16 } else { 1 << self.header.refcount_order.get() };
        let cluster = self.cluster();
        for index in 0..(image.len().div_ceil(cluster)).min(cluster * 8 / bits) {
            // The last byte of a wide count; below a byte, the lowest bits come first.
            let byte = if bits >= 8 { (index + 1) * bits / 8 - 1 } else { index * bits / 8 };
            image[cluster * 2 + byte] |= if bits >= 8 { 1 } else { 1 << (index * bits % 8) };
        }
    }
}

/// Bytes that compress, but not to nothing.
pub fn sample(len: usize) -> Vec<u8> {
    (0..len).map(|at| b"instar reads images that nobody should trust. "[(at * at / 7 + at) % 46]).collect()
}

pub fn deflated(bytes: &[u8]) -> Vec<u8> {
    miniz_oxide::deflate::compress_to_vec(bytes, 6)
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A Zstandard frame of raw or repeated blocks, with a window of 1 KiB.
fn plain_frame(bytes: &[u8], repeat: Option<(u8, u32)>) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x00];
    let header = |last: u32, kind: u32, len: u32| (last | kind << 1 | len << 3).to_le_bytes()[..3].to_vec();
    let len = u32::try_from(bytes.len()).expect("short");
    frame.extend(header(u32::from(repeat.is_none()), 0, len));
    frame.extend(bytes);
    if let Some((byte, count)) = repeat {
        frame.extend(header(1, 1, count));
        frame.push(byte);
    }
    frame
}

fn zstd_header(header: &mut wire::Header) {
    header.header_length = 112.into();
    header.compression_type = 1;
    header.incompatible_features = incompatible::COMPRESSION.into();
}

/// Every kind of image, by name; those named `bad-…` do not open.
pub fn images() -> Vec<(String, Vec<u8>)> {
    let small = |version| Builder::new(version, 9, 16);
    let stored = miniz_oxide::deflate::compress_to_vec(&sample(512), 0);
    let mut images: Vec<(String, Vec<u8>)> = vec![
        ("v2-empty".into(), small(2).build()),
        ("v3-empty".into(), small(3).build()),
        ("v2-data".into(), small(2).data(1).entry(0).data(2).data(3).build()),
        ("v3-data".into(), small(3).data(1).data(2).entry(0).data(3).build()),
        ("v3-zero".into(), small(3).entry(entry::ZERO).entry(entry::ZERO | (5 * 512)).data(1).build()),
        ("v3-deflate".into(), small(3).compressed(&deflated(&sample(512))).data(9).compressed(&stored).build()),
        ("v3-zstd".into(), small(3).header(zstd_header).compressed(&zstd(&sample(512))).data(9).build()),
        ("v3-backing".into(), small(3).extension(extension::BACKING_FORMAT, b"qcow2").backing(b"base.qcow2").build()),
        ("v3-snapshot".into(), snapshot()),
        ("v3-bitmaps".into(), bitmaps()),
        ("v3-data-file".into(), data_file()),
        ("v3-luks".into(), luks()),
        ("v3-extended-l2".into(), extended_l2()),
        ("v3-two-l2".into(), two_tables()),
        (
            "v3-64k".into(),
            Builder::new(3, 16, 4).header(|header| header.l1_size = 0.into()).header(no_disk).build()[..512].to_vec(),
        ),
        ("v3-2m-header".into(), Builder::new(3, 21, 1 << 20).header(far_tables).build()[..128].to_vec()),
        ("bad-l2-past-end".into(), small(3).header(|header| header.backing_file_offset = 513.into()).build()),
        ("bad-features".into(), unknown_features()),
        ("bad-backing-format".into(), small(3).extension(extension::BACKING_FORMAT, &[b'x'; 16]).build()),
    ];
    for (name, version, len) in [("v2-72", 2, 72), ("v2-104", 2, 104), ("v3-104", 3, 104), ("v3-112", 3, 112)] {
        let mut builder = Builder::new(version, 16, 0).header(no_disk);
        if len == 112 {
            builder = builder.header(|header| header.header_length = 112.into());
        }
        images.push((name.into(), builder.build()[..len].to_vec()));
    }
    for bits in [8u32, 22] {
        let image = Builder::new(3, 9, 0).header(no_disk).header(|header| {
            header.cluster_bits = bits.into();
            header.refcount_table_offset = (1u64 << 30).into();
        });
        images.push((format!("bad-cluster-bits-{bits}"), image.build()[..104].to_vec()));
    }
    for order in 0..=6u32 {
        let image = small(3).header(|header| header.refcount_order = order.into()).data(1).data(2);
        images.push((format!("v3-refcount-{}", 1 << order), image.build()));
    }
    images
}

fn no_disk(header: &mut wire::Header) {
    header.size = 0.into();
    header.l1_size = 0.into();
    header.l1_table_offset = 0.into();
}

fn far_tables(header: &mut wire::Header) {
    header.l1_size = 8.into();
    header.l1_table_offset = (1u64 << 40).into();
    header.refcount_table_offset = (1u64 << 50).into();
}

fn snapshot() -> Vec<u8> {
    let builder = Builder::new(3, 9, 16).data(1);
    let mut table = Vec::new();
    for (id, name) in [("1", "first"), ("2", "second")] {
        let mut header = wire::SnapshotHeader::new_zeroed();
        header.l1_table_offset = (3u64 * 512).into();
        header.l1_size = 1.into();
        header.id_size = u16::try_from(id.len()).expect("short").into();
        header.name_size = u16::try_from(name.len()).expect("short").into();
        header.date_seconds = 1_700_000_000.into();
        header.extra_data_size = 24.into();
        table.extend(header.as_bytes());
        table.extend([0; 8]);
        table.extend(8192u64.to_be_bytes());
        table.extend(u64::MAX.to_be_bytes());
        table.extend(id.bytes().chain(name.bytes()));
        table.resize(table.len().next_multiple_of(8), 0);
    }
    let at = builder.next();
    builder
        .header(|header| {
            header.nb_snapshots = 2.into();
            header.snapshots_offset = at.into();
        })
        .cluster_of(&table)
        .build()
}

fn bitmaps() -> Vec<u8> {
    let builder = Builder::new(3, 9, 16);
    let (table_at, directory_at) = (builder.next(), builder.next() + 512);
    let mut directory = Vec::new();
    for (name, flags) in [("bitmap0", 2u32), ("used", 3)] {
        let mut header = wire::BitmapEntry::new_zeroed();
        header.table_offset = table_at.into();
        header.table_size = 1.into();
        header.flags = flags.into();
        header.kind = 1;
        header.granularity_bits = 9;
        header.name_size = u16::try_from(name.len()).expect("short").into();
        directory.extend(header.as_bytes());
        directory.extend(name.bytes());
        directory.resize(directory.len().next_multiple_of(8), 0);
    }
    let mut place = wire::BitmapsExtension::new_zeroed();
    place.nb_bitmaps = 2.into();
    place.bitmap_directory_size = (directory.len() as u64).into();
    place.bitmap_directory_offset = directory_at.into();
    builder
        .header(|header| header.autoclear_features = autoclear::BITMAPS.into())
        .extension(extension::BITMAPS, place.as_bytes())
        .cluster_of(&1u64.to_be_bytes())
        .cluster_of(&directory)
        .build()
}

fn data_file() -> Vec<u8> {
    Builder::new(3, 9, 16)
        .header(|header| {
            header.incompatible_features = incompatible::DATA_FILE.into();
            header.autoclear_features = autoclear::DATA_FILE_RAW.into();
        })
        .extension(extension::DATA_FILE, b"data.raw")
        .entry(entry::COPIED)
        .entry(entry::COPIED | 512)
        .entry(0)
        .entry(entry::COPIED | (3 * 512))
        .build()
}

fn luks() -> Vec<u8> {
    let builder = Builder::new(3, 9, 16);
    let mut place = wire::CryptoExtension::new_zeroed();
    place.offset = builder.next().into();
    place.length = 4096.into();
    builder
        .header(|header| header.crypt_method = 2.into())
        .extension(extension::CRYPTO, place.as_bytes())
        .cluster_of(&luks_header())
        .data(1)
        .build()
}

/// LUKS 1, aes-xts-plain64, one active key slot.
pub fn luks_header() -> Vec<u8> {
    let mut header = vec![0; 592];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"LUKS\xba\xbe\0\x01");
    put(8, b"aes");
    put(40, b"xts-plain64");
    put(72, b"sha256");
    put(104, &4096u32.to_be_bytes());
    put(108, &32u32.to_be_bytes());
    put(164, &1000u32.to_be_bytes());
    put(168, b"3e3c7a6e-7d1f-4f0a-9a52-6b5f0c1d2e3f");
    for slot in 0..8u32 {
        let at = 208 + slot as usize * 48;
        put(at, &if slot == 0 { 0x00ac_71f3u32 } else { 0x0000_dead }.to_be_bytes());
        put(at + 4, &1000u32.to_be_bytes());
        put(at + 40, &(8 + slot * 256).to_be_bytes());
        put(at + 44, &4000u32.to_be_bytes());
    }
    header
}

fn extended_l2() -> Vec<u8> {
    let builder =
        Builder::new(3, 14, 8).header(|header| header.incompatible_features = incompatible::EXTENDED_L2.into());
    let data_at = builder.next();
    // All of it, some of it with zeros between, zeros only, nothing.
    let image = builder
        .entry(entry::COPIED | data_at)
        .entry(0xffff_ffff)
        .entry(entry::COPIED | data_at)
        .entry(0xff00_0000_0000_00ff)
        .entry(0)
        .entry(0x0000_ffff_0000_0000)
        .entry(0)
        .entry(0)
        .build();
    // A sector of data is enough: the rest lies past the end.
    [image, vec![7; 512]].concat()
}

/// 512-byte clusters map 32 KiB an L2 table: two L1 entries, a hole between data.
fn two_tables() -> Vec<u8> {
    let builder = Builder::new(3, 9, 200).data(1).entry(0).data(2).header(|header| header.l1_size = 4.into());
    let second = builder.next();
    let mut image = builder.cluster_of(&(entry::COPIED | (5 * 512)).to_be_bytes()).build();
    image[3 * 512 + 16..3 * 512 + 24].copy_from_slice(&(entry::COPIED | second).to_be_bytes());
    image
}

fn unknown_features() -> Vec<u8> {
    let mut names = Vec::new();
    for bit in [0, 5, 6] {
        let mut name = wire::FeatureName { kind: 0, bit, name: [0; 46] };
        name.name[..7].copy_from_slice(b"feature");
        names.extend(name.as_bytes());
    }
    let image = Builder::new(3, 9, 16).header(|header| header.incompatible_features = 0xe0.into());
    image.extension(extension::FEATURE_NAMES, &names).build()
}

/// Compressed clusters for `qcow2_decompress`: the entry takes the stream from byte 0, in as many sectors as any
/// cluster size needs.
pub fn streams() -> Vec<(String, Vec<u8>)> {
    const ENTRY: u64 = 1 << 63 | 1 << 61;
    let mut streams: Vec<(String, Vec<u8>)> = Vec::new();
    for bits in [9, 12, 16] {
        let plain = sample(1 << bits);
        streams.push((format!("deflate-{bits}"), deflated(&plain)));
        streams.push((format!("deflate-fast-{bits}"), miniz_oxide::deflate::compress_to_vec(&plain, 1)));
        streams.push((format!("zstd-{bits}"), zstd(&plain)));
    }
    streams.push(("deflate-stored".into(), miniz_oxide::deflate::compress_to_vec(&sample(512), 0)));
    streams.push(("deflate-zeros-20".into(), deflated(&vec![0; 1 << 20])));
    streams.push(("deflate-zeros-21".into(), deflated(&vec![0; 1 << 21])));
    streams.push(("deflate-bomb".into(), deflated(&vec![1; 4 << 20])));
    streams.push(("zstd-zeros-16".into(), zstd(&vec![0; 1 << 16])));
    streams.push(("zstd-raw".into(), plain_frame(&sample(512), None)));
    streams.push(("zstd-repeat".into(), plain_frame(&sample(256), Some((7, 256)))));
    streams.push(("zstd-bomb".into(), plain_frame(&[], Some((7, 128 << 10)))));
    let mut inputs: Vec<(String, Vec<u8>)> = streams
        .iter()
        .map(|(name, stream)| (name.clone(), [&ENTRY.to_le_bytes(), stream.as_slice()].concat()))
        .collect();
    // By the entry's own offset, sharing its sector with what precedes it.
    let stream = [vec![0xEE; 77], deflated(&sample(512))].concat();
    inputs.push(("deflate-at-77".into(), [&77u64.to_le_bytes(), stream.as_slice()].concat()));
    inputs
}
