//! Broken and hostile images through real VMs: each ends in a typed error or the answer that qemu-img gives,
//! soon and within its memory; no guest ever dies of one.

use crate::common::{binaries, has, make, scratch};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Bytes of a valid image with an L1 and an L2 table, a snapshot, a backing name and a bitmap.
fn valid(directory: &Path) -> Vec<u8> {
    make(
        directory,
        "qemu-img create -q -f qcow2 base 4M; qemu-img create -q -f qcow2 -b base -F qcow2 -o cluster_size=4k valid 4M; \
         qemu-io -c 'write -P 1 0 64k' -c 'write -z 1M 64k' valid >/dev/null; qemu-img snapshot -c snap valid; \
         qemu-img bitmap --add valid map; qemu-io -c 'write -P 2 8k 4k' valid >/dev/null",
    );
    std::fs::read(directory.join("valid")).expect("qemu-img made it")
}

/// A field of the qcow2 header: its name, place and width in bytes.
const FIELDS: &[(&str, usize, usize)] = &[
    ("magic", 0, 4),
    ("version", 4, 4),
    ("backing_file_offset", 8, 8),
    ("backing_file_size", 16, 4),
    ("cluster_bits", 20, 4),
    ("size", 24, 8),
    ("crypt_method", 32, 4),
    ("l1_size", 36, 4),
    ("l1_table_offset", 40, 8),
    ("refcount_table_offset", 48, 8),
    ("refcount_table_clusters", 56, 4),
    ("nb_snapshots", 60, 4),
    ("snapshots_offset", 64, 8),
    ("incompatible_features", 72, 8),
    ("compatible_features", 80, 8),
    ("autoclear_features", 88, 8),
    ("refcount_order", 96, 4),
    ("header_length", 100, 4),
    ("compression_type", 104, 1),
];

/// The image with each header field at its extremes, its tables pointing everywhere, and cut short.
fn hostile(valid: &[u8]) -> Vec<(String, Vec<u8>)> {
    let number = |at: usize, width: usize| valid[at..at + width].iter().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    let with = |at: usize, width: usize, value: u64| {
        let mut image = valid.to_vec();
        if let Some(field) = image.get_mut(at..at + width) {
            field.copy_from_slice(&value.to_be_bytes()[8 - width..]);
        }
        image
    };
    let mut images = Vec::new();
    for &(name, at, width) in FIELDS {
        let max = u64::MAX >> (64 - 8 * width);
        let now = number(at, width);
        for value in [
            0,
            1,
            now.wrapping_add(1) & max,
            now.wrapping_sub(1) & max,
            now ^ 0x200,
            4096,
            max,
            max >> 1,
            1 << (8 * width - 1),
        ] {
            images.push((format!("{name}={value:#x}"), with(at, width, value)));
        }
    }
    let (l1, snapshots) = (number(40, 8) as usize, number(64, 8) as usize);
    let l2 = (number(l1, 8) & 0x00ff_ffff_ffff_fe00) as usize;
    let entries = [
        0,
        1,
        0x1ff,
        l1 as u64,
        l2 as u64 | 1 << 63,
        1 << 63,
        1 << 62,
        (1 << 62) | 0x3fff_ffff_ffff_ffff,
        1 << 55,
        0x00ff_ffff_ffff_fe00,
        (1 << 63) | 0x00ff_ffff_ffff_fe00,
        valid.len() as u64 | 1 << 63,
        0x7fff_ffff_ffff_ffff,
        u64::MAX,
    ];
    for entry in entries {
        images.push((format!("L1 entry {entry:#x}"), with(l1, 8, entry)));
        images.push((format!("L2 entry {entry:#x}"), with(l2, 8, entry)));
        images.push((format!("L2 entry 2 {entry:#x}"), with(l2 + 16, 8, entry)));
    }
    for (name, at, width) in [
        ("snapshot l1_table_offset", 0, 8),
        ("snapshot l1_size", 8, 4),
        ("snapshot id_str_size", 12, 2),
        ("snapshot name_size", 14, 2),
        ("snapshot extra_data_size", 36, 4),
    ] {
        for value in [0, 1, 0xffff, 0x7fff_ffff, u64::MAX] {
            let value = value & (u64::MAX >> (64 - 8 * width));
            images.push((format!("{name}={value:#x}"), with(snapshots + at, width, value)));
        }
    }
    // Every extension's type and length, then the backing name: all of the first cluster's front.
    for at in (104..320).step_by(4) {
        images.push((format!("word {at}=max"), with(at, 4, 0xffff_ffff)));
    }
    for len in
        [0, 1, 4, 71, 72, 103, 104, 111, 112, 511, 512, 4095, 4096, 4097, l1, l1 + 4, l2, l2 + 8, valid.len() - 1]
    {
        images.push((format!("cut at {len}"), valid[..len.min(valid.len())].to_vec()));
    }
    images
}

/// Runs a command under the limits that every run must keep: 10 seconds, and 256 MiB beside the guest's own memory.
fn limited(directory: &Path, program: &Path, arguments: &[&str]) -> (Output, Duration) {
    let start = Instant::now();
    let output = Command::new("timeout").arg("20").arg(program).args(arguments).current_dir(directory).output();
    (output.expect("timeout is a coreutil"), start.elapsed())
}

#[test]
fn every_hostile_image_gets_an_answer() {
    let Some(binaries) = binaries() else { return };
    if !has("qemu-img") || !has("qemu-io") {
        return;
    }
    let directory = scratch();
    let valid = valid(directory.path());
    let ours = binaries.join("instar");
    let mut complaints = Vec::new();
    for (what, bytes) in hostile(&valid) {
        std::fs::write(directory.path().join("h.img"), &bytes).expect("writable");
        let call = ["info", "-f", "qcow2", "h.img"];
        let (output, time) = limited(directory.path(), &ours, &call);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if time > Duration::from_secs(10) {
            complaints.push(format!("{what}: info took {time:?}"));
        }
        if !matches!(output.status.code(), Some(0 | 1)) || errors.contains("bug in instar") || errors.contains("guest")
        {
            complaints.push(format!("{what}: info: {} {errors}", output.status));
        }
        let theirs = limited(directory.path(), Path::new("qemu-img"), &call).0;
        if output.status.code() != theirs.status.code() {
            let told = String::from_utf8_lossy(&theirs.stderr).into_owned();
            complaints.push(format!(
                "{what}: info: ours {:?} {errors}   qemu-img {:?} {told}",
                output.status.code(),
                theirs.status.code()
            ));
        }
        let (output, time) = limited(directory.path(), &ours, &["convert", "-f", "qcow2", "-O", "raw", "h.img", "out"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let crashed = errors.contains("bug in instar") || errors.contains("guest");
        if time > Duration::from_secs(10) || !matches!(output.status.code(), Some(0 | 1)) || crashed {
            complaints.push(format!("{what}: convert: {time:?} {} {errors}", output.status));
        }
        assert_eq!(output.status.success(), directory.path().join("out").exists(), "{what}: no partial output");
        let _ = std::fs::remove_file(directory.path().join("out"));
    }
    assert!(complaints.is_empty(), "{} complaints\n{}", complaints.len(), complaints.join("\n"));
}

/// Formats in blocks: how an image is made, and where its structures are whose words are bent.
const OTHERS: &[(&str, &str, &[usize])] = &[
    ("vmdk", "vmdk", &[0, 512, 0x5400, 0x5e00]),
    ("stream", "vmdk -o subformat=streamOptimized", &[0, 512]),
    ("vdi", "vdi", &[0x40, 0x140, 0x200]),
    ("vpc", "vpc", &[0, 512, 1536]),
    ("vhdx", "vhdx", &[64 << 10, 128 << 10, 192 << 10, 2 << 20, 3 << 20]),
    ("parallels", "parallels", &[0, 64]),
    ("qed", "qed", &[0, 65536]),
    ("qcow", "qcow", &[0, 48]),
];
/// Words of a structure that are bent.
const WORDS: usize = 12;

#[test]
fn hostile_images_of_the_other_formats_get_an_answer() {
    let Some(binaries) = binaries() else { return };
    if !has("qemu-img") {
        return;
    }
    let directory = scratch();
    make(directory.path(), "seq 1 90000 >text; truncate -s 3M text");
    let ours = binaries.join("instar");
    let mut complaints = Vec::new();
    for (format, made, structures) in OTHERS {
        make(directory.path(), &format!("qemu-img convert -f raw -O {made} text valid"));
        let valid = std::fs::read(directory.path().join("valid")).expect("qemu-img made it");
        let mut images = Vec::new();
        for at in structures.iter().flat_map(|start| (0..WORDS).map(move |word| start + 4 * word)) {
            for value in [[0; 4], [0xff; 4], [0, 0, 0, 0x80]] {
                let mut image = valid.clone();
                if let Some(word) = image.get_mut(at..at + 4) {
                    word.copy_from_slice(&value);
                }
                images.push((format!("{format}: {value:x?} at {at}"), image));
            }
        }
        for len in structures.iter().flat_map(|at| [*at, at + 1, at + 4 * WORDS]).chain([511, 1024, valid.len() - 1]) {
            images.push((format!("{format}: cut at {len}"), valid[..len.min(valid.len())].to_vec()));
        }
        let name = made.split(' ').next().expect("a format");
        for (what, bytes) in images {
            std::fs::write(directory.path().join("h.img"), &bytes).expect("writable");
            for arguments in [
                &["info", "--details", "-f", name, "h.img"][..],
                &["check", "-f", name, "h.img"],
                &["convert", "-f", name, "-O", "raw", "h.img", "out"],
            ] {
                let (output, time) = limited(directory.path(), &ours, arguments);
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                let is_checked = arguments[0] == "check";
                let is_answer = matches!(output.status.code(), Some(0 | 1))
                    || is_checked && matches!(output.status.code(), Some(2 | 3 | 63));
                let crashed = errors.contains("bug in instar") || errors.contains("guest");
                if time > Duration::from_secs(10) || !is_answer || crashed {
                    complaints.push(format!("{what}: {arguments:?}: {time:?} {} {errors}", output.status));
                }
            }
            let _ = std::fs::remove_file(directory.path().join("out"));
        }
    }
    assert!(complaints.is_empty(), "{} complaints\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn a_flood_of_snapshots_is_told_within_the_limits() {
    let Some(binaries) = binaries() else { return };
    if !has("qemu-img") {
        return;
    }
    let directory = scratch();
    make(directory.path(), "qemu-img create -q -f qcow2 a.img 1M; qemu-img snapshot -c one a.img");
    let mut image = std::fs::read(directory.path().join("a.img")).expect("qemu-img made it");
    let at = u64::from_be_bytes(*image[64..].first_chunk().expect("a header")) as usize;
    // The one entry, 65,536 times over.
    let len = (40 + 24 + 1 + 3usize).next_multiple_of(8);
    image.resize(image.len().max(at + len), 0);
    let entry = image[at..at + len].to_vec();
    let table = image.len().next_multiple_of(65536);
    image.resize(table, 0);
    for _ in 0..65536 {
        image.extend(&entry);
    }
    image[60..64].copy_from_slice(&65536u32.to_be_bytes());
    image[64..72].copy_from_slice(&(table as u64).to_be_bytes());
    std::fs::write(directory.path().join("a.img"), image).expect("writable");
    let (ours, time) = limited(directory.path(), &binaries.join("qemu-img"), &["info", "a.img"]);
    let (theirs, _) = limited(directory.path(), Path::new("qemu-img"), &["info", "a.img"]);
    assert!(time < Duration::from_secs(10));
    assert!(ours.stdout == theirs.stdout && ours.status.code() == theirs.status.code());
}

/// A qcow2 whose L1 entries all name one L2 table, which is by turns zeros and nothing: half a megabyte that claims 32 TiB.
fn one_table_for_all() -> Vec<u8> {
    const CLUSTER: usize = 64 << 10;
    let entries = 64u32 << 10;
    let l1_len = 8 * entries as usize;
    let l2 = 2 * CLUSTER + l1_len;
    let mut image = vec![0; l2 + CLUSTER];
    let size = u64::from(entries) << 29;
    for (at, bytes) in [
        (0, &b"QFI\xfb\0\0\0\x03"[..]),
        (20, &16u32.to_be_bytes()),
        (24, &size.to_be_bytes()),
        (36, &entries.to_be_bytes()),
        (40, &(2 * CLUSTER as u64).to_be_bytes()),
        (48, &(CLUSTER as u64).to_be_bytes()),
        (56, &1u32.to_be_bytes()),
        (96, &[0, 0, 0, 4, 0, 0, 0, 104]),
    ] {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image[2 * CLUSTER..l2].copy_from_slice(&(l2 as u64 | 1 << 63).to_be_bytes().repeat(l1_len / 8));
    image[l2..].copy_from_slice(&[[0; 8], 1u64.to_be_bytes()].concat().repeat(CLUSTER / 16));
    image
}

/// qemu-img goes on for hours. The steps are counted, so that how fast the machine is does not matter.
#[test]
fn an_image_of_one_table_for_all_is_given_up() {
    let Some(binaries) = binaries() else { return };
    let directory = scratch();
    std::fs::write(directory.path().join("a.img"), one_table_for_all()).expect("writable");
    let words = "it asks for more work than any honest image of its size needs\n";
    for (name, arguments, code) in [
        ("instar", &["map", "--output", "json", "a.img"][..], 1),
        ("instar", &["measure", "-O", "qcow2", "a.img"], 1),
        ("instar", &["convert", "-O", "raw", "a.img", "out"], 1),
        ("instar", &["convert", "-O", "qcow2", "-B", "a.img", "-F", "qcow2", "a.img", "out"], 1),
        ("instar", &["compare", "a.img", "a.img"], 3),
        ("qemu-img", &["dd", "-O", "raw", "if=a.img", "of=out"], 1),
    ] {
        let program = binaries.join(name);
        let mut command = Command::new("timeout");
        command.arg("300").arg(&program).args(arguments).current_dir(directory.path());
        let output = command.output().expect("timeout is a coreutil");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
        assert!(!directory.path().join("out").exists(), "{arguments:?}");
    }
}
