//! What is asked and what is written, on every engine: the same.

use crate::common::{has, make, run, scratch};
use crate::launch::{be_launcher_if_told, has_images, launch, name_of};
use crate::place::{is_builtin, places};
use std::path::Path;

/// A chain of two layers with some content, and a raw disk.
const IMAGES: &str = "
    qemu-img create -q -f qcow2 base.qcow2 24M
    qemu-io -f qcow2 -c 'write -P 0x11 0 3M' -c 'write -P 0x22 9M 64k' base.qcow2
    qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
    qemu-io -f qcow2 -c 'write -P 0x33 1M 512k' -c 'write -z 9M 32k' -c 'write -P 0x44 20M 1M' top.qcow2
    qemu-img convert -O raw top.qcow2 flat.raw
    qemu-img convert -c -O qcow2 top.qcow2 small.qcow2
";

/// The judge is qemu-img, which is asked the same, but for what only instar tells.
#[test]
fn what_is_asked_is_answered_the_same_on_every_engine() {
    be_launcher_if_told();
    if !has_images() || !has("qemu-img") {
        return;
    }
    let directory = scratch();
    make(directory.path(), IMAGES);
    let cases: [(&[&str], bool); 9] = [
        (&["info", "--output=json", "--backing-chain", "top.qcow2"], true),
        (&["info", "--details", "--output=json", "--backing-chain", "small.qcow2"], false),
        (&["check", "top.qcow2"], true),
        (&["check", "--output=json", "small.qcow2"], true),
        (&["map", "--output=json", "top.qcow2"], true),
        (&["map", "small.qcow2"], true),
        (&["measure", "-O", "qcow2", "top.qcow2"], true),
        (&["compare", "-F", "raw", "top.qcow2", "flat.raw"], true),
        (&["compare", "base.qcow2", "top.qcow2"], true),
    ];
    for (arguments, is_qemu_imgs) in cases {
        let theirs = run(directory.path(), Path::new("qemu-img"), arguments);
        let mut expected = is_qemu_imgs.then_some((theirs.status.success(), theirs.stdout));
        for place in places() {
            let test = name_of(what_is_asked_is_answered_the_same_on_every_engine);
            let ran = launch(test, place, directory.path(), arguments);
            let answer = (ran.code == Some(0), ran.out);
            assert!(answer.1.len() > 20, "{place}: {arguments:?}: {}", ran.err);
            let expected = expected.get_or_insert_with(|| answer.clone());
            assert!(*expected == answer, "{place}: {arguments:?}: {}{}", String::from_utf8_lossy(&answer.1), ran.err);
        }
    }
}

#[test]
fn convert_writes_the_same_on_every_engine_with_one_lane_and_with_two() {
    be_launcher_if_told();
    if !has_images() || !has("qemu-img") {
        return;
    }
    let directory = scratch();
    make(directory.path(), IMAGES);
    let cases: [&[&str]; 3] = [
        &["convert", "-O", "raw", "top.qcow2", "out"],
        &["convert", "-O", "qcow2", "-f", "raw", "flat.raw", "out"],
        &["convert", "-O", "qcow2", "-c", "small.qcow2", "out"],
    ];
    for arguments in cases {
        let mut first = None;
        for (place, lanes) in places().flat_map(|place| [(place, "1"), (place, "2")]) {
            let test = name_of(convert_writes_the_same_on_every_engine_with_one_lane_and_with_two);
            let ran =
                launch(test, place, directory.path(), &[&arguments[..1], &["-m", lanes], &arguments[1..]].concat());
            assert_eq!(ran.code, Some(0), "{place}, {lanes} lanes: {arguments:?}: {}", ran.err);
            let made = std::fs::read(directory.path().join("out")).expect("made");
            if first.is_none() {
                // Another program's word for the content.
                make(directory.path(), "qemu-img compare out flat.raw");
            }
            assert!(*first.get_or_insert_with(|| made.clone()) == made, "{place}, {lanes} lanes: {arguments:?}");
            std::fs::remove_file(directory.path().join("out")).expect("there");
        }
    }
}

#[test]
fn a_length_that_is_no_multiple_of_a_sector_is_kept_by_every_program() {
    be_launcher_if_told();
    if !has_images() {
        return;
    }
    let directory = scratch();
    let content: Vec<u8> = (0..100_001u32).map(|index| (index / 3) as u8).collect();
    std::fs::write(directory.path().join("odd.raw"), &content).expect("written");
    let test = name_of(a_length_that_is_no_multiple_of_a_sector_is_kept_by_every_program);
    let arguments = ["convert", "-f", "raw", "-O", "raw", "odd.raw", "out"];
    for place in places() {
        let ran = launch(test, place, directory.path(), &arguments);
        if is_builtin(place) && place != "table" {
            // The narrowest machines hide the tail of what they open themselves: an error, never other bytes.
            assert_eq!(ran.code, Some(1), "{place}");
            assert!(!directory.path().join("out").exists(), "{place}");
            continue;
        }
        assert_eq!(ran.code, Some(0), "{place}: {}", ran.err);
        let made = std::fs::read(directory.path().join("out")).expect("made");
        // Raw targets are padded to a sector, as qemu-img does.
        assert!(made[..content.len()] == content && made[content.len()..].iter().all(|&byte| byte == 0), "{place}");
        assert!(made.len() < content.len() + 512, "{place}");
        std::fs::remove_file(directory.path().join("out")).expect("there");
    }
}

/// Seventeen devices, which is all that the narrowest machine has.
#[test]
fn a_chain_of_the_usual_depth_is_read_on_every_engine() {
    be_launcher_if_told();
    if !has_images() || !has("qemu-img") {
        return;
    }
    let directory = scratch();
    make(
        directory.path(),
        "qemu-img create -q -f qcow2 0.qcow2 4M
        for i in $(seq 15); do qemu-img create -q -f qcow2 -b $((i-1)).qcow2 -F qcow2 $i.qcow2; done
        for i in $(seq 0 15); do qemu-io -f qcow2 -c \"write -q -P $i $((i*64))k 128k\" $i.qcow2; done",
    );
    let arguments = ["map", "--output=json", "15.qcow2"];
    let theirs = run(directory.path(), Path::new("qemu-img"), &arguments);
    assert!(theirs.status.success());
    for place in places() {
        let test = name_of(a_chain_of_the_usual_depth_is_read_on_every_engine);
        let ran = launch(test, place, directory.path(), &arguments);
        assert!(ran.code == Some(0) && ran.out == theirs.stdout, "{place}: {}", ran.err);
    }
}
