use super::{Bent, Theirs, checksum, entry, field, judge, magic, truncated, with};
use crate::ops::convert::tests::read;
use crate::testing::foreign::vhd_child;
use crate::testing::{qemu_img, qemu_io, scratch};
use instar_abi::error::{BlockError, Field, Structure};
use instar_abi::format::Format;

const HEADER: usize = 512;
const TABLE: usize = 1536;

/// Gives footer and dynamic header at the front their checksums.
fn sign(image: &mut [u8]) {
    for (start, len, at) in [(0, 512, 64), (HEADER, 1024, HEADER + 36)] {
        image[at..at + 4].fill(0);
        let sum = !image[start..start + len].iter().map(|&byte| u32::from(byte)).sum::<u32>();
        image[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn every_field_and_table_of_a_vhd_has_its_error() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f vpc -o force_size=on a.vhd 8M").unwrap();
    qemu_io(dir, "a.vhd", "write -P 7 3M 64k").unwrap();
    let whole = read(dir, "a.vhd");
    let (footer, header, table) = (Structure::Footer, Structure::DynamicHeader, Structure::Table);
    let mut images = Vec::new();
    let mut add = |what: &str, changes: &[(usize, &[u8])], is_signed: bool, ours, theirs| {
        let mut bytes = with(&whole, changes);
        if is_signed {
            sign(&mut bytes);
        }
        images.push(Bent { what: what.to_owned(), bytes, ours, theirs });
    };
    let (be32, be64) = (u32::to_be_bytes, u64::to_be_bytes);
    let long = 0xff00_0001u64 * 512;
    add("cookie", &[(0, b"conectiy")], true, magic(footer), Theirs::Refuses);
    add("checksum", &[(66, &[0])], false, checksum(footer), Theirs::Refuses);
    add("data offset", &[(16, &be64(0))], true, magic(header), Theirs::Refuses);
    add("data offset past the end", &[(16, &be64(1 << 62))], true, magic(header), Theirs::Refuses);
    add("current size", &[(28, b"win "), (48, &be64(long))], true, field(Field::VirtualSize, long), Theirs::Refuses);
    add(
        "current size of all bits",
        &[(28, b"d2v "), (48, &[0xff; 8])],
        true,
        field(Field::VirtualSize, u64::MAX - 511),
        Theirs::Refuses,
    );
    add(
        "geometry",
        &[(28, b"qemu"), (56, &[0xff, 0xfe, 16, 255])],
        true,
        BlockError::TableShort { entries: 4, needed: 65534 * 16 * 255 / 4096 + 1 },
        Theirs::Refuses,
    );
    add("disk type", &[(60, &be32(4))], true, BlockError::Differencing, Theirs::Reads);
    add("dynamic cookie", &[(HEADER, b"cxsparsf")], true, magic(header), Theirs::Refuses);
    add("table offset", &[(HEADER + 16, &be64(1 << 40))], true, truncated(table), Theirs::Refuses);
    add("table offset of all bits", &[(HEADER + 16, &[0xff; 8])], true, truncated(table), Theirs::Refuses);
    let short = |entries| BlockError::TableShort { entries, needed: 4 };
    add("no entries", &[(HEADER + 28, &be32(0))], true, short(0), Theirs::Refuses);
    add("an entry too few", &[(HEADER + 28, &be32(3))], true, short(3), Theirs::Refuses);
    add("more entries than the file", &[(HEADER + 28, &be32(1 << 24))], true, truncated(table), Theirs::Refuses);
    let most = field(Field::TableSize, 0xffff_ffff);
    add("entries of all bits", &[(HEADER + 28, &[0xff; 4])], true, most, Theirs::Refuses);
    for block in [0, 256, 3 << 20, u32::MAX] {
        let error = field(Field::BlockSize, block.into());
        add(&format!("block size {block}"), &[(HEADER + 32, &be32(block))], true, error, Theirs::Refuses);
    }
    for found in [0xffff_fffe, whole.len() as u32 / 512, 0x7fff_ffff] {
        let error = entry(table, 0, found.into());
        add(&format!("block at {found}"), &[(TABLE, &be32(found))], false, error, Theirs::Refuses);
    }
    judge(dir, Format::Vpc, images);
}

/// One of 2^64 bytes was opened, which QEMU does not.
#[test]
fn a_disk_above_2040_gib_is_refused_in_both_subformats() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let mut images = Vec::new();
    for subformat in ["dynamic", "fixed"] {
        qemu_img(dir, &format!("create -q -f vpc -o subformat={subformat},force_size=on a.vhd 8M")).unwrap();
        let whole = read(dir, "a.vhd");
        // A fixed one has its footer at the end only.
        let footer = if subformat == "fixed" { whole.len() - 512 } else { 0 };
        for sectors in [0xff00_0001u64, 1 << 54, u64::MAX / 512] {
            let size = sectors * 512;
            let mut bytes = with(&whole, &[(footer + 48, &size.to_be_bytes())]);
            bytes[footer + 64..footer + 68].fill(0);
            let sum = !bytes[footer..footer + 512].iter().map(|&byte| u32::from(byte)).sum::<u32>();
            bytes[footer + 64..footer + 68].copy_from_slice(&sum.to_be_bytes());
            let what = format!("{subformat} disk of {size} bytes");
            images.push(Bent { what, bytes, ours: field(Field::VirtualSize, size), theirs: Theirs::Refuses });
        }
    }
    judge(dir, Format::Vpc, images);
}

#[test]
fn every_field_of_a_vhds_parent_has_its_error() {
    let Some(dir) = scratch() else { return };
    let whole = vhd_child(1 << 20, [1; 16], (b"W2ru", "base.vhd"), |_| None);
    let locator = HEADER + 576 + 24;
    let be64 = u64::to_be_bytes;
    let mut images = Vec::new();
    // qemu-img reads it as if it had no parent, whatever stands there.
    for (what, at, bytes) in [
        ("platform", locator, &b"W2rx"[..]),
        ("length of nothing", locator + 8, &[0; 4]),
        ("place past the end", locator + 16, &be64(1 << 50)),
        ("place of all bits", locator + 16, &[0xff; 8]),
        ("a name of dots", 1536, b".\0.\0\0\0"),
        ("a folder", 1536, b"a\0\\\0\0\0"),
        ("nothing", 1536, &[0; 2]),
    ] {
        let mut bent = with(&whole, &[(at, bytes)]);
        sign(&mut bent);
        images.push(Bent { what: what.to_owned(), bytes: bent, ours: BlockError::Differencing, theirs: Theirs::Reads });
    }
    let bent = with(&whole, &[(HEADER + 64, b"x")]);
    let ours = checksum(Structure::DynamicHeader);
    images.push(Bent { what: "checksum".to_owned(), bytes: bent, ours, theirs: Theirs::Reads });
    judge(dir.path(), Format::Vpc, images);
}
