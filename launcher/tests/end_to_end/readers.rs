//! Images that other readers than qemu-img judge, and images that qemu-img can't make.

#[path = "../../../parsers/src/testing/foreign.rs"]
mod foreign;

use crate::common::{make, run, scratch, shell};
use crate::judge::{has_libyal, instar, sha256, sha256_by_libyal};
use foreign::{VHDX_DATA_ID, VhdxBlock, cowd, fields, se_sparse, sign_crc32c, vhd_child, vhdx, with_log};
use std::path::Path;

const MIB: usize = 1 << 20;

/// `text`: 5 MiB of text, with holes.
const TEXT: &str = "seq 1 300000 >text; truncate -s 4M text; seq 5 9999 >>text; truncate -s 5M text";

/// Our conversion of an image has the content of the file `expected`.
fn converts_to(directory: &Path, instar: &Path, image: &str, expected: &str) {
    let output = run(directory, instar, &["convert", "-O", "raw", image, "out"]);
    assert!(output.status.success(), "{image}: {}", String::from_utf8_lossy(&output.stderr));
    make(directory, &format!("cmp out {expected}; rm out"));
}

#[test]
fn libvmdk_finds_the_same_content() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    if !has_libyal("pyvmdk") {
        return;
    }
    let directory = scratch();
    let directory = directory.path();
    make(directory, TEXT);
    let text = std::fs::read(directory.join("text")).expect("made");
    for subformat in
        ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]
    {
        make(directory, &format!("qemu-img convert -f raw -O vmdk -o subformat={subformat} text {subformat}.vmdk"));
        let name = format!("{subformat}.vmdk");
        assert_eq!(sha256_by_libyal(directory, "pyvmdk", &[&name]), sha256(directory, "text"), "{subformat}");
        converts_to(directory, &instar, &name, "text");
    }
    describe(directory, "cowd.vmdk", "vmfsSparse", "RW 10240 VMFSSPARSE \"cowd\"");
    std::fs::write(directory.join("cowd"), cowd(&text, 128)).expect("writable");
    assert_eq!(sha256_by_libyal(directory, "pyvmdk", &["cowd.vmdk"]), sha256(directory, "text"), "COWD");
    converts_to(directory, &instar, "cowd.vmdk", "text");
}

/// Writes a descriptor.
fn describe(directory: &Path, name: &str, kind: &str, extents: &str) {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"{kind}\"\n\n\
         # Extent description\n{extents}\n\n# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n"
    );
    std::fs::write(directory.join(name), text).expect("writable");
}

#[test]
fn extents_of_esx_are_read_as_by_qemu_img() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, TEXT);
    let text = std::fs::read(directory.join("text")).expect("made");
    describe(directory, "cowd.vmdk", "vmfsSparse", "RW 10240 VMFSSPARSE \"cowd\"");
    std::fs::write(directory.join("cowd"), cowd(&text, 1)).expect("writable");
    describe(directory, "se.vmdk", "seSparse", "RW 10240 SESPARSE \"se\"");
    std::fs::write(directory.join("se"), se_sparse(&text)).expect("writable");
    for image in ["cowd.vmdk", "se.vmdk"] {
        converts_to(directory, &instar, image, "text");
        let qemu_img = instar.with_file_name("qemu-img");
        for command in ["info", "map", "map --output=json", "check", "measure -O qcow2", "compare -F raw"] {
            let other = if command.starts_with("compare") { " text" } else { "" };
            let answer = |program: &str| {
                let output = shell(directory, &format!("{program} {command} {image}{other}"));
                let text = [output.stdout, output.stderr].concat();
                (output.status.code(), String::from_utf8_lossy(&text).into_owned())
            };
            assert_eq!(answer(&qemu_img.display().to_string()), answer("qemu-img"), "{command} {image}");
        }
    }
}

#[test]
fn libvhdi_finds_the_same_content() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    if !has_libyal("pyvhdi") {
        return;
    }
    let directory = scratch();
    let directory = directory.path();
    make(directory, TEXT);
    for (name, options) in [
        ("dynamic.vhd", "vpc -o force_size=on"),
        ("fixed.vhd", "vpc -o subformat=fixed,force_size=on"),
        ("dynamic.vhdx", "vhdx"),
        ("fixed.vhdx", "vhdx -o subformat=fixed"),
    ] {
        make(directory, &format!("qemu-img convert -f raw -O {options} text {name}"));
        assert_eq!(sha256_by_libyal(directory, "pyvhdi", &[name]), sha256(directory, "text"), "{name}");
        converts_to(directory, &instar, name, "text");
    }
}

/// Every seventh 4 KiB of the first 3 MiB are the child's: in smaller units libvhdi takes what follows a sector in its byte
/// of the bitmap for the child's, too.
fn of_child(sector: u64) -> Option<[u8; 512]> {
    ((sector / 8).is_multiple_of(7) && sector < 6144).then_some([sector as u8; 512])
}

#[test]
fn a_child_of_a_vhd_is_composed_as_by_libvhdi() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    if !has_libyal("pyvhdi") {
        return;
    }
    let directory = scratch();
    let directory = directory.path();
    make(directory, &format!("{TEXT}; qemu-img convert -f raw -O vpc -o force_size=on text base.vhd"));
    let parent = std::fs::read(directory.join("base.vhd")).expect("made");
    let id = *parent[68..].first_chunk().expect("a footer");
    let child = vhd_child(5 << 20, id, (b"W2ru", ".\\base.vhd"), of_child);
    std::fs::write(directory.join("child.vhd"), child).expect("writable");
    let mut expected = std::fs::read(directory.join("text")).expect("made");
    for (sector, bytes) in (0..).zip(expected.chunks_mut(512)) {
        if let Some(own) = of_child(sector) {
            bytes.copy_from_slice(&own);
        }
    }
    std::fs::write(directory.join("expected"), expected).expect("writable");
    assert_eq!(
        sha256_by_libyal(directory, "pyvhdi", &["child.vhd", "base.vhd"]),
        sha256(directory, "expected"),
        "by libvhdi"
    );
    converts_to(directory, &instar, "child.vhd", "expected");
}

#[test]
fn a_child_of_a_vhdx_that_qemu_img_made_is_composed() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, &format!("{TEXT}; qemu-img convert -f raw -O vhdx text base.vhdx"));
    let parent = std::fs::read(directory.join("base.vhdx")).expect("made");
    // The header with the higher sequence number tells what the content is called.
    let header = [64 << 10, 128 << 10]
        .into_iter()
        .max_by_key(|at| u64::from_le_bytes(*parent[at + 8..].first_chunk().expect("a header")))
        .expect("two headers");
    let id = &parent[header + 32..header + 48];
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let digits: Vec<String> = order.map(|at: usize| format!("{:02x}", id[at])).to_vec();
    let group = |range: std::ops::Range<usize>| digits[range].concat();
    let linkage = format!("{{{}-{}-{}-{}-{}}}", group(0..4), group(4..6), group(6..8), group(8..10), group(10..16));
    let here = |sector: usize| sector % 5 < 2;
    let child = |linkage: &str| {
        let locator = [("parent_linkage", linkage), ("relative_path", ".\\base.vhdx")];
        vhdx(5 << 20, 512, Some(&locator), |index| match index {
            1 => VhdxBlock::Full(vec![0xaa; MIB]),
            2 => VhdxBlock::Partial(vec![0xbb; MIB], |sector| sector % 5 < 2),
            3 => VhdxBlock::State(2),
            _ => VhdxBlock::State(0),
        })
    };
    std::fs::write(directory.join("child.vhdx"), child(&linkage)).expect("writable");
    let mut expected = std::fs::read(directory.join("text")).expect("made");
    expected[MIB..2 * MIB].fill(0xaa);
    for (sector, bytes) in expected[2 * MIB..3 * MIB].chunks_mut(512).enumerate() {
        if here(sector) {
            bytes.fill(0xbb);
        }
    }
    expected[3 * MIB..4 * MIB].fill(0);
    std::fs::write(directory.join("expected"), expected).expect("writable");
    converts_to(directory, &instar, "child.vhdx", "expected");
    let output = run(directory, &instar, &["info", "child.vhdx"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("backing file: base.vhdx\nbacking file format: vhdx\n"), "{said}");
    // Over a parent that was written to since it is refused.
    std::fs::write(directory.join("child.vhdx"), child(&format!("{{{VHDX_DATA_ID}}}"))).expect("writable");
    let output = run(directory, &instar, &["convert", "-O", "raw", "child.vhdx", "out"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

/// qemu-img judges a log by replaying it in the file, which reading must not do.
#[test]
fn a_log_is_made_in_memory_and_the_file_stays_as_it_was() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    let plain = vhdx(2 << 20, 512, None, |index| VhdxBlock::Full(vec![index as u8 + 1; MIB]));
    let table = plain[3 * MIB..3 * MIB + 4096].to_vec();
    let before = fields(plain.len(), &[(0, &plain[..3 * MIB]), (3 * MIB + 16, &plain[3 * MIB + 16..])]);
    let mut logged = with_log(before, 0, 7, &[&[(3 << 20, Some(table))]]);
    std::fs::write(directory.join("a.vhdx"), &logged).expect("writable");
    make(directory, "cp a.vhdx b.vhdx; qemu-img check -q -r all b.vhdx; qemu-img convert -O raw b.vhdx expected");
    converts_to(directory, &instar, "a.vhdx", "expected");
    assert!(std::fs::read(directory.join("a.vhdx")).expect("there") == logged, "the file stays as it was");
    // Without the log the content is not there.
    for header in [64 << 10, 128 << 10] {
        logged[header + 48..header + 64].fill(0);
        sign_crc32c(&mut logged, header, 4096);
    }
    std::fs::write(directory.join("a.vhdx"), logged).expect("writable");
    make(directory, "truncate -s 2M zeros");
    converts_to(directory, &instar, "a.vhdx", "zeros");
}
