use super::*;
use crate::store::{Budget, Cache, Queue, Store};
use crate::testing::{INFO, Machine, MemoryDisk, qemu_img, request, scratch};
use instar_io::Env;

fn with_layer(bytes: Vec<u8>, change: impl FnOnce(&mut Layer)) -> Result<Format, DetectError> {
    let disks = [MemoryDisk::new(bytes)];
    let mut request = request(INFO, &disks);
    change(&mut request.layers[0]);
    let mut machine = Machine::new(&request, &disks);
    let mut queue = Queue::new(machine.lane());
    let (cache, budget) = (&mut Cache::new(), &mut Budget::from(request.budget));
    let mut store = Store { queue: &mut queue, cache, budget, disks: &request.disks };
    let result = detect(&mut store, LayerId(0), &request.layers[0]);
    assert!(machine.kicks() <= 1, "one batch");
    result.map_err(|error| match error {
        Error::Detect { layer: LayerId(0), error } => error,
        other => panic!("{other:?}"),
    })
}

fn strict(bytes: Vec<u8>) -> Result<Format, DetectError> {
    with_layer(bytes, |_| {})
}

fn open_gate(bytes: Vec<u8>) -> Result<Format, DetectError> {
    with_layer(bytes, |layer| layer.raw_gate = RawGate::Open)
}

/// `magic` at `at` of a file of `len` bytes.
fn file(len: usize, at: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[at..at + magic.len()].copy_from_slice(magic);
    bytes
}

fn mbr(kind: u8, flag: u8) -> Vec<u8> {
    let mut bytes = file(4096, 510, &[0x55, 0xaa]);
    bytes[446] = flag;
    bytes[450] = kind;
    bytes[458] = 1;
    bytes
}

#[test]
fn every_magic_is_known() {
    let koly = [b"koly".as_slice(), &[0, 0, 0, 4], &[0, 0, 2, 0]].concat();
    let bochs = {
        let mut bytes = file(512, 0, b"Bochs Virtual HD Image\0");
        bytes[32..39].copy_from_slice(b"Redolog");
        bytes[48..55].copy_from_slice(b"Growing");
        bytes[64..68].copy_from_slice(&0x0002_0000u32.to_le_bytes());
        bytes
    };
    let parallels = |magic: &[u8]| [magic, &2u32.to_le_bytes(), &[0; 500]].concat();
    for (format, bytes) in [
        (Format::Qcow2, file(512, 0, b"QFI\xfb\0\0\0\x02")),
        (Format::Qcow2, file(512, 0, b"QFI\xfb\0\0\0\x03")),
        (Format::Qcow2, file(512, 0, b"QFI\xfb\0\0\0\x09")),
        (Format::Qcow, file(512, 0, b"QFI\xfb\0\0\0\x01")),
        (Format::Vmdk, file(512, 0, b"KDMV")),
        (Format::Vmdk, file(512, 0, b"COWD")),
        (Format::Vmdk, file(512, 0, SESPARSE_MAGIC)),
        (Format::Vmdk, b"# Disk DescriptorFile\n# more\n   \nversion=1\nCID=1\n".to_vec()),
        (Format::Vmdk, b"# Disk DescriptorFile\r\nversion=3\r\n".to_vec()),
        (Format::Vpc, file(512, 0, b"conectix")),
        (Format::Vpc, file(4096 + 512, 4096, b"conectix")),
        (Format::Vpc, file(4096 + 511, 4096, b"conectix")),
        (Format::Vhdx, file(512, 0, b"vhdxfile")),
        (Format::Vdi, file(512, 0x40, &0xbeda_107fu32.to_le_bytes())),
        (Format::Luks, file(4096, 0, b"LUKS\xba\xbe\0\x01")),
        (Format::Luks, file(4096, 0, b"LUKS\xba\xbe\0\x02")),
        (Format::Parallels, parallels(b"WithoutFreeSpace")),
        (Format::Parallels, parallels(b"WithouFreSpacExt")),
        (Format::Qed, file(512, 0, b"QED\0")),
        (Format::Dmg, file(4096, 4096 - 512, &koly)),
        (Format::Dmg, file(4096, 4096 - 1023, &koly)),
        (Format::Bochs, bochs),
        (Format::Cloop, file(512, 0, CLOOP_MAGIC)),
        (Format::Iso, file(64 << 10, 32769, b"CD001")),
    ] {
        assert_eq!(strict(bytes), Ok(format), "{format:?}");
    }
}

#[test]
fn part_of_a_magic_is_nothing() {
    assert_eq!(CLOOP_MAGIC.len(), 83);
    for bytes in [
        file(512, 0, &CLOOP_MAGIC[..82]),
        file(512, 0, b"conecti"),
        file(512, 0, b"QFI\xfb\0\0\0\0"),
        file(512, 0, b"LUKS\xba\xbe\0\x03"),
        file(512, 0, b"WithoutFreeSpace"),
        file(4096, 4096 - 1024, b"koly\0\0\0\x04\0\0\x02\0"),
        b"# Disk DescriptorFile\nversion=4\n".to_vec(),
        b"# Disk DescriptorFile".to_vec(),
        b"QFI".to_vec(),
        vec![],
    ] {
        assert_eq!(strict(bytes), Err(DetectError::RawGate));
    }
}

/// C12.
#[test]
fn qcow_version_1_is_not_qcow2() {
    assert_eq!(strict(file(512, 0, b"QFI\xfb\0\0\0\x01")), Ok(Format::Qcow));
    let given = with_layer(file(512, 0, b"QFI\xfb\0\0\0\x01"), |layer| layer.format = Some(Format::Qcow2));
    assert_eq!(given, Err(DetectError::Mismatch { given: Format::Qcow2, found: Some(Format::Qcow) }));
}

/// B1b.
#[test]
fn a_fixed_vhd_with_a_partition_table_is_a_vhd() {
    let mut bytes = mbr(0x83, 0x80);
    bytes.extend(file(512, 0, b"conectix"));
    assert_eq!(strict(bytes), Ok(Format::Vpc));
}

#[test]
fn the_raw_gate_wants_a_sound_partition_table() {
    assert_eq!(strict(mbr(0x83, 0)), Ok(Format::Raw));
    assert_eq!(strict(mbr(0x83, 0x80)), Ok(Format::Raw));
    assert_eq!(strict(mbr(0x83, 0x81)), Err(DetectError::RawGate));
    assert_eq!(strict(mbr(0, 0)), Err(DetectError::RawGate));
    assert_eq!(strict(mbr(0xee, 0)), Err(DetectError::RawGate));
    let mut gpt = mbr(0xee, 0);
    gpt[512..520].copy_from_slice(b"EFI PART");
    assert_eq!(strict(gpt), Ok(Format::Raw));
    assert_eq!(strict(mbr(0x83, 0)[..512].to_vec()), Ok(Format::Raw));
    assert_eq!(strict(mbr(0x83, 0)[..511].to_vec()), Err(DetectError::RawGate));
    assert_eq!(strict(vec![0; 4096]), Err(DetectError::RawGate));
}

#[test]
fn an_open_gate_probes_as_qemu_img_does() {
    assert_eq!(open_gate(vec![0; 4096]), Ok(Format::Raw));
    assert_eq!(open_gate(vec![]), Ok(Format::Raw));
    assert_eq!(open_gate(file(512, 0, b"QFI\xfb\0\0\0\x03")), Ok(Format::Qcow2));
    // qemu-img knows no trailer, no ISO, no LUKS 2, no seSparse.
    assert_eq!(open_gate(file(4608, 4096, b"conectix")), Ok(Format::Raw));
    assert_eq!(open_gate(file(64 << 10, 32769, b"CD001")), Ok(Format::Raw));
    assert_eq!(open_gate(file(4096, 0, b"LUKS\xba\xbe\0\x02")), Ok(Format::Raw));
    assert_eq!(open_gate(file(512, 0, SESPARSE_MAGIC)), Ok(Format::Raw));
}

#[test]
fn a_given_format_is_obeyed_or_contradicted() {
    let qcow2 = || file(512, 0, b"QFI\xfb\0\0\0\x03");
    let given = |bytes, format| with_layer(bytes, |layer| layer.format = Some(format));
    assert_eq!(given(qcow2(), Format::Raw), Ok(Format::Raw));
    assert_eq!(given(vec![], Format::Raw), Ok(Format::Raw));
    assert_eq!(given(qcow2(), Format::Qcow2), Ok(Format::Qcow2));
    let mismatch = |given, found| Err(DetectError::Mismatch { given, found });
    assert_eq!(given(qcow2(), Format::Vmdk), mismatch(Format::Vmdk, Some(Format::Qcow2)));
    assert_eq!(given(vec![0; 512], Format::Qcow2), mismatch(Format::Qcow2, None));
}

#[test]
fn what_qemu_img_makes_is_known() {
    let Some(dir) = scratch() else { return };
    for format in ["qcow2", "qcow", "vmdk", "vpc", "vhdx", "vdi", "parallels", "qed"] {
        qemu_img(dir.path(), &format!("create -q -f {format} a.{format} 8M")).unwrap();
        let bytes = std::fs::read(dir.path().join(format!("a.{format}"))).unwrap();
        let found = Format::from_name(format.as_bytes()).unwrap();
        assert_eq!(strict(bytes.clone()), Ok(found));
        assert_eq!(open_gate(bytes), Ok(found));
    }
    qemu_img(dir.path(), "create -q -f vpc -o subformat=fixed fixed.vpc 8M").unwrap();
    assert_eq!(strict(std::fs::read(dir.path().join("fixed.vpc")).unwrap()), Ok(Format::Vpc));
    qemu_img(dir.path(), "create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 8M").unwrap();
    assert_eq!(strict(std::fs::read(dir.path().join("flat.vmdk")).unwrap()), Ok(Format::Vmdk));
}

/// No content, however little or much, makes detection panic or call zeros a disk.
#[test]
fn every_prefix_of_a_file_is_answered() {
    let mut bytes = mbr(0xee, 0);
    bytes[512..520].copy_from_slice(b"EFI PART");
    for len in (0..bytes.len()).step_by(7) {
        let found = strict(bytes[..len].to_vec());
        assert_eq!(found.is_ok(), len >= 520, "{len}: {found:?}");
    }
}
