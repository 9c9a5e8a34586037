//! VMDKs of several files, those of ESX among them, as qemu-img reads them.

use super::{job, read, run};
use crate::testing::foreign::{cowd, se_sparse};
use crate::testing::{qemu_img, scratch};
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::request::{Answer, DiskId, Given, LayerId, NeedKind, TargetFormat};
use std::path::Path;

/// Converts `top`, whose content is in `files`, to raw.
fn ours(dir: &Path, top: &str, files: &[&str]) -> Result<Vec<u8>, Error> {
    let sources = [&[top], files].concat().iter().map(|file| read(dir, file)).collect();
    let (mut job, disks) = job(sources, TargetFormat::Raw);
    job.answers = (1..)
        .zip(files)
        .map(|(index, file)| Answer {
            layer: LayerId(0),
            kind: NeedKind::Extent,
            name: file.as_bytes().to_vec(),
            given: Given::Disk(DiskId(index)),
        })
        .collect();
    run(&job, &disks)
}

fn agree(dir: &Path, top: &str, files: &[&str]) {
    qemu_img(dir, &format!("convert -f vmdk -O raw {top} expected.raw")).unwrap();
    let found = ours(dir, top, files).unwrap_or_else(|error| panic!("{top}: {error:?}"));
    assert!(found == read(dir, "expected.raw"), "{top}: content differs");
}

/// 20 MiB with content here and there.
fn content() -> Vec<u8> {
    let mut bytes = vec![0; 20 << 20];
    for (at, len) in [(0, 5000), (70_000, 1), (2 << 20, 300_000), ((4 << 20) - 512, 512), (17 << 20, 9000)] {
        for (index, byte) in bytes[at..at + len].iter_mut().enumerate() {
            *byte = (index % 251) as u8 + 1;
        }
    }
    bytes
}

fn describe(dir: &Path, file: &str, kind: &str, lines: &str) {
    let text = format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"{kind}\"\n{lines}\n");
    std::fs::write(dir.join(file), text).unwrap();
}

#[test]
fn content_in_several_files_is_read_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), content()).unwrap();
    for (kind, file) in [
        ("monolithicFlat", "b-flat.vmdk"),
        ("twoGbMaxExtentSparse", "b-s001.vmdk"),
        ("twoGbMaxExtentFlat", "b-f001.vmdk"),
    ] {
        qemu_img(dir, &format!("convert -f raw -O vmdk -o subformat={kind} a.raw b.vmdk")).unwrap();
        agree(dir, "b.vmdk", &[file]);
    }
    qemu_img(dir, "convert -f raw -O vmdk a.raw s.vmdk").unwrap();
    qemu_img(dir, "convert -f raw -O vmdk -o subformat=streamOptimized a.raw z.vmdk").unwrap();
    std::fs::write(dir.join("c1"), cowd(&content(), 1)).unwrap();
    std::fs::write(dir.join("c128"), cowd(&content(), 128)).unwrap();
    std::fs::write(dir.join("e"), se_sparse(&content())).unwrap();
    describe(dir, "cowd.vmdk", "vmfsSparse", "RW 40960 VMFSSPARSE \"c1\"");
    agree(dir, "cowd.vmdk", &["c1"]);
    describe(dir, "se.vmdk", "seSparse", "RW 40960 SESPARSE \"e\"");
    agree(dir, "se.vmdk", &["e"]);
    // Grains of several sizes, which begin anywhere; a file twice.
    let lines = "RW 77 FLAT \"a.raw\" 3\nRW 40960 SPARSE \"s.vmdk\"\nRW 40960 SESPARSE \"e\"\nRW 9 FLAT \"a.raw\" 0\n\
        RW 40960 VMFSSPARSE \"c128\"\nRW 100 VMFS \"a.raw\"\nRW 40960 SPARSE \"c1\"";
    describe(dir, "all.vmdk", "twoGbMaxExtentSparse", lines);
    agree(dir, "all.vmdk", &["a.raw", "s.vmdk", "e", "c128", "c1"]);
}

/// qemu-img leaves such lines out, and the disk is shorter.
#[test]
fn extents_of_zeros_and_read_only_ones_are_parts_of_the_disk() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a"), [7; 2048]).unwrap();
    describe(dir, "b.vmdk", "vmfs", "RW 2 VMFS \"a\"\nRW 3 ZERO\nRDONLY 2 FLAT \"a\" 2");
    let expected = [vec![7; 1024], vec![0; 1536], vec![7; 1024]].concat();
    assert_eq!(ours(dir, "b.vmdk", &["a"]), Ok(expected));
}

#[test]
fn every_bent_descriptor_and_header_has_its_error() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a"), [7; 2048]).unwrap();
    let error = |dir: &Path, file: &str, files: &[&str]| match ours(dir, file, files) {
        Err(Error::Block { error, .. }) => error,
        other => panic!("{other:?}"),
    };
    let many: String = (0..257).map(|index| format!("RW 1 VMFS \"{index}\"\n")).collect();
    let again = "RW 1 VMFS \"a\"\n".repeat(1025);
    for (kind, lines, expected) in [
        ("custom", "RW 2 VMFS \"a\"", BlockError::CreateType),
        ("vmfs", "RW 2 FLAT \"a\"", BlockError::ExtentLine { line: 6 }),
        ("vmfs", "NOACCESS 2 VMFS \"a\"", BlockError::Field { field: Field::Access, found: 6 }),
        ("vmfs", "RW 9223372036854775807 ZERO", BlockError::Field { field: Field::VirtualSize, found: u64::MAX }),
        ("vmfs", &many, BlockError::Field { field: Field::Extents, found: 257 }),
        ("vmfs", &again, BlockError::Field { field: Field::Extents, found: 1025 }),
        ("vmfs", "RW 2 SPARSE \"a\"", BlockError::Magic { structure: Structure::Header }),
        ("vmfs", "RW 2 SESPARSE \"a\"", BlockError::Magic { structure: Structure::Header }),
    ] {
        describe(dir, "b.vmdk", kind, lines);
        assert_eq!(error(dir, "b.vmdk", &["a"]), expected, "{kind} {lines:.40}");
    }
    let field = |field, found| BlockError::Field { field, found };
    let bent = |name: &str, whole: &[u8], at: usize, value: u64, len: usize| {
        let mut bytes = whole.to_vec();
        bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        std::fs::write(dir.join("x"), bytes).unwrap();
        describe(dir, "b.vmdk", "seSparse", &format!("RW 40960 {name} \"x\""));
        error(dir, "b.vmdk", &["x"])
    };
    let whole = se_sparse(&content());
    let grains = 32 + 2 * 64;
    for (at, value, expected) in [
        (8, 1, BlockError::Version { found: 1 }),
        (16, 1 << 60, field(Field::VirtualSize, 1 << 60)),
        (24, 16, field(Field::BlockSize, 16)),
        (32, 32, field(Field::LowerTableSize, 32)),
        (40, 1, field(Field::Reserved, 1)),
        (72, 5, field(Field::Reserved, 5)),
        (80, 2, BlockError::Magic { structure: Structure::VolatileHeader }),
        (512 + 24, 1, field(Field::Journal, 1)),
        (128, 1 << 40, BlockError::Truncated { structure: Structure::Table }),
        (136, 1 << 40, field(Field::TableSize, 1 << 46)),
        (504, 1, field(Field::Reserved, 0)),
        (16 * 512, 5, BlockError::Entry { structure: Structure::Table, index: 0, found: 5 }),
        (32 * 512, 4 << 60, BlockError::Entry { structure: Structure::LowerTable, index: 0, found: 4 << 60 }),
        (
            32 * 512,
            3 << 60 | 7 << 40,
            BlockError::Entry { structure: Structure::LowerTable, index: 0, found: 3 << 60 | 7 << 40 },
        ),
    ] {
        assert_eq!(bent("SESPARSE", &whole, at, value, 8), expected, "seSparse {at}");
    }
    assert!(whole.len() > grains * 512);
    let whole = cowd(&content(), 1);
    let table = |found| BlockError::Entry { structure: Structure::Table, index: 0, found };
    for (at, value, expected) in [
        (16, 0, field(Field::BlockSize, 0)),
        (16, 0x20_0001, field(Field::BlockSize, 0x20_0001)),
        (20, 0xffff_ffff, BlockError::Truncated { structure: Structure::Table }),
        (24, 0xffff_ffff, field(Field::TableSize, 0xffff_ffff)),
        (2048, 0xffff_ffff, table(0xffff_ffff)),
    ] {
        assert_eq!(bent("SPARSE", &whole, at, value, 4), expected, "COWD {at}");
    }
}
