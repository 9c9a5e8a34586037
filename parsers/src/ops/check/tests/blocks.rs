//! VMDK, VHDX, VHD and LUKS: what qemu-img finds, and what only we look for.

use super::{Fault, checked, run_as, same_as_qemu_img};
use crate::testing::foreign::{VhdxBlock, cowd, se_sparse, sign_crc32c, vhd_child, vhdx, with_log};
use crate::testing::{Machine, MemoryDisk, qemu_img, qemu_io, request, scratch};
use instar_abi::check::{CheckFailure, Checked, Finding, LuksFinding, VhdxFinding, VmdkFinding, VpcFinding};
use instar_abi::error::{BlockError, Error, LuksError, ReadError};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Answer, Check, DiskId, Given, LayerId, NeedKind, Op};
use std::path::Path;

const WHOLE: Op = Op::Check(Check { image: LayerId(0), as_qemu_img: false });

/// What our own check says of these bytes.
fn whole(bytes: &[u8]) -> Result<(Checked, Vec<Finding>), Error> {
    run_as(WHOLE, bytes, Fault::None).0
}

/// Our own check finds this and nothing else.
fn finds(bytes: &[u8], expected: &[Finding]) {
    let (checked, found) = whole(bytes).unwrap();
    assert_eq!(found, expected);
    assert_eq!((checked.corruptions, checked.failure), (expected.len() as u64, None));
}

fn vmdk(bytes: &[u8], expected: &[VmdkFinding]) {
    finds(bytes, &expected.iter().copied().map(Finding::Vmdk).collect::<Vec<_>>());
}

fn le32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The bytes with others at places.
fn with(bytes: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bent = bytes.to_vec();
    for (at, change) in changes {
        bent[*at..*at + change.len()].copy_from_slice(change);
    }
    bent
}

/// A VMDK of 10 MiB with content in grains 0 to 3, 80 and 144, of 64 KiB each.
fn image(dir: &Path, options: &str) -> Vec<u8> {
    qemu_img(dir, "create -q -f raw a.raw 10M").unwrap();
    qemu_io(dir, "-f raw a.raw", "write -P 1 0 200k; write -P 2 5M 64k; write -P 3 9M 1k").unwrap();
    qemu_img(dir, &format!("convert -f raw -O vmdk {options} a.raw a.vmdk").replace("  ", " ")).unwrap();
    std::fs::read(dir.join("a.vmdk")).unwrap()
}

/// Where a directory and its first table are, by the header's word at `at`.
fn first_table(bytes: &[u8], at: usize) -> (usize, usize) {
    let directory = le32(bytes, at) * 512;
    (directory, le32(bytes, directory) * 512)
}

/// Words of the header.
const DIRECTORY: usize = 56;
const REDUNDANT: usize = 48;

fn content() -> Vec<u8> {
    (0..3 << 20).map(|at: usize| if (at >> 16).is_multiple_of(3) { (at >> 12) as u8 | 1 } else { 0 }).collect()
}

#[test]
fn bent_vmdks_are_judged_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let judge = |bytes: &[u8]| {
        std::fs::write(dir.join("bent.vmdk"), bytes).unwrap();
        same_as_qemu_img(dir, "bent.vmdk").len()
    };
    let mut met = 0;
    for options in ["", "-o zeroed_grain=on", "-o subformat=streamOptimized"] {
        let sound = image(dir, options);
        assert_eq!(judge(&sound), 0, "{options}");
        let (directory, table) = first_table(&sound, DIRECTORY);
        for at in [directory, table, table + 8, table + 4 * 100, table + 4 * 511] {
            for word in [0, 1, 2, 200, sound.len() as u32 / 512 - 1, sound.len() as u32 / 512, 1 << 30, u32::MAX] {
                met += judge(&with(&sound, &[(at, &word.to_le_bytes())]));
            }
        }
        // Cut short, but for one that must have its footer.
        if !options.contains("stream") {
            for cut in [512, 70_000, 200_000] {
                met += judge(&sound[..sound.len() - cut]);
            }
        }
    }
    assert!(met > 30, "{met}");
}

#[test]
fn qemu_img_stops_at_the_first_grain_and_we_go_on() {
    let Some(dir) = scratch() else { return };
    let sound = image(dir.path(), "");
    let (table, copy) = (first_table(&sound, DIRECTORY).1, first_table(&sound, REDUNDANT).1);
    let far = [sound.len() as u32 / 512; 2].map(u32::to_le_bytes).concat();
    let bent = with(&sound, &[(table + 4, &far), (copy + 4, &far)]);
    let (result, findings) = checked(&bent).unwrap();
    assert_eq!(findings, [Finding::Vmdk(VmdkFinding::GrainPastEnd { sector: 128 })]);
    assert_eq!((result.failure, result.corruptions), (Some(CheckFailure::Invalid), 1));
    vmdk(&bent, &[128, 256].map(|sector| VmdkFinding::GrainPastEnd { sector }));
}

#[test]
fn sound_images_of_every_kind_have_nothing_wrong() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    for options in ["", "-o zeroed_grain=on", "-o subformat=streamOptimized", "-o compat6=on"] {
        vmdk(&image(dir, options), &[]);
    }
    let sound = cowd(&content(), 128);
    vmdk(&sound, &[]);
    vmdk(&with(&sound, &[(24, &[0])]), &[VmdkFinding::GrainUnreadable { sector: 0 }]);
    for (format, options) in [
        ("vhdx", ""),
        ("vhdx", "-o block_size=1M"),
        ("vhdx", "-o subformat=fixed"),
        ("vpc", ""),
        ("vpc", "-o subformat=fixed"),
        ("vpc", "-o force_size=on"),
    ] {
        qemu_img(dir, &format!("create -q -f {format} {options} a.img 10M").replace("  ", " ")).unwrap();
        qemu_io(dir, &format!("-f {format} a.img"), "write 0 200k; write 5M 64k").unwrap();
        finds(&std::fs::read(dir.join("a.img")).unwrap(), &[]);
    }
    finds(&child(), &[]);
    let partial = || VhdxBlock::Partial(vec![7; 1 << 20], |sector| sector % 3 == 0);
    finds(&vhdx(3 << 20, 512, Some(&[("relative_path", ".\\a.vhdx"), ("parent_linkage", GUID)]), |_| partial()), &[]);
    finds(&volume(dir), &[]);
}

const GUID: &str = "{00112233-4455-6677-8899-aabbccddeeff}";

fn child() -> Vec<u8> {
    let sector = |sector: u64| (sector % 300 < 9).then_some([7; 512]);
    vhd_child(1 << 20, [7; 16], (b"W2ru", ".\\base.vhd"), sector)
}

fn volume(dir: &Path) -> Vec<u8> {
    let secret = "--object secret,id=s,data=abc -o key-secret=s,iter-time=10";
    qemu_img(dir, &format!("create -q {secret} -f luks a.luks 1M")).unwrap();
    std::fs::read(dir.join("a.luks")).unwrap()
}

#[test]
fn every_grain_and_table_has_a_place_of_its_own() {
    use VmdkFinding as F;
    let Some(dir) = scratch() else { return };
    let sound = image(dir.path(), "");
    let (directory, table) = first_table(&sound, DIRECTORY);
    let (redundant, copy) = first_table(&sound, REDUNDANT);
    let grain = |index: usize| le32(&sound, table + 4 * index) as u32;
    let sector = |at: usize| ((at / 512) as u32).to_le_bytes();
    let end = sound.len() as u32 / 512;
    // Entries that the redundant table has, too.
    let both = |index: usize, word: u32| {
        let word = word.to_le_bytes();
        with(&sound, &[(table + 4 * index, &word), (copy + 4 * index, &word)])
    };
    vmdk(&both(1, grain(0)), &[F::GrainShared { sector: 128, at: grain(0).into() }]);
    // One that starts within another, and ends within the one behind that.
    let at = u64::from(grain(2)) + 5;
    vmdk(&both(1, grain(2) + 5), &[F::GrainShared { sector: 256, at }, F::GrainShared { sector: 384, at: at + 123 }]);
    vmdk(&both(1, 21), &[F::GrainShared { sector: 128, at: 21 }]);
    vmdk(&both(1, end), &[F::GrainPastEnd { sector: 128 }]);
    vmdk(&both(1, end - 1), &[F::GrainPastEnd { sector: 128 }]);
    let differs = F::RedundantTable { extent: 0, index: 0 };
    vmdk(&with(&sound, &[(copy + 8, &[0xff])]), &[differs]);
    vmdk(&with(&sound, &[(redundant, &[0; 4])]), &[differs]);
    vmdk(&with(&sound, &[(directory, &[0; 4])]), &[differs]);
    vmdk(&with(&sound, &[(directory, &sector(copy))]), &[]);
    let past = F::TablePastEnd { extent: 0, index: 0 };
    vmdk(&with(&sound, &[(directory, &end.to_le_bytes())]), &[past, differs]);
    let shared = F::TableShared { extent: 0, index: 0, at: (directory / 512) as u64 };
    vmdk(&with(&sound, &[(redundant, &sector(directory))]), &[differs, shared]);
    let place = |at: usize| (at as u64 / 512).to_le_bytes();
    vmdk(&with(&sound, &[(REDUNDANT, &place(sound.len()))]), &[F::RedundantDirectory { extent: 0 }]);
    vmdk(
        &with(&sound, &[(REDUNDANT, &place(512))])[..],
        &[
            F::MetadataShared { extent: 0, at: 1 },
            // What stands there is a text.
            F::RedundantTable { extent: 0, index: 0 },
        ],
    );
}

#[test]
fn headers_and_markers_are_looked_at() {
    use VmdkFinding as F;
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let sound = image(dir, "");
    vmdk(&with(&sound, &[(72, &[1])]), &[F::Unclean { extent: 0 }]);
    vmdk(&with(&sound, &[(73, b"\r\n")]), &[F::LineEnds { extent: 0 }]);
    let line = sound.windows(8).position(|bytes| bytes == b"RW 20480").unwrap();
    let expected = F::ExtentLen { extent: 0, found: 20480, expected: 20481 };
    vmdk(&with(&sound, &[(line + 7, b"1")]), &[expected]);

    let stream = image(dir, "-o subformat=streamOptimized");
    let (_, table) = first_table(&stream, DIRECTORY);
    let marker = le32(&stream, table + 4) * 512;
    vmdk(&with(&stream, &[(marker, &7u64.to_le_bytes())]), &[F::MarkerPlace { sector: 128, found: 7 }]);
    for len in [0u32, 1 << 30] {
        vmdk(&with(&stream, &[(marker + 8, &len.to_le_bytes())]), &[F::MarkerLen { sector: 128, len }]);
    }
    // With the tables at its end, and another header in front.
    let footer = [vec![0; 512], stream[..512].to_vec(), vec![0; 512]].concat();
    let mut at_end = [stream.clone(), footer].concat();
    let marker = stream.len();
    at_end[marker..marker + 16].copy_from_slice(&[1u64.to_le_bytes(), (3u64 << 32).to_le_bytes()].concat());
    at_end[DIRECTORY..DIRECTORY + 8].fill(0xff);
    vmdk(&at_end, &[]);
    at_end[12] ^= 0x80;
    vmdk(&at_end, &[F::Footer { extent: 0 }]);
}

/// An image whose descriptor names `b.vmdk`, by a line with `line` for the rest.
fn in_two_files(line: &str, file: &[u8], op: &Op) -> Result<(Checked, Vec<Finding>), Error> {
    let kind = if line.contains("SESPARSE") { "seSparse" } else { "monolithicFlat" };
    let text = format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"{kind}\"\n{line}\n");
    let disks = [MemoryDisk::new(text.into_bytes()), MemoryDisk::new(file.to_vec())];
    let mut request = request(op.clone(), &disks);
    let mut machine = Machine::new(&request, &disks);
    assert_eq!(super::check(&request, &mut machine), Ok(End::NeedsMore));
    // Each file once, however many extents it holds.
    assert!(matches!(&machine.frames[..], [Frame::Needs(needs)] if needs.len() == 1 && needs[0].name == b"b.vmdk"));
    let given = Given::Disk(DiskId(1));
    request.answers = vec![Answer { layer: LayerId(0), kind: NeedKind::Extent, name: b"b.vmdk".to_vec(), given }];
    let mut machine = Machine::new(&request, &disks);
    super::check(&request, &mut machine)?;
    let mut findings = Vec::new();
    for frame in machine.frames {
        match frame {
            Frame::Findings(more) => findings.extend(more),
            Frame::Checked(checked) => return Ok((checked, findings)),
            frame => panic!("{frame:?}"),
        }
    }
    panic!("no result")
}

#[test]
fn extents_in_files_of_their_own_are_looked_into() {
    use VmdkFinding as F;
    let as_qemu_img = &super::CHECK;
    let found = |line: &str, file: &[u8], op: &Op| -> Vec<F> {
        let of = |finding| if let Finding::Vmdk(finding) = finding { finding } else { panic!("{finding:?}") };
        in_two_files(line, file, op).unwrap().1.into_iter().map(of).collect()
    };
    let flat = "RW 100 FLAT \"b.vmdk\" 10";
    assert_eq!(found(flat, &vec![1; 110 * 512], &WHOLE), []);
    assert_eq!(found("RW 100 FLAT \"b.vmdk\" 10\nRW 9 FLAT \"b.vmdk\" 0", &vec![1; 110 * 512], &WHOLE), []);
    let short = F::FlatShort { extent: 0, found: 109 * 512, expected: 110 * 512 };
    assert_eq!(found(flat, &vec![1; 109 * 512], &WHOLE), [short]);
    // QEMU looks at the first byte alone.
    assert_eq!(found(flat, &vec![1; 11 * 512], as_qemu_img), []);
    assert_eq!(found(flat, &vec![1; 10 * 512], as_qemu_img), [F::GrainPastEnd { sector: 0 }]);

    let content = content();
    let sparse = se_sparse(&content);
    let line = format!("RW {} SESPARSE \"b.vmdk\"", content.len() / 512);
    assert_eq!(found(&line, &sparse, &WHOLE), []);
    assert_eq!(found(&line, &sparse, as_qemu_img), []);
    let longer = "RW 8 SESPARSE \"b.vmdk\"";
    let sectors = content.len() as u64 / 512;
    assert_eq!(found(longer, &sparse, &WHOLE), [F::ExtentLen { extent: 0, found: sectors, expected: 8 }]);
    let table = 32 * 512;
    let entry = |word: u64| with(&sparse, &[(table + 8 * 5, &word.to_le_bytes())]);
    // An unknown type; a grain past the end; one that another entry has.
    for op in [as_qemu_img, &WHOLE] {
        assert_eq!(found(&line, &entry(4 << 60), op), [F::GrainUnreadable { sector: 40 }]);
        assert_eq!(found(&line, &entry(3 << 60 | 0xffff), op), [F::GrainPastEnd { sector: 40 }]);
    }
    let first = u64::from_le_bytes(sparse[table..table + 8].try_into().unwrap());
    assert_eq!(first, 3 << 60, "the first grain");
    let grains = u64::from_le_bytes(sparse[192..200].try_into().unwrap());
    assert_eq!(found(&line, &entry(3 << 60), &WHOLE), [F::GrainShared { sector: 40, at: grains }]);
    // The directory.
    let bent = with(&sparse, &[(16 * 512 + 7, &[0x20])]);
    for op in [as_qemu_img, &WHOLE] {
        assert_eq!(found(&line, &bent, op)[0], F::GrainUnreadable { sector: 0 });
    }
}

#[test]
fn a_file_that_was_not_given_is_an_error() {
    let disks = [MemoryDisk::new(
        b"# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 9 FLAT \"b\" 0\n".to_vec(),
    )];
    let mut request = request(WHOLE, &disks);
    let given = Given::Refused;
    request.answers = vec![Answer { layer: LayerId(0), kind: NeedKind::Extent, name: b"b".to_vec(), given }];
    let result = super::check(&request, &mut Machine::new(&request, &disks));
    assert!(matches!(result, Err(Error::Block { error: BlockError::NoExtent { index: 0 }, .. })), "{result:?}");
}

/// A VHDX of qemu-img's with 10 blocks of 1 MiB, of which 0, 1 and 5 are there, and where its table is.
fn vhdx_of_qemu_img(dir: &Path) -> (Vec<u8>, usize) {
    qemu_img(dir, "create -q -f vhdx -o block_size=1M a.vhdx 10M").unwrap();
    qemu_io(dir, "-f vhdx a.vhdx", "write 0 2M; write 5M 64k").unwrap();
    let bytes = std::fs::read(dir.join("a.vhdx")).unwrap();
    let region = |id: &[u8]| {
        let at = 0x30010 + (0..2).map(|index| 32 * index).find(|at| bytes[0x30010 + at..].starts_with(id)).unwrap();
        u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap()) as usize
    };
    let table = region(&[0x66, 0x77, 0xc2, 0x2d]);
    (bytes, table)
}

#[test]
fn bent_tables_of_vhdx_are_judged_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let (sound, table) = vhdx_of_qemu_img(dir);
    let judge = |bytes: &[u8]| {
        std::fs::write(dir.join("bent.vhdx"), bytes).unwrap();
        same_as_qemu_img(dir, "bent.vhdx").len()
    };
    assert_eq!(judge(&sound), 0);
    let mut met = 0;
    let end = sound.len() as u64;
    for index in [0, 1, 2, 9] {
        for state in [0u64, 1, 2, 3, 6, 7] {
            for offset in [0, 1 << 20, 2 << 20, 3 << 20, end - (1 << 20), end, 1 << 62, u64::MAX << 20] {
                met += judge(&with(&sound, &[(table + 8 * index, &(offset | state).to_le_bytes())]));
            }
        }
    }
    for cut in [512, 70_000, 1 << 20, 3 << 20] {
        met += judge(&sound[..sound.len() - cut]);
    }
    assert!(met > 30, "{met}");
    // A last block that ends with the disk, as QEMU once made them.
    qemu_img(dir, "create -q -f vhdx -o block_size=1M,subformat=fixed a.vhdx 3500k").unwrap();
    let sound = std::fs::read(dir.join("a.vhdx")).unwrap();
    for cut in [0, 512 << 10, 700 << 10] {
        judge(&sound[..sound.len() - cut]);
    }
}

#[test]
fn each_thing_that_can_be_wrong_with_a_vhdx_is_told() {
    use VhdxFinding as F;
    let Some(dir) = scratch() else { return };
    let (sound, table) = vhdx_of_qemu_img(dir.path());
    let finds = |bytes: &[u8], expected: &[F]| {
        finds(bytes, &expected.iter().copied().map(Finding::Vhdx).collect::<Vec<_>>());
    };
    let entry = |index: usize, word: u64| with(&sound, &[(table + 8 * index, &word.to_le_bytes())]);
    let place = |index: usize| {
        u64::from_le_bytes(sound[table + 8 * index..table + 8 * index + 8].try_into().unwrap()) >> 20 << 20
    };
    finds(&entry(2, place(1) | 6), &[F::Shared { index: 2, offset: place(1) }]);
    finds(&entry(2, 4), &[F::State { index: 2, state: 4 }]);
    finds(&entry(2, place(1) | 7), &[F::State { index: 2, state: 7 }]);
    finds(&entry(2, 1 << 5), &[F::Reserved { index: 2, entry: 1 << 5 }]);
    let front = F::RegionOverlap { start: 0, end: 1 << 20, region_start: 0, region_end: 1 << 20 };
    finds(&entry(0, 6), &[front]);
    let file_len = sound.len() as u64;
    finds(&entry(0, file_len | 6), &[F::StartPastEnd { index: 0, offset: file_len, file_len }]);
    // Copies.
    for (at, expected) in [
        (0x1_0010, F::Header { number: 1 }),
        (0x2_0010, F::Header { number: 2 }),
        (0x3_0010, F::RegionTable { number: 1 }),
        (0x4_0010, F::RegionTable { number: 2 }),
    ] {
        finds(&with(&sound, &[(at, &[sound[at] ^ 1])]), &[expected]);
    }
    let mut differs = with(&sound, &[(0x4_0010 + 28, &[sound[0x4_0010 + 28] ^ 1])]);
    sign_crc32c(&mut differs, 0x4_0000, 0x1_0000);
    finds(&differs, &[F::RegionTablesDiffer]);
    // A bitmap that is not there.
    let parent = [("relative_path", ".\\a.vhdx"), ("parent_linkage", GUID)];
    let partial = || VhdxBlock::Partial(vec![7; 1 << 20], |sector| sector % 3 == 0);
    let mut child = vhdx(2 << 20, 512, Some(&parent), |_| partial());
    child[(3 << 20) + 8 * 4096..][..8].fill(0);
    finds(&child, &[F::NoBitmap { index: 0 }, F::NoBitmap { index: 1 }]);
    // A log.
    let full = |_| VhdxBlock::Full(vec![7; 1 << 20]);
    let image = vhdx(2 << 20, 512, None, full);
    finds(&image, &[]);
    let sector = image[3 << 20..][..4096].to_vec();
    let logged = with_log(image, 0, 5, &[&[(3 << 20, Some(sector))]]);
    finds(&logged, &[F::Log]);
    assert_eq!(checked(&logged).unwrap().1, [], "as qemu-img sees it once it is replayed");
}

#[test]
fn each_thing_that_can_be_wrong_with_a_vhd_is_told() {
    use VpcFinding as F;
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let sound = child();
    let finds = |bytes: &[u8], expected: &[F]| {
        finds(bytes, &expected.iter().copied().map(Finding::Vpc).collect::<Vec<_>>());
    };
    let sign = |bytes: &mut [u8], at: usize, len: usize, sum: usize| {
        bytes[at + sum..at + sum + 4].fill(0);
        let value = !bytes[at..at + len].iter().fold(0u32, |sum, &byte| sum.wrapping_add(byte.into()));
        bytes[at + sum..at + sum + 4].copy_from_slice(&value.to_be_bytes());
    };
    let footers = |at: usize, change: &[u8]| {
        let last = sound.len() - 512;
        let mut bent = with(&sound, &[(at, change), (last + at, change)]);
        sign(&mut bent, 0, 512, 64);
        sign(&mut bent, last, 512, 64);
        bent
    };
    finds(&footers(12, &[7]), &[F::Version { found: 0x0701_0000 }]);
    finds(&footers(60, &9u32.to_be_bytes()), &[F::Kind { found: 9 }]);
    finds(&sound[..sound.len() - 512], &[F::FooterCopy]);
    finds(&sound[..sound.len() - 1], &[]);
    let mut bent = with(&sound, &[(512 + 24, &[7])]);
    sign(&mut bent, 512, 1024, 36);
    finds(&bent, &[F::Version { found: 0x0701_0000 }]);
    let table = 2048;
    let entry = |index: usize| u32::from_be_bytes(sound[table + 4 * index..][..4].try_into().unwrap());
    let there: Vec<usize> = (0..16).filter(|index| entry(*index) != u32::MAX).collect();
    let [first, second, ..] = there[..] else { panic!("{there:?}") };
    let bent = |word: u32| with(&sound, &[(table + 4 * second, &word.to_be_bytes())]);
    let index = second as u64;
    finds(&bent(entry(first)), &[F::Shared { index, at: entry(first).into() }]);
    finds(&bent(2), &[F::Shared { index, at: 2 }]);
    finds(&bent(sound.len() as u32 / 512), &[F::PastEnd { index }]);
    // The table in the place of the header: what it says then is a header's.
    let mut bent = with(&sound, &[(512 + 16, &512u64.to_be_bytes())]);
    sign(&mut bent, 512, 1024, 36);
    let found = whole(&bent).unwrap().1;
    assert_eq!(found.first(), Some(&Finding::Vpc(F::MetadataShared { at: 1 })));
    // A dynamic disk's own checksum is not looked at when it is opened.
    qemu_img(dir, "create -q -f vpc a.vhd 10M").unwrap();
    let dynamic = std::fs::read(dir.join("a.vhd")).unwrap();
    finds(&with(&dynamic, &[(512 + 600, &[7])]), &[F::HeaderChecksum]);
    qemu_img(dir, "create -q -f vpc -o subformat=fixed,force_size=on b.vhd 1M").unwrap();
    let fixed = std::fs::read(dir.join("b.vhd")).unwrap();
    let short = [&fixed[..(1 << 20) - 1024], &fixed[1 << 20..]].concat();
    finds(&short, &[F::FixedShort { found: (1 << 20) - 1024, expected: 1 << 20 }]);
}

#[test]
fn what_of_a_volume_is_past_the_end_is_told() {
    let Some(dir) = scratch() else { return };
    let sound = volume(dir.path());
    let finds = |bytes: &[u8], expected: &[LuksFinding]| {
        finds(bytes, &expected.iter().copied().map(Finding::Luks).collect::<Vec<_>>());
    };
    let payload = u64::from(u32::from_be_bytes(sound[104..108].try_into().unwrap())) * 512;
    let at = |len: u64| LuksFinding::PayloadPastEnd { offset: payload, file_len: len };
    finds(&sound[..payload as usize], &[]);
    finds(&sound[..payload as usize - 512], &[at(payload - 512)]);
    finds(&sound[..8192], &[LuksFinding::SlotPastEnd { slot: 0 }, at(8192)]);
    finds(&with(&sound, &[(208, &0xdeadu32.to_be_bytes())]), &[LuksFinding::NoSlot]);
    let bent = whole(&with(&sound, &[(8, b"xes")])).unwrap_err();
    assert!(matches!(bent, Error::Luks { error: LuksError::Cipher { .. }, .. }), "{bent:?}");
    assert_eq!(checked(&sound), Err(Error::NoCheck { format: Format::Luks }));
    assert_eq!(checked(&child()), Err(Error::NoCheck { format: Format::Vpc }));
}

#[test]
fn a_failing_request_is_told_in_every_format() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    for image in [image(dir, ""), image(dir, "-o subformat=streamOptimized"), vhdx_of_qemu_img(dir).0, child()] {
        let (result, requests) = run_as(WHOLE, &image, Fault::None);
        assert!(result.is_ok() && requests > 1);
        for number in 0..requests {
            let (result, _) = run_as(WHOLE, &image, Fault::Request(number));
            assert!(matches!(result, Err(Error::Read(ReadError::Io { .. }))), "{number}: {result:?}");
        }
    }
}
