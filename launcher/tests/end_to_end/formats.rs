//! Formats beside raw and qcow2: described and converted as by qemu-img.

use crate::common::{make, run, scratch};
use crate::judge::instar;
use std::path::Path;

/// Options of `qemu-img convert` that make each.
const KINDS: [&str; 13] = [
    "-O vdi",
    "-O vdi -o static=on",
    "-O vpc",
    "-O vpc -o force_size=on",
    "-O vmdk",
    "-O vmdk -o subformat=streamOptimized",
    "-O vhdx",
    "-O vhdx -o block_size=1M",
    "-O parallels",
    "-O qed",
    "-O qed -o cluster_size=16k,table_size=2",
    "-O qcow",
    "-O vpc -o subformat=fixed",
];

#[test]
fn images_of_every_format_are_described_and_converted_as_by_qemu_img() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let compatible = instar.with_file_name("qemu-img");
    let directory = scratch();
    let directory = directory.path();
    make(directory, "(seq 1 300000; head -c 3M /dev/zero; head -c 2M /dev/urandom) >a.raw; truncate -s 20000512 a.raw");
    for kind in KINDS {
        make(directory, &format!("rm -f b.img; qemu-img convert -f raw {kind} a.raw b.img"));
        let format = if kind.contains("fixed") { "vpc" } else { "" };
        let format: Vec<&str> = if format.is_empty() { Vec::new() } else { vec!["-f", format] };
        for output in [&["info"][..], &["info", "--output=json"]] {
            let arguments = [output, &format, &["b.img"]].concat();
            let [ours, theirs] =
                [&compatible, Path::new("qemu-img")].map(|program| run(directory, program, &arguments));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(text(&ours.stdout), text(&theirs.stdout), "{kind}");
            assert_eq!(ours.status.code(), Some(0), "{kind}: {}", text(&ours.stderr));
        }
        for target in ["raw", "qcow2"] {
            let arguments = [&["convert"], format.as_slice(), &["-O", target, "b.img", "out"]].concat();
            let ours = run(directory, &instar, &arguments);
            assert!(ours.status.success(), "{kind}: {}", String::from_utf8_lossy(&ours.stderr));
            let source = if format.is_empty() { vec![] } else { vec!["-f", "vpc"] };
            let arguments = [&["compare"], source.as_slice(), &["-F", target, "b.img", "out"]].concat();
            let same = run(directory, Path::new("qemu-img"), &arguments);
            assert_eq!(String::from_utf8_lossy(&same.stdout), "Images are identical.\n", "{kind} to {target}");
        }
    }
}

/// Layers of several formats in one chain.
#[test]
fn chains_go_across_formats() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "seq 1 200000 >text; qemu-img convert -f raw -O vdi text base.vdi; \
         qemu-img create -q -f qcow2 -b base.vdi -F vdi middle.qcow2; qemu-io -c 'write -P 1 64k 64k' middle.qcow2 >/dev/null; \
         qemu-img convert -f raw -O vmdk text base.vmdk; qemu-img create -q -f vmdk -b base.vmdk -F vmdk top.vmdk; \
         qemu-io -c 'write -P 3 256k 64k' top.vmdk >/dev/null; \
         qemu-img create -q -f qed -b text -F raw top.qed; qemu-io -c 'write -P 2 128k 64k' top.qed >/dev/null",
    );
    for top in ["middle.qcow2", "top.qed", "top.vmdk"] {
        let ours = run(directory, &instar, &["convert", "-O", "qcow2", top, "out"]);
        assert!(ours.status.success(), "{top}: {}", String::from_utf8_lossy(&ours.stderr));
        let same = run(directory, Path::new("qemu-img"), &["compare", top, "out"]);
        assert_eq!(String::from_utf8_lossy(&same.stdout), "Images are identical.\n", "{top}");
    }
}

/// A VMDK records which content its parent had.
#[test]
fn a_parent_that_was_changed_is_refused_as_by_qemu_img() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "qemu-img create -q -f vmdk base.vmdk 4M; qemu-io -c 'write 0 64k' base.vmdk >/dev/null; \
         qemu-img create -q -f vmdk -b base.vmdk -F vmdk top.vmdk; qemu-io -c 'write -P 1 0 1M' base.vmdk >/dev/null",
    );
    for program in [&instar, Path::new("qemu-img")] {
        let output = run(directory, program, &["convert", "-O", "raw", "top.vmdk", "out"]);
        assert_eq!(output.status.code(), Some(1), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Files with content are the gate's to allow: info describes an image without those that it refuses, and nothing reads it.
#[test]
fn extents_outside_are_listed_and_not_opened() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "mkdir in; head -c 64k /dev/urandom >outside; cp outside in/inside; cd in; \
         printf '# Disk DescriptorFile\\nversion=1\\nCID=1\\nparentCID=ffffffff\\ncreateType=\"vmfs\"\\nRW 128 VMFS \"inside\"\\n\
         RW 128 VMFS \"../outside\"\\nRW 128 VMFS \"/etc/passwd\"\\n' >a.vmdk",
    );
    let info = run(directory, &instar, &["info", "in/a.vmdk"]);
    let text = String::from_utf8_lossy(&info.stdout).into_owned();
    assert_eq!(info.status.code(), Some(0), "{}", String::from_utf8_lossy(&info.stderr));
    for line in ["virtual size: 192 KiB (196608 bytes)", "filename: in/../outside", "filename: /etc/passwd"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("Child node '/extents.0'") && !text.contains("Child node '/extents.1'"), "{text}");
    for arguments in
        [&["convert", "-O", "raw", "in/a.vmdk", "out"][..], &["map", "in/a.vmdk"], &["measure", "in/a.vmdk"]]
    {
        let output = run(directory, &instar, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains("outside the directories"), "{arguments:?}: {said}");
    }
    let allowed = run(directory, &instar, &["map", "--allow-backing", ".", "--allow-backing", "/etc", "in/a.vmdk"]);
    assert_eq!(allowed.status.code(), Some(0), "{}", String::from_utf8_lossy(&allowed.stderr));
    make(directory, "rm in/inside");
    for program in [&instar, Path::new("qemu-img")] {
        let output = run(directory, program, &["info", "in/a.vmdk"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("Could not open 'in/a.vmdk': Could not open 'in/inside': No such file"), "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
}

/// qemu-img reads a differencing VHD as if it had no parent.
#[test]
fn a_differencing_disk_is_composed_or_refused() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "seq 1 300000 >text; truncate -s 5M text; qemu-img convert -f raw -O vpc -o force_size=on text base.vhd; \
         qemu-img create -q -f vpc -o force_size=on child.vhd 5M",
    );
    let base = std::fs::read(directory.join("base.vhd")).expect("made");
    let mut child = std::fs::read(directory.join("child.vhd")).expect("made");
    let sign = |bytes: &mut [u8], at: usize| {
        bytes[at..at + 4].fill(0);
        let sum = !bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    };
    child[60..64].copy_from_slice(&4u32.to_be_bytes());
    sign(&mut child[..512], 64);
    child[512 + 40..512 + 56].copy_from_slice(&base[68..84]);
    let name: Vec<u8> = "D:\\images\\base.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
    child[512 + 64..512 + 64 + name.len()].copy_from_slice(&name);
    sign(&mut child[512..1536], 36);
    std::fs::write(directory.join("child.vhd"), child).expect("writable");
    let said = |arguments: &[&str]| {
        let output = run(directory, &instar, arguments);
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code(), text)
    };
    let (code, text) = said(&["info", "child.vhd"]);
    assert!(code == Some(0) && text.contains("backing file: base.vhd\nbacking file format: vpc\n"), "{text}");
    assert_eq!(said(&["compare", "child.vhd", "base.vhd"]), (Some(0), "Images are identical.\n".to_owned()));
    assert_eq!(said(&["convert", "-O", "raw", "child.vhd", "out"]).0, Some(0));
    make(directory, "cmp out text; rm base.vhd");
    for arguments in [
        &["convert", "-O", "raw", "child.vhd", "out"][..],
        &["map", "child.vhd"],
        &["measure", "child.vhd"],
        &["dd", "if=child.vhd", "of=o"],
    ] {
        let (code, text) = said(arguments);
        assert!(code == Some(1) && text.contains("base.vhd"), "{arguments:?}: {text}");
    }
}
