use super::{Bent, Theirs, checksum, entry, field, judge, magic, truncated, with};
use crate::testing::foreign::{Changes, VHDX_DATA_ID, VhdxBlock, sign_crc32c, vhdx, with_log};
use crate::testing::scratch;
use instar_abi::error::{BlockError, Field, Structure};
use instar_abi::format::Format;

const MIB: usize = 1 << 20;
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGIONS: [usize; 2] = [192 << 10, 256 << 10];
const METADATA: usize = 2 * MIB;
const VALUES: usize = METADATA + (64 << 10);
const TABLE: usize = 3 * MIB;

fn whole() -> Vec<u8> {
    vhdx(2 << 20, 512, None, |index| VhdxBlock::Full(vec![index as u8 + 1; MIB]))
}

/// The same change in both copies of a structure, with its checksum.
fn in_both(whole: &[u8], copies: [usize; 2], len: usize, changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for copy in copies {
        for (at, change) in changes {
            bytes[copy + at..copy + at + change.len()].copy_from_slice(change);
        }
        sign_crc32c(&mut bytes, copy, len);
    }
    bytes
}

fn bent(what: &str, bytes: Vec<u8>, ours: BlockError, theirs: Theirs) -> Bent {
    Bent { what: what.to_owned(), bytes, ours, theirs }
}

#[test]
fn every_field_of_a_vhdxs_headers_has_its_error() {
    let Some(dir) = scratch() else { return };
    let whole = whole();
    let (le32, le64) = (u32::to_le_bytes, u64::to_le_bytes);
    let unsound = checksum(Structure::Header);
    let mut images = Vec::new();
    let mut add = |what: &str, changes: &[(usize, &[u8])], ours, theirs| {
        images.push(bent(what, in_both(&whole, HEADERS, 4096, changes), ours, theirs));
    };
    add("signature", &[(0, b"hebd")], unsound, Theirs::Refuses);
    add("version", &[(66, &[2])], unsound, Theirs::Refuses);
    add("version of the log", &[(64, &[1])], BlockError::Version { found: 1 }, Theirs::Refuses);
    add("place of the log", &[(72, &le64(4096))], field(Field::LogOffset, 4096), Theirs::Refuses);
    add(
        "place of the log, odd",
        &[(72, &le64((1 << 20) + 512))],
        field(Field::LogOffset, (1 << 20) + 512),
        Theirs::Refuses,
    );
    add("length of the log", &[(48, b"log"), (68, &le32(5000))], field(Field::LogSize, 5000), Theirs::Refuses);
    let same = in_both(&whole, HEADERS, 4096, &[(8, &le64(9))]);
    let mut same = with(&same, &[(HEADERS[0] + 16, b"another")]);
    sign_crc32c(&mut same, HEADERS[0], 4096);
    images.push(bent("two headers of a number", same, unsound, Theirs::Refuses));
    let torn = with(&whole, &[(HEADERS[0] + 9, &[1]), (HEADERS[1] + 9, &[1])]);
    images.push(bent("checksums", torn, unsound, Theirs::Refuses));
    judge(dir.path(), Format::Vhdx, images);
}

#[test]
fn every_field_of_a_vhdxs_regions_has_its_error() {
    let Some(dir) = scratch() else { return };
    let whole = whole();
    let (le32, le64) = (u32::to_le_bytes, u64::to_le_bytes);
    let table = Structure::RegionTable;
    let mut images = Vec::new();
    let mut add = |what: &str, changes: &[(usize, &[u8])], ours, theirs| {
        images.push(bent(what, in_both(&whole, REGIONS, 65536, changes), ours, theirs));
    };
    let (first, second) = (16, 48);
    let id = |entry: usize| whole[REGIONS[0] + entry..REGIONS[0] + entry + 16].to_vec();
    add("signature", &[(0, b"rege")], checksum(table), Theirs::Refuses);
    add("count", &[(8, &le32(2048))], field(Field::TableSize, 2048), Theirs::Refuses);
    add("no region", &[(8, &le32(0))], truncated(table), Theirs::Refuses);
    add("no metadata", &[(8, &le32(1))], truncated(table), Theirs::Refuses);
    add("a region twice", &[(second, &id(first))], entry(table, 1, 2 << 20), Theirs::Refuses);
    add(
        "an unknown region that is needed",
        &[(second, &[9; 16])],
        BlockError::Features { unknown: 1 },
        Theirs::Refuses,
    );
    add("an odd place", &[(first + 16, &le64((3 << 20) + 4096))], entry(table, 0, (3 << 20) + 4096), Theirs::Reads);
    add("over the headers", &[(first + 16, &le64(0))], entry(table, 0, 0), Theirs::Refuses);
    add("over the log", &[(first + 16, &le64(1 << 20))], entry(table, 0, 1 << 20), Theirs::Refuses);
    add("over another", &[(second + 16, &le64(3 << 20))], entry(table, 1, 3 << 20), Theirs::Refuses);
    add("past the end", &[(first + 16, &le64(1 << 40))], truncated(table), Theirs::Reads);
    add("longer than the file", &[(first + 24, &le32(1 << 30))], truncated(table), Theirs::Refuses);
    let torn = with(&whole, &[(REGIONS[0] + 9, &[1]), (REGIONS[1] + 9, &[1])]);
    images.push(bent("checksums", torn, checksum(table), Theirs::Refuses));
    judge(dir.path(), Format::Vhdx, images);
}

#[test]
fn every_field_of_a_vhdxs_metadata_and_table_has_its_error() {
    let Some(dir) = scratch() else { return };
    let whole = whole();
    let (le16, le32, le64) = (u16::to_le_bytes, u32::to_le_bytes, u64::to_le_bytes);
    let metadata = Structure::Metadata;
    let mut images = Vec::new();
    let mut add = |what: &str, changes: &[(usize, &[u8])], ours, theirs| {
        images.push(bent(what, with(&whole, changes), ours, theirs));
    };
    let item = |index: usize| METADATA + 32 + 32 * index;
    let place = number_at(&whole, item(1) + 16);
    let id = whole[item(0)..item(0) + 16].to_vec();
    add("signature", &[(METADATA, b"metadatb")], magic(metadata), Theirs::Refuses);
    add("count", &[(METADATA + 10, &le16(2048))], magic(metadata), Theirs::Refuses);
    add("no item", &[(METADATA + 10, &le16(0))], truncated(metadata), Theirs::Refuses);
    add("an item twice", &[(item(1), &id)], entry(metadata, 1, place), Theirs::Refuses);
    add("an unknown item that is needed", &[(item(4), &[9; 16])], BlockError::Features { unknown: 4 }, Theirs::Refuses);
    for size in [0, 512 << 10, 3 << 20, 512 << 20, u32::MAX] {
        add(
            &format!("blocks of {size}"),
            &[(VALUES, &le32(size))],
            field(Field::BlockSize, size.into()),
            Theirs::Refuses,
        );
    }
    add("a parent without its name", &[(VALUES + 4, &[2])], BlockError::Differencing, Theirs::Refuses);
    add("no disk", &[(VALUES + 8, &le64(0))], field(Field::VirtualSize, 0), Theirs::Refuses);
    let entries = 131_072;
    for blocks in [140_000, 1 << 43] {
        let needed = blocks + (blocks - 1) / 4096;
        let error = BlockError::TableShort { entries, needed };
        add(&format!("a disk of {blocks} blocks"), &[(VALUES + 8, &le64(blocks << 20))], error, Theirs::Refuses);
    }
    for size in [0, 1024, u32::MAX] {
        let error = field(Field::SectorSize, size.into());
        add(&format!("sectors of {size}"), &[(VALUES + 32, &le32(size))], error, Theirs::Refuses);
    }
    let far = (whole.len() as u64).next_multiple_of(1 << 20);
    for (found, theirs) in [
        (6, Theirs::Reads),
        (1 << 20 | 6, Theirs::Refuses),
        (2 << 20 | 6, Theirs::Refuses),
        (far | 6, Theirs::Refuses),
        (!0xfffff | 6, Theirs::Refuses),
        (5 << 20 | 7, Theirs::Refuses),
    ] {
        let error = entry(Structure::Table, 0, found);
        add(&format!("a block at {found:#x}"), &[(TABLE, &le64(found))], error, theirs);
    }
    judge(dir.path(), Format::Vhdx, images);
}

/// P4: a count of 2^32 and some, which 32 bits would take for some.
#[test]
fn a_huge_block_count_is_not_truncated() {
    let Some(dir) = scratch() else { return };
    let blocks = (((1u64 << 32) + 5) << 12).div_ceil(4097);
    let (needed, entries) = (blocks + (blocks - 1) / 4096, 131_072);
    assert!(needed > 1 << 32 && u64::from(needed as u32) < entries);
    let bytes = with(&whole(), &[(VALUES + 8, &(blocks << 20).to_le_bytes())]);
    let error = BlockError::TableShort { entries, needed };
    judge(dir.path(), Format::Vhdx, vec![bent("blocks", bytes, error, Theirs::Refuses)]);
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()).into()
}

/// qemu-img opens none for reading that has a log with changes, and takes a log without an entry that looks sound for empty.
#[test]
fn every_field_of_a_vhdxs_log_has_its_error() {
    let Some(dir) = scratch() else { return };
    let (le32, le64) = (u32::to_le_bytes, u64::to_le_bytes);
    let plain = whole();
    let table = plain[TABLE..TABLE + 4096].to_vec();
    let changes: [Changes<'_>; 1] = [&[(TABLE as u64, Some(table)), (TABLE as u64 + 4096, None)]];
    let logged = with_log(plain, 0, 7, &changes);
    let (len, broken) = (8192, checksum(Structure::Log));
    let signed = |at: usize, change: &[u8]| {
        let mut bytes = with(&logged, &[(MIB + at, change)]);
        sign_crc32c(&mut bytes, MIB, len);
        bytes
    };
    let mut images = Vec::new();
    for (what, at, change, theirs) in [
        ("length, odd", 8, &le32(5000)[..], Theirs::Reads),
        ("length of nothing", 8, &le32(0), Theirs::Reads),
        ("length past the log", 8, &le32(2 << 20), Theirs::Reads),
        ("tail, odd", 12, &le32(100), Theirs::Refuses),
        ("tail past the log", 12, &le32(1 << 20), Theirs::Refuses),
        ("number", 16, &le64(0), Theirs::Reads),
        ("descriptors", 24, &le32(200), Theirs::Refuses),
        ("descriptors of all bits", 24, &[0xff; 4], Theirs::Reads),
        ("signature of a descriptor", 64, b"desd", Theirs::Refuses),
        ("place of a descriptor", 80, &le64(100), Theirs::Refuses),
        ("number of a descriptor", 88, &le64(8), Theirs::Refuses),
        ("length of zeros", 96 + 8, &le64(100), Theirs::Refuses),
        ("signature of a sector", 4096, b"dat_", Theirs::Refuses),
        ("number of a sector, high", 4096 + 4, &[1], Theirs::Refuses),
        ("number of a sector, low", 4096 + 4092, &[1], Theirs::Refuses),
    ] {
        images.push(bent(what, signed(at, change), broken, theirs));
    }
    images.push(bent("checksum", with(&logged, &[(MIB + 70, &[1])]), broken, Theirs::Reads));
    let flushed = signed(48, &le64(1 << 40));
    images.push(bent("a file longer than it is", flushed, BlockError::Log, Theirs::Refuses));
    let zeros = signed(96 + 8, &le64(!0xfff));
    images.push(bent("zeros past all offsets", zeros, BlockError::Log, Theirs::Refuses));
    judge(dir.path(), Format::Vhdx, images);
}

/// qemu-img opens no differencing image.
#[test]
fn every_field_of_a_vhdxs_parent_has_its_error() {
    let Some(dir) = scratch() else { return };
    let linkage = format!("{{{VHDX_DATA_ID}}}");
    let child = |pairs: &[(&str, &str)]| vhdx(1 << 20, 512, Some(pairs), |_| VhdxBlock::State(0));
    let pairs = [("parent_linkage", linkage.as_str()), ("relative_path", ".\\base.vhdx")];
    let whole = child(&pairs);
    let locator = METADATA + number_at(&whole, METADATA + 32 + 32 * 5 + 16) as usize;
    let (le16, le32) = (u16::to_le_bytes, u32::to_le_bytes);
    let pair = |index| entry(Structure::Locator, index, 2);
    let mut images: Vec<Bent> = [
        ("kind", 0, le32(9).to_vec(), magic(Structure::Locator)),
        ("count of pairs", 18, le16(257).to_vec(), magic(Structure::Locator)),
        ("place of a key", 20, le32(100_000).to_vec(), pair(0)),
        ("place of a value", 24, vec![0xff; 4], pair(0)),
        ("length of a key", 28, vec![0xff; 2], pair(0)),
        ("length of a value", 32 + 10, vec![0xff; 2], pair(1)),
    ]
    .map(|(what, at, bytes, ours)| bent(what, with(&whole, &[(locator + at, &bytes)]), ours, Theirs::Refuses))
    .into();
    let more = with(&whole, &[(locator + 18, &le16(200))]);
    images.push(bent("more pairs than there are", more, entry(Structure::Locator, 2, 200), Theirs::Refuses));
    let long = with(&whole, &[(METADATA + 32 + 32 * 5 + 20, &le32(2 << 20))]);
    images.push(bent("length of the item", long, truncated(Structure::Locator), Theirs::Refuses));
    for (what, pairs) in [
        ("no linkage", vec![pairs[1]]),
        ("no path", vec![pairs[0]]),
        ("a linkage that is none", vec![("parent_linkage", "{0}"), pairs[1]]),
        ("a path to a folder", vec![pairs[0], ("absolute_win32_path", "C:\\a\\")]),
    ] {
        images.push(bent(what, child(&pairs), BlockError::Differencing, Theirs::Refuses));
    }
    judge(dir.path(), Format::Vhdx, images);
}
