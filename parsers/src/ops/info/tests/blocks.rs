//! Formats in blocks: what qemu-img says of whole ones, and of bent ones.

use super::{as_json, check, ours};
use crate::testing::{qemu_img, qemu_io, scratch};
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::reply::End;
use md5::Digest as _;
use std::path::Path;

/// A header's bytes, and a program to bend them: name, `create` arguments, bytes of the header that are bent.
const FORMATS: [(&str, &str, std::ops::Range<usize>); 6] = [
    ("vmdk", "-f vmdk", 0..79),
    ("vdi", "-f vdi", 64..456),
    ("vpc", "-f vpc", 0..85),
    ("parallels", "-f parallels", 0..61),
    ("qed", "-f qed", 0..64),
    ("qcow", "-f qcow", 0..48),
];

#[test]
fn every_option_is_described_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f raw base.raw 1M").unwrap();
    qemu_img(dir, "create -q -f qed base.qed 1M").unwrap();
    qemu_img(dir, "create -q -f vmdk base.vmdk 1M").unwrap();
    let secret = "--object secret,id=s,data=abc";
    for (index, options) in [
        "-f vdi 5M",
        "-f vdi -o static=on 3M",
        "-f vdi 1000",
        "-f vdi 0",
        "-f vpc 5M",
        "-f vpc -o force_size=on 5M",
        "-f vpc 200G",
        "-f vpc -o force_size=on 512",
        "-f vmdk 5M",
        "-f vmdk -o zeroed_grain=on 3G",
        "-f vmdk -o compat6=on 1000",
        "-f vmdk -o adapter_type=lsilogic 2T",
        "-f vmdk -o subformat=streamOptimized 5M",
        "-f vmdk -b base.vmdk -F vmdk",
        "-f vhdx 5M",
        "-f vhdx -o block_size=1M 3G",
        "-f vhdx -o subformat=fixed 3M",
        "-f vhdx -o log_size=2M 1000",
        "-f parallels 5M",
        "-f parallels -o cluster_size=64k 5M",
        "-f parallels 0",
        "-f qed 5M",
        "-f qed -o cluster_size=16k,table_size=2 5M",
        "-f qed -o cluster_size=1M,table_size=4 1T",
        "-f qed -b base.raw -F raw",
        "-f qed -b base.qed -F qed 2M",
        "-f qcow 5M",
        "-f qcow 2",
        "-f qcow -b base.raw -F raw 5M",
        &format!("{secret} -f qcow -o encrypt.format=aes,encrypt.key-secret=s 5M"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = format!("{index}.img");
        // The image's name comes before its size.
        let (options, size) = match options.rsplit_once(' ') {
            Some((options, size)) if size.starts_with(|c: char| c.is_ascii_digit()) => (options, size),
            _ => (options, ""),
        };
        qemu_img(dir, format!("create -q {options} {file} {size}").trim_end()).unwrap();
        check(dir, &file);
    }
}

#[test]
fn a_vhd_is_as_long_as_its_maker_says() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f vpc a.vhd 5M").unwrap();
    let whole = std::fs::read(dir.join("a.vhd")).unwrap();
    for maker in [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0", b"vbox"] {
        for geometry in [[0, 151, 4, 17], [0xff, 0xff, 16, 255], [0, 0, 0, 0]] {
            let mut bent = whole.clone();
            bent[28..32].copy_from_slice(maker);
            bent[48..56].copy_from_slice(&((5u64 << 20) - 700).to_be_bytes());
            bent[56..60].copy_from_slice(&geometry);
            sign(&mut bent);
            std::fs::write(dir.join("b.vhd"), &bent).unwrap();
            check(dir, "b.vhd");
        }
    }
}

/// Gives the footer at the front its checksum.
fn sign(vhd: &mut [u8]) {
    vhd[64..68].fill(0);
    let sum = !vhd[..512].iter().map(|&byte| u32::from(byte)).sum::<u32>();
    vhd[64..68].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn a_differencing_vhd_is_never_read_alone() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f vpc a.vhd 5M").unwrap();
    let mut bytes = std::fs::read(dir.join("a.vhd")).unwrap();
    bytes[60..64].copy_from_slice(&4u32.to_be_bytes());
    sign(&mut bytes);
    let (result, _) = ours(bytes);
    assert!(matches!(result, Err(Error::Block { error: BlockError::Differencing, .. })), "{result:?}");
}

/// Every byte of every header, bent: we open what qemu-img opens, and say the same of it.
#[test]
fn bent_headers_are_judged_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f raw base 1M").unwrap();
    for (format, create, bent) in FORMATS {
        let backing = if matches!(format, "qed" | "qcow") { "-b base -F raw " } else { "" };
        qemu_img(dir, &format!("create -q {create} {backing}a.img 5M")).unwrap();
        qemu_io(dir, "a.img", "write -P 7 1M 64k").unwrap();
        let whole = std::fs::read(dir.join("a.img")).unwrap();
        for at in bent {
            for change in [1, 0x80] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                if format == "vpc" && !(64..68).contains(&at) {
                    sign(&mut bytes);
                }
                std::fs::write(dir.join("b.img"), &bytes).unwrap();
                check_bent(dir, format, bytes, &format!("{format}: byte {at} ^ {change:#x}"));
            }
        }
    }
}

fn check_bent(dir: &Path, format: &str, bytes: Vec<u8>, what: &str) {
    let theirs = qemu_img(dir, &format!("info --output=json -f {format} b.img"));
    let (result, machine) = ours(bytes);
    match (theirs, result) {
        (Ok(theirs), Ok(End::Done { .. })) => {
            let mut theirs: serde_json::Value = serde_json::from_str(&theirs).unwrap();
            for host in ["children", "filename", "actual-size", "full-backing-filename"] {
                theirs.as_object_mut().unwrap().remove(host);
            }
            if let Some(extent) = theirs.pointer_mut("/format-specific/data/extents/0/filename") {
                *extent = "FILE".into();
            }
            assert_eq!(as_json(&machine.frames), theirs, "{what}");
        }
        (Err(_), Err(_)) => {}
        // Detection: without its magic it is another format, or raw.
        (Err(_), Ok(End::Done { .. })) if as_json(&machine.frames)["format"] != format => {}
        // A file that ends too early does not read as zeros, nor do blocks that the table has no entries for.
        (Ok(_), Err(Error::Block { error: BlockError::Truncated { .. } | BlockError::TableShort { .. }, .. })) => {}
        // A directory of 2^32 entries has none for QEMU.
        (Ok(_), Err(Error::Block { error: BlockError::Field { field: Field::TableSize, .. }, .. })) => {}
        // Tables are read when content is; there are two region tables.
        (Err(theirs), Ok(End::Done { .. })) if theirs.contains("overlaps") || what.contains("region table") => {}
        (theirs, ours) => panic!("{what}: qemu-img {theirs:?}, we {ours:?}"),
    }
}

/// Headers, region table and metadata of a VHDX, bent and signed again.
#[test]
fn a_bent_vhdx_is_judged_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f vhdx -o block_size=1M a.vhdx 5M").unwrap();
    qemu_io(dir, "a.vhdx", "write -P 7 1M 64k").unwrap();
    let whole = std::fs::read(dir.join("a.vhdx")).unwrap();
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let sign = |bytes: &mut [u8], at: usize, len: usize| {
        bytes[at + 4..at + 8].fill(0);
        let sum = crc.checksum(&bytes[at..at + len]);
        bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
    };
    let find = |needle: &[u8]| whole.windows(needle.len()).position(|bytes| bytes == needle).expect("there");
    let metadata = find(b"metadata");
    let headers = (0x10000..0x10050).chain(0x20000..0x20050);
    let regions = 0x30000..0x30050;
    let items =
        (metadata..metadata + 12).chain(metadata + 32..metadata + 200).chain(metadata + 0x10000..metadata + 0x10030);
    for at in (0..8).chain(headers).chain(regions).chain(items) {
        for change in [1, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            match at {
                0x10000..0x20000 => sign(&mut bytes, 0x10000, 4096),
                0x20000..0x30000 => sign(&mut bytes, 0x20000, 4096),
                0x30000..0x40000 => sign(&mut bytes, 0x30000, 65536),
                _ => {}
            }
            std::fs::write(dir.join("b.img"), &bytes).unwrap();
            let part = if (0x30000..0x30004).contains(&at) { "region table" } else { "vhdx" };
            check_bent(dir, "vhdx", bytes, &format!("{part}: byte {at:#x} ^ {change:#x}"));
        }
    }
    // One broken copy of the headers is no harm; two are.
    for (broken, opens) in [(&[0x10010][..], true), (&[0x20010], true), (&[0x10010, 0x20010], false)] {
        let mut bytes = whole.clone();
        broken.iter().for_each(|&at| bytes[at] ^= 1);
        std::fs::write(dir.join("b.img"), &bytes).unwrap();
        assert_eq!(qemu_img(dir, "info b.img").is_ok(), opens);
        assert_eq!(ours(bytes).0.is_ok(), opens, "{broken:?}");
    }
}

/// A Parallels image with an extension of these features, signed, behind its last block.
fn extended(whole: &[u8], features: &[u8]) -> Vec<u8> {
    const CLUSTER: usize = 64 << 10;
    let at = whole.len().next_multiple_of(CLUSTER);
    let mut bytes = whole.to_vec();
    bytes.resize(at + CLUSTER, 0);
    bytes[56..64].copy_from_slice(&(at as u64 / 512).to_le_bytes());
    bytes[at..at + 8].copy_from_slice(&0xab23_4cef_23dc_ea87_u64.to_le_bytes());
    bytes[at + 24..at + 24 + features.len()].copy_from_slice(features);
    let sum = md5::Md5::digest(&bytes[at + 24..]);
    bytes[at + 8..at + 24].copy_from_slice(&sum);
    bytes
}

fn feature(kind: u64, flags: u64, bytes: &[u8]) -> Vec<u8> {
    let mut feature =
        [&kind.to_le_bytes()[..], &flags.to_le_bytes(), &(bytes.len() as u64).to_le_bytes(), bytes].concat();
    feature.resize(feature.len().next_multiple_of(8), 0);
    feature
}

fn dirty_bitmap(sectors: u64, id: u8, granularity: u32, table: &[u64]) -> Vec<u8> {
    let mut bytes = [&sectors.to_le_bytes()[..], &[id; 16], &granularity.to_le_bytes()].concat();
    bytes.extend((table.len() as u32).to_le_bytes());
    table.iter().for_each(|entry| bytes.extend(entry.to_le_bytes()));
    feature(0x2038_5fae_252c_b34a, 0, &bytes)
}

#[test]
fn a_parallels_extension_is_judged_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f parallels -o cluster_size=64k a.img 5M").unwrap();
    qemu_io(dir, "a.img", "write -P 7 1M 64k").unwrap();
    let whole = std::fs::read(dir.join("a.img")).unwrap();
    let sectors = 10240;
    let (end, one) = (feature(0, 0, &[]), dirty_bitmap(sectors, 1, 128, &[1]));
    let two = dirty_bitmap(sectors, 2, 1, &[0]);
    let mut opened = 0;
    for (what, features) in [
        ("nothing", vec![]),
        ("no bitmap", end.clone()),
        ("a bitmap", [one.clone(), end.clone()].concat()),
        ("two bitmaps", [one.clone(), two.clone(), end.clone()].concat()),
        ("the same twice", [one.clone(), one.clone(), end.clone()].concat()),
        ("flags", [feature(0x2038_5fae_252c_b34a, 1, &[]), end.clone()].concat()),
        ("an unknown feature", [feature(7, 0, &[1; 9]), end.clone()].concat()),
        ("another size", [dirty_bitmap(sectors + 1, 1, 128, &[1]), end.clone()].concat()),
        ("no table", [dirty_bitmap(sectors, 1, 128, &[]), end.clone()].concat()),
        ("a table that is too long", [dirty_bitmap(sectors, 1, 128, &[1, 1]), end.clone()].concat()),
        ("a feature that is cut", [feature(0x2038_5fae_252c_b34a, 0, &[1; 31]), end.clone()].concat()),
        ("a feature past the end", [0u64, 0, 70000].map(u64::to_le_bytes).concat()),
        ("no end", dirty_bitmap(sectors, 1, 128, &[1]).repeat(2000)[..65512].to_vec()),
    ] {
        let bytes = extended(&whole, &features);
        std::fs::write(dir.join("b.img"), &bytes).unwrap();
        let opens = qemu_img(dir, "info -f parallels b.img").is_ok();
        opened += u32::from(opens);
        assert_eq!(ours(bytes.clone()).0.is_ok_and(|end| matches!(end, End::Done { .. })), opens, "{what}");
        // Whatever the features say, a byte that was changed is seen.
        let mut bent = bytes;
        let at = bent.len() - 1;
        bent[at] ^= 1;
        std::fs::write(dir.join("b.img"), &bent).unwrap();
        assert!(qemu_img(dir, "info -f parallels b.img").is_err(), "{what}");
        let error = BlockError::Checksum { structure: Structure::Extension };
        assert!(matches!(ours(bent).0, Err(Error::Block { error: found, .. }) if found == error), "{what}");
    }
    assert_eq!(opened, 4, "sound ones are among them");
    // QEMU 10.0 ends by an assertion on these.
    for granularity in [0, 3, 1 << 23, u32::MAX] {
        let bytes = extended(&whole, &[dirty_bitmap(sectors, 1, granularity, &[1]), end.clone()].concat());
        assert!(matches!(ours(bytes).0, Err(Error::Block { error: BlockError::Entry { .. }, .. })), "{granularity}");
    }
}
