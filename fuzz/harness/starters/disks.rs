//! Beginnings and ends of disks of every format.

fn padded(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut image = bytes.to_vec();
    image.resize(len, 0);
    image
}

fn with(mut image: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

/// A sector with the boot signature and one entry: type and sectors.
fn mbr(flag: u8, kind: u8, sectors: u32) -> Vec<u8> {
    let entry = [&[flag, 0, 2, 0, kind, 0, 0, 0, 1, 0, 0, 0], sectors.to_le_bytes().as_slice()].concat();
    with(with(vec![0; 512], 446, &entry), 510, &[0x55, 0xaa])
}

fn gpt() -> Vec<u8> {
    let header = b"EFI PART\0\0\x01\0\x5c\0\0\0";
    with(padded(&mbr(0, 0xee, u32::MAX), 1024), 512, header)
}

/// One input a format, and what almost is one.
pub fn of_every_format() -> Vec<(String, Vec<u8>)> {
    let cloop = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
    let bochs = {
        let image = with(padded(b"Bochs Virtual HD Image", 512), 32, b"Redolog");
        with(with(image, 48, b"Growing"), 64, &0x0002_0000u32.to_le_bytes())
    };
    let trailer = |back: usize, magic: &[u8]| with(vec![0; 1536], 1536 - back, magic);
    let koly = b"koly\0\0\0\x04\0\0\x02\0";
    [
        ("empty", Vec::new()),
        ("zeros", vec![0; 1024]),
        ("qcow", padded(b"QFI\xfb\0\0\0\x01", 512)),
        ("qcow2-v2", padded(b"QFI\xfb\0\0\0\x02", 512)),
        ("qcow2-v3", padded(b"QFI\xfb\0\0\0\x03", 512)),
        ("qcow-v0", padded(b"QFI\xfb\0\0\0\0", 512)),
        ("qcow2-short", b"QFI\xfb\0\0".to_vec()),
        ("vmdk-sparse", padded(b"KDMV\x01\0\0\0", 512)),
        ("vmdk-cowd", padded(b"COWD", 512)),
        ("vmdk-sesparse", padded(b"\xbe\xba\xfe\xca\0\0\0\0", 512)),
        ("vmdk-descriptor", b"# Disk DescriptorFile\r\n  \nversion=1\nCID=fffffffe\n".to_vec()),
        ("vmdk-descriptor-cut", b"# Disk DescriptorFile\nversion=1".to_vec()),
        ("vhd-head", padded(b"conectix", 512)),
        ("vhd-512", trailer(512, b"conectix")),
        ("vhd-511", trailer(511, b"conectix")),
        ("vhdx", padded(b"vhdxfile", 512)),
        ("vdi", with(vec![0; 512], 0x40, &0xbeda_107fu32.to_le_bytes())),
        ("luks1", padded(&super::qcow2::luks_header(), 1024)),
        ("luks2", padded(b"LUKS\xba\xbe\0\x02", 512)),
        ("parallels", with(padded(b"WithoutFreeSpace", 512), 16, &[2])),
        ("parallels-ext", with(padded(b"WithouFreSpacExt", 512), 16, &[2])),
        ("qed", padded(b"QED\0", 512)),
        ("dmg-512", trailer(512, koly)),
        ("dmg-700", trailer(700, koly)),
        ("dmg-1023", trailer(1023, koly)),
        ("bochs", bochs),
        ("cloop", padded(cloop, 512)),
        ("cloop-cut", padded(&cloop[..40], 512)),
        ("iso", with(vec![0; 34 << 10], 32769, b"CD001")),
        ("mbr", mbr(0x80, 0x83, 2048)),
        ("gpt", gpt()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}

/// Partition tables, and windows behind them.
pub fn partitioned() -> Vec<(String, Vec<u8>)> {
    let window = |offset: u64, len: u64, plausible: u8| {
        let image = with(padded(&mbr(0x80, 0x83, 2048), 2000), 512, &offset.to_le_bytes());
        with(with(image, 520, &len.to_le_bytes()), 528, &[plausible])
    };
    [
        ("zeros", vec![0; 1024]),
        ("signature", with(vec![0; 512], 510, &[0x55, 0xaa])),
        ("mbr", mbr(0x80, 0x83, 2048)),
        ("mbr-inactive", mbr(0, 7, 1)),
        ("mbr-flag", mbr(0x81, 0x83, 2048)),
        ("mbr-no-sectors", mbr(0x80, 0x83, 0)),
        ("protective-cut", mbr(0, 0xee, u32::MAX)),
        ("protective-efi", padded(&gpt(), 520)),
        ("gpt", gpt()),
        ("protective-zero", padded(&mbr(0, 0xee, 1), 1024)),
        ("window", window(512, 1024, 0)),
        ("window-raw", window(512, 1024, 1)),
        ("window-past-end", window(1 << 40, 1 << 40, 1)),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}

/// Disks with whole tables, as `partition_table` takes them: what lies at the end of the disk is the last 1024 bytes.
pub fn tables() -> Vec<(String, Vec<u8>)> {
    let input = |len: u64, tail: u16, flags: u8, disk: &[u8]| {
        [&len.to_le_bytes()[..], &tail.to_le_bytes(), &[flags, 0], disk].concat()
    };
    let entry = |at: usize, kind: u8, start: u32, sectors: u32| {
        move |disk: Vec<u8>| {
            let bytes = [&[0, 0, 0, 0, kind, 0, 0, 0][..], &start.to_le_bytes(), &sectors.to_le_bytes()].concat();
            with(with(disk, at + 446, &bytes), at / 512 * 512 + 510, &[0x55, 0xaa])
        }
    };
    let primary = entry(16, 0x83, 20, 10)(entry(0, 0x82, 1, 9)(vec![0; 4096]));
    let chain = entry(0, 0x0f, 1, 100)(vec![0; 4096]);
    let chain = entry(528, 5, 3, 5)(entry(512, 0x83, 1, 2)(chain));
    let chain = entry(4 * 512, 0x83, 1, 2)(chain);
    let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0".to_vec();
    header.resize(92, 0);
    let header = |here: u64, other: u64, entries_at: u64| {
        let header = with(with(header.clone(), 24, &here.to_le_bytes()), 32, &other.to_le_bytes());
        with(with(header, 72, &entries_at.to_le_bytes()), 80, &[2, 0, 0, 0, 128])
    };
    let part = with(with(vec![0; 128], 0, &[7; 32]), 32, &[9, 0, 0, 0, 0, 0, 0, 0, 12]);
    // Of an entry in use and one that is not.
    let sum = crate::layout::crc32(&padded(&part, 256)).to_le_bytes();
    let gpt = with(with(padded(&mbr(0, 0xee, u32::MAX), 2048), 512, &header(1, 63, 2)), 1024, &part);
    let gpt = with(gpt, 512 + 88, &sum);
    let tail = with(with(padded(&part, 1024), 512, &header(63, 1, 62)), 512 + 88, &sum);
    let both = [gpt.clone(), tail].concat();
    [
        ("mbr", input(1 << 20, 0, 0, &primary)),
        ("logical", input(1 << 20, 0, 0, &chain)),
        ("gpt", input(64 * 512, 1024, 1, &both)),
        ("gpt-first", input(64 * 512, 0, 1, &gpt)),
        ("gpt-last", input(64 * 512, 1024, 1, &with(both.clone(), 512, &[0; 92]))),
        ("gpt-unsigned", input(64 * 512, 1024, 0, &both)),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .to_vec()
}
