//! `convert -B` in real VMs, judged by qemu-img.

use crate::common::{make, run, scratch};
use crate::judge::{facts, instar, same_as_qemu_img};
use std::path::Path;

#[test]
fn overlays_are_those_of_qemu_img() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 100000 >base; truncate -s 8M base; \
         qemu-img create -q -f qcow2 -b base -F raw -o cluster_size=4k mid; qemu-io -c 'write -P 5 3M 9k' mid >/dev/null; \
         qemu-img create -q -f qcow2 -b mid -F qcow2 top; \
         qemu-io -c 'write -P 3 1M 64k' -c 'write -z 2M 1M' -c 'write -P 6 3M 2k' top >/dev/null; \
         qemu-img create -q -f qcow2 -b mid -F qcow2 -o extended_l2=on,cluster_size=128k fine; \
         qemu-io -c 'write -P 7 1M 2k' fine >/dev/null; \
         qemu-img create -q -f qcow2 short 4M; qemu-io -c 'write -P 8 0 4M' short >/dev/null; \
         qemu-img convert -O raw top flat",
    );
    let mut cases: Vec<Vec<&str>> = vec![
        vec!["-o", "backing_file=mid,backing_fmt=qcow2", "-f", "qcow2", "-O", "qcow2", "top"],
        // What the source and the target share below them is opened for both.
        vec!["-f", "qcow2", "-O", "qcow2", "-B", "mid", "-F", "qcow2", "top"],
        vec!["-f", "qcow2", "-O", "qcow2", "-B", "mid", "-F", "qcow2", "fine"],
        vec!["-f", "qcow2", "-O", "qcow2", "-B", "base", "-F", "raw", "top"],
        vec!["-f", "raw", "-O", "qcow2", "-B", "mid", "-F", "qcow2", "flat"],
        vec!["-f", "raw", "-O", "qcow2", "-B", "short", "-F", "qcow2", "flat"],
        vec!["-c", "-f", "qcow2", "-O", "qcow2", "-B", "mid", "-F", "qcow2", "top"],
    ];
    for options in ["cluster_size=512", "cluster_size=2M", "extended_l2=on,cluster_size=16k", "compat=v2"] {
        cases.push(vec!["-o", options, "-f", "qcow2", "-O", "qcow2", "-B", "mid", "-F", "qcow2", "top"]);
    }
    for call in cases {
        same_as_qemu_img(directory.path(), &instar, "-B", &call);
        let arguments = [&["convert"], &call[..], &["out"]].concat();
        let chain = |program: &Path| {
            assert!(run(directory.path(), program, &arguments).status.success(), "{call:?}");
            let info = run(directory.path(), Path::new("qemu-img"), &["info", "--backing-chain", "out"]);
            assert!(info.status.success(), "{call:?}");
            make(directory.path(), "rm out");
            let text = String::from_utf8(info.stdout).expect("UTF-8");
            text.lines().filter(|line| line.starts_with("backing")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(chain(&instar), chain(Path::new("qemu-img")), "{call:?}");
    }
}

#[test]
fn an_overlays_names_are_read_beside_it_and_what_they_name_is_gated() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "mkdir sub away; seq 1 1000 >sub/base; truncate -s 1M sub/base; cp sub/base src; cp sub/base away/secret; \
         qemu-img create -q -f qcow2 -b ../away/secret -F raw sub/sly; \
         qemu-img create -q -f qcow2 -b secret -F raw away/honest; \
         qemu-img create -q -f qcow2 -u -b gone -F raw sub/broken 1M; \
         qemu-img create -q -f qcow2 -u -b loop -F qcow2 sub/loop 1M",
    );
    let convert = |program: &Path, backing: &str, format: &str| {
        let call = ["convert", "-f", "raw", "-O", "qcow2", "-B", backing, "-F", format, "src", "sub/out"];
        let output = run(directory.path(), program, &call);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // The user's own name may lie anywhere; what that image names lies beside it.
    for (backing, format) in [("base", "raw"), ("../away/honest", "qcow2"), ("../src", "raw")] {
        assert_eq!(convert(&instar, backing, format), (Some(0), String::new()), "{backing}");
        make(directory.path(), "qemu-img compare -f raw -F qcow2 src sub/out >/dev/null; rm sub/out");
    }
    let (code, text) = convert(&instar, "sly", "qcow2");
    assert!(code == Some(1) && text.contains("outside the directories"), "{text}");
    let (code, text) = convert(&instar, "loop", "qcow2");
    assert!(code == Some(1) && text.contains("infinite loop"), "{text}");
    let as_qemu_img = instar.with_file_name("qemu-img");
    // The user's own word names no protocol either, also where there is such a file.
    make(directory.path(), "cp src sub/nbd:x");
    let (code, text) = convert(&instar, "nbd:x", "raw");
    assert!(code == Some(1) && text.contains("backing file 'nbd:x' is refused"), "{text}");
    assert!(!directory.path().join("sub/out").exists());
    make(
        directory.path(),
        "mkdir sub/dir; ln -s nowhere sub/dangling; qemu-img create -q -f qcow2 -u -b broken -F qcow2 sub/deep 1M",
    );
    for (backing, format) in [
        ("gone", "raw"),
        ("broken", "qcow2"),
        ("base", "qcow2"),
        ("dir", "raw"),
        ("dangling", "raw"),
        ("deep", "qcow2"),
    ] {
        let ours = convert(&as_qemu_img, backing, format);
        assert!(!directory.path().join("sub/out").exists(), "{backing}");
        assert_eq!(ours, convert(Path::new("qemu-img"), backing, format));
        // qemu-img leaves what it has begun.
        make(directory.path(), "rm -f sub/out");
    }
}

/// `-n -B`: what the top layer of the source owns, into an overlay that is there; the rest of it stays.
#[test]
fn overlays_that_are_there() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 700000 >base; truncate -s 8M base; qemu-img create -q -f qcow2 -b base -F raw top; \
         qemu-io -c 'write -P 3 1M 64k' -c 'write -z 2M 1M' -c 'write -P 6 5000k 2k' -c 'write -P 9 8128k 64k' top >/dev/null",
    );
    for create in [
        "-b base -F raw there",
        "-b base -F raw -o cluster_size=4k there",
        "-b base -F raw -o cluster_size=2M there",
        "-b base -F raw -o extended_l2=on there",
        "-b base -F raw -o compat=0.10 there",
        "-b base -F raw there 12M",
        // Nothing below it.
        "there 8M",
    ] {
        for dirt in
            ["", "qemu-io -c 'write -P 8 1050k 100k' -c 'write -P 7 6M 1M' -c 'write -P 4 2M 4k' there >/dev/null;"]
        {
            make(
                directory.path(),
                &format!("rm -f there; qemu-img create -q -f qcow2 {create}; {dirt} cp there theirs"),
            );
            // The name is not looked at.
            let call = |target| ["convert", "-n", "-B", "nowhere", "-f", "qcow2", "-O", "qcow2", "top", target];
            for (program, target) in [(instar.as_path(), "there"), (Path::new("qemu-img"), "theirs")] {
                let output = run(directory.path(), program, &call(target));
                assert!(output.status.success() && output.stderr.is_empty(), "{create} {dirt}: {output:?}");
            }
            make(directory.path(), "qemu-img compare there theirs >/dev/null; qemu-img check there >/dev/null");
            assert_eq!(facts(directory.path(), "there"), facts(directory.path(), "theirs"), "{create}");
        }
    }
    // A raw one keeps what the source does not own, too.
    make(directory.path(), "head -c 9M /dev/urandom >there; cp there theirs");
    for (program, target) in [(instar.as_path(), "there"), (Path::new("qemu-img"), "theirs")] {
        let output = run(directory.path(), program, &["convert", "-n", "-B", "base", "top", target]);
        assert!(output.status.success(), "{output:?}");
    }
    make(directory.path(), "cmp there theirs");
    // What is promised to be zero can't have a layer below: qemu-img says so, copies nothing, and ends well.
    make(directory.path(), "qemu-img create -q -f qcow2 -b base -F raw empty; cp empty before");
    let call = ["convert", "-n", "-B", "base", "--target-is-zero", "-O", "qcow2", "top", "empty"];
    let ours = run(directory.path(), &instar.with_file_name("qemu-img"), &call);
    let theirs = run(directory.path(), Path::new("qemu-img"), &call);
    assert_eq!((ours.status.code(), &ours.stderr), (Some(1), &theirs.stderr));
    make(directory.path(), "cmp empty before");
}
