//! qcow2, one entry at a time, in numbers that can't overflow.

use crate::image::FuzzImage;
use instar_abi::request::DiskId;
use instar_parsers::image::{Codec, Extent, Kind};
use instar_parsers::qcow2::{Crypt, Header, wire};
use zerocopy::FromBytes as _;

/// The wire header of an image, zero-padded; version 3's fields as version 2 means them.
#[must_use]
pub fn wire_header(image: &FuzzImage<'_>) -> wire::Header {
    let mut raw = [0; size_of::<wire::Header>()];
    image.fill(0, &mut raw);
    if raw[4..8] == [0, 0, 0, 2] {
        raw[72..].fill(0);
    }
    let mut wire = wire::Header::read_from_bytes(&raw).expect("112 bytes");
    if wire.version.get() == 2 {
        wire.refcount_order = 4.into();
        wire.header_length = 72.into();
    }
    wire
}

/// The wire header that a checked one stands for, but for the backing file name, which it leaves out.
#[must_use]
pub fn to_wire(header: &Header) -> wire::Header {
    let [incompatible, compatible, autoclear] = header.features();
    wire::Header {
        magic: wire::MAGIC,
        version: header.version().into(),
        backing_file_offset: 0.into(),
        backing_file_size: 0.into(),
        cluster_bits: header.cluster_size().trailing_zeros().into(),
        size: header.virtual_size().into(),
        crypt_method: match header.crypt() {
            Crypt::None => 0,
            Crypt::Aes => 1,
            Crypt::Luks => 2,
        }
        .into(),
        l1_size: header.l1().count.into(),
        l1_table_offset: header.l1().offset.into(),
        refcount_table_offset: header.refcount_table().offset.into(),
        refcount_table_clusters: header.refcount_table().count.into(),
        nb_snapshots: header.snapshots().count.into(),
        snapshots_offset: header.snapshots().offset.into(),
        incompatible_features: incompatible.into(),
        compatible_features: compatible.into(),
        autoclear_features: autoclear.into(),
        refcount_order: header.refcount_bits().trailing_zeros().into(),
        header_length: header.header_len().into(),
        compression_type: u8::from(header.compression() == Codec::Zstd),
        padding: [0; 7],
    }
}

/// Checks a header that was accepted against the bytes that it was read from.
///
/// # Panics
/// It proves less than it says.
pub fn check_header(header: &Header, image: &FuzzImage<'_>) {
    let raw = wire_header(image);
    let again = to_wire(header);
    assert!(matches!(header.version(), 2 | 3), "version {}", header.version());
    let minimum = if header.version() == 2 { 72 } else { 104 };
    assert!(image.len() >= minimum, "header accepted in {} bytes", image.len());
    assert!((512..=2 << 20).contains(&header.cluster_size()) && header.cluster_size().is_power_of_two());
    assert!(header.refcount_bits() <= 64 && header.refcount_bits().is_power_of_two());
    assert!(header.header_len() <= header.cluster_size(), "the header exceeds its cluster");
    assert_eq!(header.features()[0] >> 5, 0, "unknown incompatible feature accepted");
    if header.version() == 2 {
        assert!(header.features() == [0; 3] && header.refcount_bits() == 16 && header.header_len() == 72);
        assert_eq!(header.compression(), Codec::Deflate);
    }
    for (table, entry_len) in [
        (header.l1(), 8),
        (header.refcount_table(), u128::from(header.cluster_size())),
        (header.snapshots(), size_of::<wire::SnapshotHeader>() as u128),
    ] {
        assert!(u128::from(table.offset) + u128::from(table.count) * entry_len < 1 << 63, "{table:?} overflows");
        assert!(table.offset.is_multiple_of(header.cluster_size().into()), "{table:?} is not aligned");
    }
    let covered = u128::from(header.l1().count) * span(header);
    assert!(u128::from(header.virtual_size()) <= covered, "the L1 table maps {covered} bytes");
    assert!(header.virtual_size().is_multiple_of(512));
    // Field by field, what was read is what is there.
    let mut expected = raw;
    // Detection has compared the magic before anybody opens a header.
    expected.magic = wire::MAGIC;
    expected.backing_file_offset = 0.into();
    expected.backing_file_size = 0.into();
    expected.size = (raw.size.get() & !511).into();
    if raw.header_length.get() <= 104 {
        expected.compression_type = 0;
    }
    expected.padding = [0; 7];
    assert!(again == expected, "the header is not what is there: {again:?}, {expected:?}");
}

fn span(header: &Header) -> u128 {
    let cluster_size = u128::from(header.cluster_size());
    cluster_size * (cluster_size / entry_len(header))
}

const fn entry_len(header: &Header) -> u128 {
    if header.has_extended_l2() { 16 } else { 8 }
}

/// What one byte of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Byte {
    /// Nothing at this layer.
    Hole,
    /// Zero.
    Zero,
    /// At this offset of the file, or of the data file.
    Data(u64),
    /// In the compressed cluster whose stream has this offset and at most this length.
    Compressed(u64, u32),
    /// The image is broken here.
    Broken,
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Follows L1 and L2 to one byte of the disk.
#[must_use]
pub fn lookup(image: &FuzzImage<'_>, header: &Header, at: u64) -> Byte {
    let cluster_size = u64::from(header.cluster_size());
    let be64 = |at: u128| u64::try_from(at).map_or(0, |at| image.be64(at));
    let l1_index = u128::from(at) / span(header);
    let table = be64(u128::from(header.l1().offset) + l1_index * 8) & OFFSET;
    if table == 0 {
        return Byte::Hole;
    }
    if !table.is_multiple_of(cluster_size) || table >= image.len() {
        return Byte::Broken;
    }
    let entry_at = u128::from(table) + u128::from(at) % span(header) / u128::from(cluster_size) * entry_len(header);
    let word = be64(entry_at);
    let bitmap = if header.has_extended_l2() { be64(entry_at + 8) } else { 0 };
    let (allocated, zero) = (bitmap & 0xffff_ffff, bitmap >> 32);
    if word >> 62 & 1 == 1 {
        return if header.has_data_file() { Byte::Broken } else { compressed(header, word) };
    }
    let offset = word & OFFSET;
    if word & 1 == 1 && !header.has_extended_l2() {
        return if header.version() == 2 || !offset.is_multiple_of(cluster_size) { Byte::Broken } else { Byte::Zero };
    }
    // Offset 0 is a cluster only of a data file, where the bit for "refcount 1" tells it from none.
    let exists = offset != 0 || (header.has_data_file() && word >> 63 == 1);
    let bit = at % cluster_size / (cluster_size / 32);
    let in_use = if header.has_extended_l2() { allocated >> bit & 1 == 1 } else { exists };
    let is_zero = header.has_extended_l2() && zero >> bit & 1 == 1;
    match exists {
        false if allocated != 0 => Byte::Broken,
        true if allocated & zero != 0 || !offset.is_multiple_of(cluster_size) => Byte::Broken,
        _ if in_use => {
            let place = offset + at % cluster_size;
            // A cluster that starts within the file and ends past it is zero there.
            let sound = if header.has_data_file() { place == at } else { offset < image.len() };
            if sound { Byte::Data(place) } else { Byte::Broken }
        }
        _ if is_zero => Byte::Zero,
        _ => Byte::Hole,
    }
}

/// What a compressed L2 entry says.
///
/// # Source
/// Specification, "Compressed Clusters Descriptor", with x = 62 − (cluster bits − 8).
#[must_use]
pub fn compressed(header: &Header, word: u64) -> Byte {
    let x = 62 - (header.cluster_size().trailing_zeros() - 8);
    let descriptor = word & ((1 << 62) - 1);
    let (offset, sectors) = (descriptor % (1 << x), descriptor / (1 << x) + 1);
    let end_of_last_sector = u128::from(offset / 512 * 512) + u128::from(sectors) * 512;
    Byte::Compressed(offset, u32::try_from(end_of_last_sector - u128::from(offset)).expect("at most 4 MiB"))
}

/// The byte at `at` of an extent.
#[must_use]
pub fn byte_of(extent: &Extent, at: u64) -> Byte {
    match extent.kind {
        Kind::Hole | Kind::Reserved { hides: false, .. } => Byte::Hole,
        Kind::Zero | Kind::Reserved { hides: true, .. } => Byte::Zero,
        Kind::Data { offset, .. } => Byte::Data(offset.wrapping_add(at - extent.start)),
        Kind::Encoded { offset, len, .. } => Byte::Compressed(offset, len),
    }
}

/// Checks an extent that `map` gave for `at..end` against the tables.
///
/// # Panics
/// The tables say something else.
pub fn check_extent(image: &FuzzImage<'_>, header: &Header, extent: &Extent, at: u64, end: u64) {
    assert_eq!(extent.start, at, "an extent starts where the range does");
    assert!(extent.len > 0, "an empty extent");
    let extent_end = extent.start.checked_add(extent.len).expect("the extent's end");
    assert!(extent_end <= end, "the extent leaves its range");
    match extent.kind {
        Kind::Data { disk, .. } => assert_eq!(disk, DiskId(u32::from(header.has_data_file()))),
        Kind::Encoded { disk, codec, cluster_size, skip, len, .. } => {
            assert_eq!((disk, codec, cluster_size), (DiskId(0), header.compression(), header.cluster_size()));
            assert_eq!(u64::from(skip), at % u64::from(cluster_size));
            assert!(u64::from(skip) + extent.len <= u64::from(cluster_size), "beyond the decoded cluster");
            assert!(len <= cluster_size * 2, "a stream of {len} bytes");
        }
        Kind::Zero | Kind::Hole | Kind::Reserved { .. } => {}
    }
    for probe in [at, at + extent.len / 2, extent_end - 1] {
        let expected = lookup(image, header, probe);
        assert_eq!(byte_of(extent, probe), expected, "byte {probe:#x}, mapped as {extent:?}");
    }
}

/// The refcount of the cluster that holds byte `offset` of the file.
#[must_use]
pub fn refcount(image: &FuzzImage<'_>, header: &Header, offset: u64) -> u64 {
    let cluster_size = u128::from(header.cluster_size());
    let bits = u128::from(header.refcount_bits());
    let per_block = cluster_size * 8 / bits;
    let cluster = u128::from(offset) / cluster_size;
    let table = header.refcount_table();
    let block_index = cluster / per_block;
    if block_index >= u128::from(table.count) * cluster_size / 8 {
        return 0;
    }
    let byte = |at: u128| {
        let mut raw = [0];
        image.fill(u64::try_from(at).unwrap_or(u64::MAX), &mut raw);
        u64::from(raw[0])
    };
    let be = |at: u128, len: u128| (0..len).fold(0, |value, i| value << 8 | byte(at + i));
    let block = be(u128::from(table.offset) + block_index * 8, 8) & OFFSET;
    if block == 0 {
        return 0;
    }
    let index = cluster % per_block;
    if bits >= 8 {
        return be(u128::from(block) + index * bits / 8, bits / 8);
    }
    // Below a byte: the first count is in the lowest bits.
    let packed = byte(u128::from(block) + index * bits / 8);
    packed >> (index * bits % 8) & ((1 << bits) - 1)
}
