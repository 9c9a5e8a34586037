//! `-C` where the kernel can do more than copy, and where it can do less: a file system that shares blocks, and block
//! devices.

use crate::common::{make, run, scratch};
use crate::judge::instar;
use std::path::Path;
use std::process::Command;

/// Something that a command makes and another one takes away again.
struct Undone {
    words: Vec<String>,
}

impl Drop for Undone {
    fn drop(&mut self) {
        // Nothing more can be done about what stays.
        let _ = Command::new(&self.words[0]).args(&self.words[1..]).status();
    }
}

/// What a command prints; `None`, and a note, where it fails: it may not be allowed to.
fn attempt(directory: &Path, words: &[&str]) -> Option<String> {
    let output = run(directory, Path::new(words[0]), &words[1..]);
    if !output.status.success() {
        println!("skipped: needs {} (as root)", words[0]);
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn blocks_are_shared_where_the_file_system_can() {
    let Some(instar) = instar(&["qemu-img", "mkfs.xfs", "mount"]) else { return };
    let directory = scratch();
    make(directory.path(), "truncate -s 400M fs; mkfs.xfs -q -m reflink=1 fs; mkdir mnt");
    if attempt(directory.path(), &["mount", "-o", "loop", "fs", "mnt"]).is_none() {
        return;
    }
    let mounted = directory.path().join("mnt");
    let _undone = Undone { words: vec!["umount".to_owned(), mounted.display().to_string()] };
    make(&mounted, "head -c 100M /dev/urandom >a; qemu-img convert -f raw -O qcow2 a q; sync");
    let used = || -> u64 {
        make(&mounted, "sync -f .");
        let kib = attempt(&mounted, &["sh", "-c", "df --output=used -k . | tail -1"]).expect("df");
        kib.parse().expect("a number")
    };
    for (from, to, source) in
        [("raw", "raw", "a"), ("raw", "qcow2", "a"), ("qcow2", "raw", "q"), ("qcow2", "qcow2", "q")]
    {
        let before = used();
        let output = run(&mounted, &instar, &["convert", "-C", "-f", from, "-O", to, source, "out"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{from} {to}: {output:?}");
        // What was set aside for files that are gone may come back meanwhile.
        let grown = used().saturating_sub(before);
        assert!(grown < 4 << 10, "{from} to {to}: {grown} KiB for 100 MiB that are there already");
        make(&mounted, &format!("qemu-img compare -f raw -F {to} a out >/dev/null; rm out"));
    }
}

#[test]
fn block_devices_are_copied_from_and_to() {
    let Some(instar) = instar(&["qemu-img", "losetup"]) else { return };
    let directory = scratch();
    make(directory.path(), "head -c 20M /dev/urandom >a; truncate -s 30M a; truncate -s 32M disk");
    let Some(device) = attempt(directory.path(), &["losetup", "-f", "--show", "disk"]) else { return };
    let _undone = Undone { words: vec!["losetup".to_owned(), "-d".to_owned(), device.clone()] };
    let convert = |words: &[&str]| {
        let output = run(directory.path(), &instar, &[&["convert", "-C"], words].concat());
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    };
    convert(&["-n", "-f", "raw", "a", &device]);
    make(directory.path(), &format!("cmp -n $((30 << 20)) a {device}"));
    convert(&["-f", "raw", &device, "out"]);
    make(directory.path(), &format!("cmp out {device}"));
    convert(&["-f", "raw", "-O", "qcow2", &device, "out.qcow2"]);
    make(
        directory.path(),
        "qemu-img compare -f raw -F qcow2 out out.qcow2 >/dev/null; qemu-img check out.qcow2 >/dev/null",
    );
    // An image on a device is read. A new state of it would go behind its end, where there is no room.
    make(
        directory.path(),
        &format!("head -c 16M a >b; qemu-img convert -f raw -O qcow2 b out; dd if=out of={device} 2>/dev/null"),
    );
    convert(&["-f", "qcow2", &device, "back"]);
    make(directory.path(), "cmp b back; head -c 16M /dev/urandom >c");
    let output = run(directory.path(), &instar, &["convert", "-n", "-f", "raw", "-O", "qcow2", "c", &device]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("File too large"), "{text}");
    make(
        directory.path(),
        &format!("qemu-img compare -f raw -F qcow2 b {device} >/dev/null; qemu-img check -f qcow2 {device} >/dev/null"),
    );
}
