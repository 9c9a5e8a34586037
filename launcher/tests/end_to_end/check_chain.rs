//! `check --chain`: the layers below are checked as well, and their errors are counted apart.

use crate::common::{make, run, scratch};
use crate::judge::instar;
use std::fs;
use std::path::Path;
use std::process::Output;

const CHAIN: &str = "qemu-img create -q -f raw raw 4M; qemu-img create -q -f qcow2 -b raw -F raw base.qcow2; \
     qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2; \
     qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2; \
     for file in base mid top; do qemu-io -c 'write 0 200k' $file.qcow2 >/dev/null; done";

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Sets the refcount of the image's cluster `cluster`, of 16 bits.
fn set_refcount(path: &Path, cluster: usize, refcount: u16) {
    let mut bytes = fs::read(path).expect("qemu-img made it");
    let place = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
    let block = place(place(48));
    bytes[block + 2 * cluster..][..2].copy_from_slice(&refcount.to_be_bytes());
    fs::write(path, bytes).expect("writable");
}

#[test]
fn errors_of_the_layers_below_are_counted_apart() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, CHAIN);
    let check = |words: &[&str]| texts(&run(directory, &instar, &[&["check"], words].concat()));

    let (code, stdout, stderr) = check(&["--chain", "top.qcow2"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("No errors were found on the image.\n"), "{stdout}");
    assert!(stdout.ends_with("No errors were found in the 3 layers below the image.\n"), "{stdout}");
    assert_eq!(
        stderr,
        "Layer 1 below the image: 'mid.qcow2'\nLayer 2 below the image: 'base.qcow2'\nLayer 3 below the image: 'raw'\n"
    );
    let (code, stdout, _) = check(&["--chain", "--output", "json", "top.qcow2"]);
    assert!(code == Some(0) && stdout.contains("\"chain-errors\": 0"), "{stdout}");

    // A cluster of content that counts as free, and in another layer one that counts twice.
    set_refcount(&directory.join("base.qcow2"), 5, 0);
    set_refcount(&directory.join("mid.qcow2"), 5, 2);
    let theirs = run(directory, Path::new("qemu-img"), &["check", "base.qcow2"]);
    assert_eq!(theirs.status.code(), Some(2), "the layer is broken to qemu-img as well");
    let (code, stdout, stderr) = check(&["--chain", "top.qcow2"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stdout.starts_with("No errors were found on the image.\n"), "{stdout}");
    // The flag of the entry that leads there is wrong, too, in both.
    let found = String::from_utf8_lossy(&theirs.stderr).lines().filter(|line| line.starts_with("ERROR")).count();
    let (json_code, json, _) = check(&["--chain", "--output=json", "top.qcow2"]);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json_code, Some(2));
    assert!(value["chain-errors"].as_u64().is_some_and(|errors| errors >= found as u64 && found > 0), "{json}");
    assert_eq!((&value["chain-leaks"], &value["corruptions"]), (&1.into(), &serde_json::Value::Null), "{json}");
    let errors = value["chain-errors"].as_u64().expect("a number");
    assert!(stdout.ends_with(&format!(
        "{errors} errors were found below the image.\n1 leaked clusters were found below the image.\n"
    )));
    assert!(stderr.contains("'base.qcow2'\nERROR cluster 5 refcount=0 reference=1\n"), "{stderr}");
    // Without it, the layers below don't matter.
    let (code, stdout, _) = check(&["--output=json", "top.qcow2"]);
    assert!(code == Some(0) && !stdout.contains("chain"), "{stdout}");
}

#[test]
fn a_layer_that_is_not_to_be_reached_is_an_error_of_the_chain() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, CHAIN);
    fs::remove_file(directory.join("base.qcow2")).expect("it was there");
    make(directory, "mkdir inside outside; mv mid.qcow2 outside; qemu-img create -q -f raw outside/base.qcow2 4M");
    make(directory, "cd inside; qemu-img create -q -f qcow2 -b ../outside/mid.qcow2 -u -F qcow2 out.qcow2 4M");
    let check = |words: &[&str]| texts(&run(directory, &instar, &[&["check", "--chain"], words].concat()));
    for (file, words) in [
        ("top.qcow2", "Could not open 'mid.qcow2': No such file or directory"),
        ("inside/out.qcow2", "is outside the directories that this image may use"),
    ] {
        let (code, stdout, stderr) = check(&["--output", "json", file]);
        assert!(
            code == Some(2) && stdout.contains("\"chain-errors\": 1") && stderr.contains(words),
            "{stdout}{stderr}"
        );
    }
    // Allowed, it is looked at: what it names itself is content without a header, and not what it is said to be.
    let (code, stdout, stderr) = check(&["--allow-backing", "outside", "inside/out.qcow2"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stdout.contains("1 errors were found below the image.\n"), "{stdout}");
    assert!(stderr.contains("Image is not in qcow2 format"), "{stderr}");
}

#[test]
fn an_image_alone_has_no_chain() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "qemu-img create -q -f qcow2 a.qcow2 4M");
    let (code, stdout, stderr) = texts(&run(directory.path(), &instar, &["check", "--chain", "a.qcow2"]));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.ends_with("There is no layer below the image.\n"), "{stdout}");
    let compatible = instar.with_file_name("qemu-img");
    let (code, _, stderr) = texts(&run(directory.path(), &compatible, &["check", "--chain", "a.qcow2"]));
    assert!(code == Some(1) && stderr.contains("unrecognized option '--chain'"), "{stderr}");
}
