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
