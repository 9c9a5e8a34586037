//! Formats in blocks: what qemu-img says of whole ones, and of bent ones.

use super::{as_json, check, ours};
use crate::testing::{qemu_img, qemu_io, scratch};
use instar_abi::error::{BlockError, Error};
use instar_abi::reply::End;
use std::path::Path;

/// A header's bytes, and a program to bend them: name, `create` arguments, bytes of the header that are bent.
const FORMATS: [(&str, &str, std::ops::Range<usize>); 5] = [
    ("vdi", "-f vdi", 64..456),
    ("vpc", "-f vpc", 0..85),
    ("parallels", "-f parallels", 0..52),
    ("qed", "-f qed", 0..64),
    ("qcow", "-f qcow", 0..48),
];

#[test]
fn every_option_is_described_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f raw base.raw 1M").unwrap();
    qemu_img(dir, "create -q -f qed base.qed 1M").unwrap();
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
            assert_eq!(as_json(&machine.frames), theirs, "{what}");
        }
        (Err(_), Err(_)) => {}
        // Detection: without its magic it is another format, or raw.
        (Err(_), Ok(End::Done { .. })) if as_json(&machine.frames)["format"] != format => {}
        // A file that ends too early does not read as zeros.
        (Ok(_), Err(Error::Block { error: BlockError::Truncated { .. }, .. })) => {}
        (theirs, ours) => panic!("{what}: qemu-img {theirs:?}, we {ours:?}"),
    }
}
