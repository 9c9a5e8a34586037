use super::{Bent, Theirs, entry, field, judge, magic, truncated, with};
use crate::ops::convert::tests::read;
use crate::testing::{qemu_img, qemu_io, scratch};
use instar_abi::error::{BlockError, Field, Structure};
use instar_abi::format::Format;
use std::path::Path;

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize
}

/// An image of 8 MiB with some content, and where its grain directory is.
fn made(dir: &Path, subformat: &str) -> Vec<u8> {
    qemu_img(dir, "create -q -f raw a.raw 8M").unwrap();
    qemu_io(dir, "-f raw a.raw", "write -P 7 0 64k; write -P 8 5M 200k").unwrap();
    qemu_img(dir, &format!("convert -f raw -O vmdk -o subformat={subformat} a.raw a.vmdk")).unwrap();
    read(dir, "a.vmdk")
}

/// Fields of a header at `header`: what is bent, at which byte of it, to what, and what becomes of it.
fn headers(whole: &[u8], header: usize) -> Vec<Bent> {
    let (le32, le64) = (u32::to_le_bytes, u64::to_le_bytes);
    let table = Structure::Table;
    [
        ("version", 4, le32(4).to_vec(), BlockError::Version { found: 4 }, Theirs::Refuses),
        ("version of all bits", 4, vec![0xff; 4], BlockError::Version { found: 0xffff_ffff }, Theirs::Refuses),
        ("grain of nothing", 20, le64(0).to_vec(), field(Field::BlockSize, 0), Theirs::Refuses),
        ("grain too large", 20, le64(0x20_0001).to_vec(), field(Field::BlockSize, 0x20_0001), Theirs::Refuses),
        ("table of nothing", 44, le32(0).to_vec(), field(Field::LowerTableSize, 0), Theirs::Refuses),
        ("table too large", 44, le32(513).to_vec(), field(Field::LowerTableSize, 513), Theirs::Refuses),
        ("directory past the end", 56, le64(1 << 40).to_vec(), truncated(table), Theirs::Reads),
        ("grains past the end", 64, le64(1 << 40).to_vec(), truncated(table), Theirs::Refuses),
        ("directory too long", 12, le64(1 << 62).to_vec(), field(Field::TableSize, 1 << 46), Theirs::Refuses),
    ]
    .map(|(what, at, bytes, ours, theirs)| Bent {
        what: what.to_owned(),
        bytes: with(whole, &[(header + at, &bytes)]),
        ours,
        theirs,
    })
    .into()
}

#[test]
fn every_field_and_table_of_a_sparse_vmdk_has_its_error() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let whole = made(dir, "monolithicSparse");
    let mut images = headers(&whole, 0);
    let (directory, past) = (number(&whole, 56) * 512, whole.len() as u32 / 512 + 1);
    let grains = number(&whole, directory) * 512;
    let mut add = |what: &str, changes: &[(usize, &[u8])], ours, theirs| {
        images.push(Bent { what: what.to_owned(), bytes: with(&whole, changes), ours, theirs });
    };
    for found in [past, u32::MAX] {
        let (table, grain) = (entry(Structure::Table, 0, found.into()), entry(Structure::LowerTable, 0, found.into()));
        // qemu-img reads zeros there.
        add("a table past the end", &[(directory, &found.to_le_bytes())], table, Theirs::Reads);
        add("a grain past the end", &[(grains, &found.to_le_bytes())], grain, Theirs::Reads);
    }
    let parent = b"parentFileNameHint=\"no end";
    add(
        "a parent's name without its end",
        &[(512, parent), (512 + 30, &[0; 400])],
        magic(Structure::Descriptor),
        Theirs::Refuses,
    );
    judge(dir, Format::Vmdk, images);
}

#[test]
fn every_field_and_table_of_a_streamed_vmdk_has_its_error() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    // qemu-img writes none with a footer, and reads it.
    let mut whole = made(dir, "streamOptimized");
    let counts = whole[..512].to_vec();
    whole.resize(whole.len().next_multiple_of(512), 0);
    let header = whole.len() + 512;
    whole.extend([with(&[0; 512], &[(0, &[1]), (12, &[3])]), counts, vec![0; 512]].concat());
    whole[56..64].fill(0xff);
    std::fs::write(dir.join("whole"), &whole).unwrap();
    qemu_img(dir, "compare -f vmdk -F raw whole a.raw").unwrap();
    // The header at the front only says where the one is that counts.
    let mut images = headers(&whole, header);
    let mut add = |what: &str, changes: &[(usize, &[u8])], ours, theirs| {
        images.push(Bent { what: what.to_owned(), bytes: with(&whole, changes), ours, theirs });
    };
    let footer = magic(Structure::StreamFooter);
    add("the footer's magic", &[(header, b"KDMW")], footer, Theirs::Refuses);
    add("the footer's marker", &[(header - 512 + 12, &[4])], footer, Theirs::Refuses);
    add("the footer's length", &[(header - 512 + 8, &[1])], footer, Theirs::Refuses);
    add("the end of the stream", &[(header + 512, &[1])], footer, Theirs::Refuses);
    let directory = number(&whole, header + 56) * 512;
    let grains = number(&whole, directory) * 512;
    let past = whole.len() as u32 / 512 + 1;
    let (table, grain) = (entry(Structure::Table, 0, past.into()), entry(Structure::LowerTable, 0, past.into()));
    add("a table past the end", &[(directory, &past.to_le_bytes())], table, Theirs::Reads);
    add("a grain past the end", &[(grains, &past.to_le_bytes())], grain, Theirs::Refuses);
    judge(dir, Format::Vmdk, images);
}
