//! `convert` over the options of qcow2 and kinds of content, both ways, held against qemu-img.
//!
//! Each case: instar makes an image of a raw one, with one lane and with several, and qemu-img judges it beside its own;
//! instar reads qemu-img's image back. A part of the product runs by default, all of it with `INSTAR_FULL`
//! (`cargo xtask test --full`).

use crate::common::{make, run, scratch, shell};
use crate::judge::{has_libyal, instar, sha256, sha256_by_libyal};
use serde_json::Value as Json;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What makes the raw images, and their names.
const CONTENTS: [(&str, &str); 10] = [
    ("empty", ": >empty"),
    ("b1", "printf x >b1"),
    ("b511", "head -c 511 /dev/urandom >b511"),
    ("b513", "seq 1 99 >b513; truncate -s 513 b513"),
    ("odd", "seq 1 400000 | head -c 1234567 >odd"),
    ("text", "seq 1 500000 >text"),
    ("random", "head -c 2M /dev/urandom >random; head -c 300 /dev/urandom >>random"),
    (
        "holes",
        "truncate -s 24M holes; qemu-io -f raw -c 'write -P 1 3k 5k' -c 'write -P 2 9M 1M' -c 'write -P 0 12M 1M' \
         -c 'write -P 3 20971008 512' holes >/dev/null",
    ),
    ("zeros", "head -c 3M /dev/zero >zeros"),
    (
        "stripes",
        "for i in $(seq 1 600); do echo $i; head -c 8190 /dev/zero; done >stripes; head -c 70k /dev/urandom >>stripes; \
         truncate -s 9M stripes; echo end >>stripes",
    ),
];

/// A target: options of qcow2, and whether its clusters are compressed.
#[derive(Clone, Debug)]
struct Target {
    options: String,
    compress: bool,
    cluster_bits: u32,
    /// Other readers can read it: without extended L2 entries and zstd.
    is_plain: bool,
}

/// Every combination that qcow2 has, in an order in which neighbours differ much.
fn targets() -> Vec<Target> {
    let mut all = Vec::new();
    for compression in ["", "zlib", "zstd"] {
        for preallocation in ["off", "metadata", "falloc", "full"] {
            for (compat, width) in
                [("0.10", 16), ("1.1", 1), ("1.1", 2), ("1.1", 4), ("1.1", 8), ("1.1", 16), ("1.1", 32), ("1.1", 64)]
            {
                for extended in [false, true] {
                    for cluster_bits in 9..=21 {
                        let version_3 = compat == "1.1";
                        let sound = (version_3 || (!extended && compression != "zstd"))
                            && (!extended || cluster_bits >= 14)
                            && (compression.is_empty() || preallocation == "off");
                        if !sound {
                            continue;
                        }
                        let mut options = format!("compat={compat},cluster_size={}", 1 << cluster_bits);
                        if version_3 {
                            options += &format!(",refcount_bits={width}");
                        }
                        if extended {
                            options += ",extended_l2=on";
                        }
                        if !compression.is_empty() && version_3 {
                            options += &format!(",compression_type={compression}");
                        }
                        if preallocation != "off" {
                            options += &format!(",preallocation={preallocation}");
                        }
                        let is_plain = !extended && compression != "zstd";
                        all.push(Target { options, compress: !compression.is_empty(), cluster_bits, is_plain });
                    }
                }
            }
        }
    }
    all
}

/// Of the targets, every fifth runs by default.
const STEP: usize = 5;

fn is_full() -> bool {
    std::env::var_os("INSTAR_FULL").is_some()
}

/// What info tells of an image, but for what the arrangement of clusters and the file's name decide.
fn facts(directory: &Path, image: &str) -> Json {
    let output = run(directory, Path::new("qemu-img"), &["info", "--output=json", "-f", "qcow2", image]);
    let mut facts: Json = serde_json::from_slice(&output.stdout).expect("qemu-img writes JSON");
    for own in ["actual-size", "filename", "children"] {
        facts.as_object_mut().expect("an object").remove(own);
    }
    facts
}

fn succeeds(directory: &Path, program: &Path, words: &str) -> Result<(), String> {
    let output = Command::new(program).args(words.split_whitespace()).current_dir(directory).output().expect("starts");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// One case, in a directory of its own; `raw` is the path of the content. Whether qemu-img can do it.
fn check(directory: &Path, instar: &Path, raw: &str, target: &Target, lanes: u32) -> bool {
    let case = format!("{raw} {}{}", target.options, if target.compress { " -c" } else { "" });
    let words =
        format!("convert{} -f raw -O qcow2 -o {} {raw}", if target.compress { " -c" } else { "" }, target.options);
    let qemu_img = Path::new("qemu-img");
    let theirs = succeeds(directory, qemu_img, &format!("{words} theirs"));
    let ours = succeeds(directory, instar, &format!("{words} -m 1 ours"));
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{case}: {ours:?} {theirs:?}");
    if theirs.is_err() {
        make(directory, "test ! -e ours; rm -f theirs");
        return false;
    }
    succeeds(directory, instar, &format!("{words} -m {lanes} lanes")).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(shell(directory, "cmp ours lanes").status.success(), "{case}: other bytes with {lanes} lanes");
    let judged = |words: &str| succeeds(directory, qemu_img, words).unwrap_or_else(|error| panic!("{case}: {error}"));
    judged(&format!("compare -f raw -F qcow2 {raw} ours"));
    judged("check -f qcow2 ours");
    assert_eq!(facts(directory, "ours"), facts(directory, "theirs"), "{case}");
    let len = |name: &str| std::fs::metadata(directory.join(name)).expect("there").len();
    // Ours ends with a sector. An image of nothing has no L1 table with qemu-img, and an empty one here.
    let more =
        if std::fs::metadata(directory.join(raw)).expect("there").len() == 0 { 1 << target.cluster_bits } else { 0 };
    let most = len("theirs").next_multiple_of(512) * 102 / 100 + more;
    assert!(len("ours") <= most, "{case}: {} bytes, qemu-img's has {}", len("ours"), len("theirs"));
    // Back from both, to raw and to another cluster size.
    succeeds(directory, instar, "convert -f qcow2 -O raw theirs back")
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    judged(&format!("compare -f raw -F raw {raw} back"));
    succeeds(directory, instar, "convert -f qcow2 -O qcow2 ours again")
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    judged("compare -f qcow2 -F raw again back");
    make(directory, "rm ours theirs lanes back again");
    true
}

#[test]
fn every_option_with_every_content() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    CONTENTS.iter().for_each(|(_, script)| make(directory.path(), script));
    let targets = targets();
    // A step without a common factor with any of the loops' lengths meets every value of each option.
    let step = if is_full() { 1 } else { STEP };
    let chosen: Vec<(usize, &Target)> = targets.iter().enumerate().step_by(step).collect();
    let (next, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (next, refused, chosen) = (&next, &refused, &chosen);
            let (directory, instar) = (directory.path(), &instar);
            scope.spawn(move || {
                let own = directory.join(format!("worker{worker}"));
                std::fs::create_dir(&own).expect("a new directory");
                while let Some((index, target)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    for (number, (name, _)) in CONTENTS.iter().enumerate() {
                        // In full, each with each; else each target with one content.
                        if !is_full() && number != (index / step) % CONTENTS.len() {
                            continue;
                        }
                        let lanes = [2, 4][(index / step) % 2];
                        if !check(&own, instar, &format!("../{name}"), target, lanes) {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert_eq!(refused.into_inner(), 0, "qemu-img can do all of these");
}

/// Options for images that are large: few, as each takes a while.
const LARGE: [&str; 8] = [
    "cluster_size=64k",
    "cluster_size=2M,refcount_bits=1",
    "cluster_size=64k,extended_l2=on",
    "cluster_size=4k,compat=0.10",
    "cluster_size=64k,compression_type=zlib -c",
    "cluster_size=64k,compression_type=zstd -c",
    "cluster_size=2M,preallocation=metadata",
    "cluster_size=512,refcount_bits=64",
];

fn large(words: &str) -> Target {
    let (options, compress) = words.strip_suffix(" -c").map_or((words, false), |options| (options, true));
    Target {
        options: options.to_owned(),
        compress,
        cluster_bits: 0,
        is_plain: !options.contains("extended") && !options.contains("zstd"),
    }
}

#[test]
fn large_and_sparse_disks() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "truncate -s 5G five; for at in 0 4294901760 4294967296 5368708608; do \
           qemu-io -f raw -c \"write -P 7 $at 512\" five >/dev/null; done; \
         truncate -s 1T tera; for at in 0 5G 300G 1099511562240; do \
           qemu-io -f raw -c \"write -P 8 $at 64k\" tera >/dev/null; done",
    );
    let count = if is_full() { LARGE.len() } else { 3 };
    for name in ["five", "tera"] {
        for words in &LARGE[..count] {
            let done = check(directory.path(), &instar, name, &large(words), 4);
            // An L1 table has 32 MiB at most.
            assert_eq!(done, !(name == "tera" && words.contains("=512")), "{name} {words}");
        }
    }
}

/// A file system made of real files: what is in it is found again, by the file system's own checker.
#[test]
fn a_file_system_of_real_files() {
    let Some(instar) = instar(&["qemu-img", "mkfs.ext4", "e2fsck"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "mkdir tree; cp -r /usr/share/doc/[a-d]* /usr/bin/[a-d]* tree/ 2>/dev/null || true; seq 1 300000 >tree/text; \
         head -c 5M /dev/urandom >tree/random; truncate -s 400M ext4; mkfs.ext4 -q -d tree ext4; rm -r tree",
    );
    let count = if is_full() { LARGE.len() } else { 6 };
    for words in &LARGE[..count] {
        assert!(check(directory.path(), &instar, "ext4", &large(words), 4), "{words}");
    }
    make(
        directory.path(),
        &format!(
            "{0} convert -c -f raw -O qcow2 ext4 there; {0} convert -O raw there back; e2fsck -fn back >/dev/null 2>&1",
            instar.display()
        ),
    );
}

#[test]
fn a_reader_that_is_not_qemus_finds_the_same_content() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    if !has_libyal("pyqcow") {
        return;
    }
    make(directory.path(), "seq 1 600000 >a; head -c 1M /dev/urandom >>a; truncate -s 9M a; truncate -s 8M b");
    make(directory.path(), "head -c 9k /dev/urandom >>b; truncate -s 12M b");
    let plain = targets().into_iter().filter(|target| target.is_plain && target.cluster_bits >= 10);
    for (index, target) in plain.step_by(if is_full() { 1 } else { 9 }).enumerate() {
        let raw = ["a", "b"][index % 2];
        let compress = if target.compress { "-c " } else { "" };
        let words = format!("convert {compress}-f raw -O qcow2 -o {} {raw} out", target.options);
        succeeds(directory.path(), &instar, &words).unwrap_or_else(|error| panic!("{words}: {error}"));
        assert_eq!(sha256_by_libyal(directory.path(), "pyqcow", &["out"]), sha256(directory.path(), raw), "{words}");
        make(directory.path(), "rm out");
    }
}

/// The part that runs by default has every value of every option.
#[test]
fn no_option_is_left_out_of_the_part_that_runs_by_default() {
    let targets = targets();
    let words = |chosen: Vec<&Target>| {
        let mut words: Vec<String> =
            chosen.iter().flat_map(|target| target.options.split(',').map(str::to_owned)).collect();
        words.sort();
        words.dedup();
        words
    };
    assert_eq!(words(targets.iter().step_by(STEP).collect()), words(targets.iter().collect()));
}
