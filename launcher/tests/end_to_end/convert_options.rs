//! The options of `convert` in real VMs, judged by qemu-img.
//!
//! What the op image refuses as not supported yet is accepted here if it is refused by name and leaves no
//! output; [`DONE`] lists what must work.

use crate::common::{binaries, has, make, run, scratch, shell};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What must work; anything else may be refused by name.
const DONE: [&str; 6] = ["-o", "-c", "-l", "-n", "-W", "several sources"];

fn instar(needs: &[&str]) -> Option<PathBuf> {
    let binaries = binaries()?;
    needs.iter().all(|program| has(program)).then(|| binaries.join("instar"))
}

/// Converts to `out`; whether it is done. A refusal is by name, and leaves nothing.
fn converts(directory: &Path, instar: &Path, what: &str, arguments: &[&str]) -> bool {
    let output = run(directory, instar, &[&["convert"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        assert!(output.stdout.is_empty() && errors.is_empty(), "silent on success: {errors}");
        return true;
    }
    let refused = errors.contains("not supported yet by this version") && errors.contains(what);
    // What has an encoder of its own has an op image of its own.
    let lacks_image = errors.contains("carries no image of the operation 'convert-zstd'");
    assert!(lacks_image || refused && !DONE.contains(&what), "{arguments:?}: {errors}");
    assert!(!directory.join("out").exists(), "{arguments:?}");
    println!("not yet: {what}");
    false
}

/// As [`converts`], to a target that stays where it is.
fn converts_there(directory: &Path, instar: &Path, what: &str, arguments: &[&str]) -> bool {
    let output = run(directory, instar, &[&["convert"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = errors.contains("not supported yet by this version") && errors.contains(what);
    assert!(output.status.success() || refused, "{arguments:?}: {errors}");
    output.status.success()
}

fn facts(directory: &Path, image: &str) -> String {
    let text = run(directory, Path::new("qemu-img"), &["info", "-f", "qcow2", image]).stdout;
    let text = String::from_utf8(text).expect("UTF-8");
    let kept = text.lines().filter(|line| !line.contains("size: ") || line.contains("cluster_size: "));
    kept.filter(|line| !line.contains("file length") && !line.contains("ilename: "))
        .map(|line| line.replace(image, "IMAGE") + "\n")
        .collect()
}

/// The same call on both; the results are images of the same kind and content.
fn same_as_qemu_img(directory: &Path, instar: &Path, what: &str, arguments: &[&str]) {
    if !converts(directory, instar, what, &[arguments, &["out"]].concat()) {
        return;
    }
    let theirs = run(directory, Path::new("qemu-img"), &[&["convert"], arguments, &["theirs"]].concat());
    assert!(theirs.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&theirs.stderr));
    let to = if arguments.windows(2).any(|pair| pair == ["-O", "qcow2"]) { "qcow2" } else { "raw" };
    make(directory, &format!("qemu-img compare -f {to} -F {to} out theirs >/dev/null"));
    if to == "qcow2" {
        make(directory, "qemu-img check -f qcow2 out >/dev/null");
        assert_eq!(facts(directory, "out"), facts(directory, "theirs"), "{arguments:?}");
    }
    make(directory, "rm out theirs");
}

#[test]
fn options_of_a_new_qcow2_image() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 300000 >text; head -c 1M /dev/urandom >>text; truncate -s 9M text");
    for options in [
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=2M",
        "compat=0.10",
        "compat=v2,cluster_size=1k",
        "compat=1.1,lazy_refcounts",
        "refcount_bits=1",
        "refcount_bits=64,cluster_size=512",
        "extended_l2=on",
        "extended_l2=on,cluster_size=128k,refcount_bits=32",
        "preallocation=off,nolazy_refcounts",
    ] {
        same_as_qemu_img(directory.path(), &instar, "-o", &["-f", "raw", "-O", "qcow2", "-o", options, "text"]);
    }
    let repeated = ["-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", "-o", "refcount_bits=8", "text"];
    same_as_qemu_img(directory.path(), &instar, "-o", &repeated);
}

#[test]
fn compressed_targets() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 300000 >text; head -c 1M /dev/urandom >>text; truncate -s 9M text");
    let call = |options| ["-c", "-f", "raw", "-O", "qcow2", "-o", options, "text"];
    same_as_qemu_img(directory.path(), &instar, "-c", &call("cluster_size=64k"));
    same_as_qemu_img(directory.path(), &instar, "-c", &call("cluster_size=4k"));
    same_as_qemu_img(directory.path(), &instar, "-c", &call("compat=v2"));
    same_as_qemu_img(directory.path(), &instar, "-o compression_type", &call("compression_type=zstd"));
}

#[test]
fn internal_snapshots() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "qemu-img create -q -f qcow2 s 8M; qemu-io -c 'write -P 3 1M 64k' s >/dev/null; qemu-img snapshot -c snap s; \
         qemu-io -c 'write -P 4 1M 64k' -c 'write -P 5 4M 1M' s >/dev/null; qemu-img snapshot -c 1 s",
    );
    for snapshot in ["snap", "1", "2", "snapshot.name=1", "snapshot.id=1", "snapshot.name=snap"] {
        same_as_qemu_img(directory.path(), &instar, "-l", &["-l", snapshot, "-f", "qcow2", "s"]);
    }
    let output = run(directory.path(), &instar, &["convert", "-l", "nope", "-f", "qcow2", "s", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!directory.path().join("out").exists());
}

#[test]
fn several_sources_one_behind_the_other() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 100000 >a; truncate -s 1M a; seq 2 99999 >b; truncate -s 3M b; cp a c");
    for to in ["raw", "qcow2"] {
        let call = ["-f", "raw", "-O", to, "a", "b", "c", "a"];
        same_as_qemu_img(directory.path(), &instar, "several sources", &call);
    }
}

#[test]
fn overlays() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "mkdir sub; seq 1 100000 >base; truncate -s 8M base; qemu-img create -q -f qcow2 -b base -F raw top; \
         qemu-io -c 'write -P 3 1M 64k' -c 'write -z 2M 1M' top >/dev/null",
    );
    let call = ["-f", "qcow2", "-O", "qcow2", "-B", "base", "-F", "raw", "top"];
    same_as_qemu_img(directory.path(), &instar, "-B", &call);
    let call = ["-f", "qcow2", "-O", "qcow2", "-o", "backing_file=base,backing_fmt=raw", "top"];
    same_as_qemu_img(directory.path(), &instar, "-B", &call);
}

#[test]
fn targets_that_are_there() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 100000 >a; truncate -s 2M a; mkdir keep");
    for (options, target, size) in [
        (&["-n"][..], "there", "2M"),
        (&["-n"], "there", "3M"),
        (&["-n", "-S", "0"], "there", "2M"),
        (&["-n", "--target-is-zero"], "there", "2M"),
        (&["-n"], "zeroinit:there", "2M"),
        (&["-n", "--target-image-opts"], "driver=raw,file.filename=there", "2M"),
    ] {
        // What is not to be trusted to be zeros holds something else, and keeps it beyond the source.
        let dirty = options == ["-n"] && target == "there" || options.contains(&"0");
        let fill = if dirty { "yes | head -c 3M" } else { "head -c 0 /dev/zero" };
        let script = format!("{fill} >there; truncate -s {size} there; ln -f there other; cp there ref");
        make(directory.path(), &script);
        if converts(directory.path(), &instar, "-n", &[options, &["-f", "raw", "a", target]].concat()) {
            make(directory.path(), "qemu-img convert -n -f raw a ref; cmp ref there; cmp there other");
        }
    }
    make(directory.path(), "truncate -s 1M there");
    let output = run(directory.path(), &instar, &["convert", "-n", "-f", "raw", "a", "there"]);
    assert_eq!(output.status.code(), Some(1), "too small");
    make(directory.path(), "head -c 1M a | cmp - there");
}

/// Bytes that a file occupies.
fn occupied(directory: &Path, name: &str) -> u64 {
    std::fs::metadata(directory.join(name)).expect("it is there").blocks() * 512
}

#[test]
fn room_is_reserved_as_by_qemu_img() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 300000 >a; truncate -s 9M a");
    for (format, mode) in [
        ("raw", "falloc"),
        ("raw", "full"),
        ("qcow2", "metadata"),
        ("qcow2", "falloc"),
        ("qcow2", "full"),
        ("qcow2", "full,cluster_size=4k"),
        ("qcow2", "falloc,extended_l2=on"),
    ] {
        let options = format!("preallocation={mode}");
        let call = ["-f", "raw", "-O", format, "-o", &options, "a"];
        if !converts(directory.path(), &instar, "-o preallocation", &[&call[..], &["out"]].concat()) {
            continue;
        }
        make(directory.path(), &format!("qemu-img convert {} theirs", call.join(" ")));
        let (ours, theirs) = (occupied(directory.path(), "out"), occupied(directory.path(), "theirs"));
        assert!(ours + (256 << 10) >= theirs, "{format} {mode}: {ours} bytes, qemu-img's has {theirs}");
        let len = |name: &str| std::fs::metadata(directory.path().join(name)).expect("it is there").len();
        assert!(len("out") + (256 << 10) >= len("theirs"), "{format} {mode}");
        if format == "qcow2" {
            make(directory.path(), "qemu-img check -f qcow2 out >/dev/null");
            let mapped = |name: &str| {
                let map = run(directory.path(), Path::new("qemu-img"), &["map", "--output=json", "-f", "qcow2", name]);
                let text = String::from_utf8(map.stdout).expect("UTF-8");
                text.matches("\"present\": false").count()
            };
            assert_eq!(mapped("out"), mapped("theirs"), "{mode}: nothing is left unmapped");
        }
        make(directory.path(), &format!("qemu-img compare -f raw -F {format} a out >/dev/null; rm out theirs"));
    }
}

#[test]
fn without_room_nothing_is_left_and_qemu_imgs_words_are_said() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 1000 >a; truncate -s 8M a");
    let probe = "mount -t tmpfs -o size=3m none . 2>/dev/null";
    if !shell(directory.path(), &format!("mkdir small; unshare -rm sh -euc 'cd small; {probe}'")).status.success() {
        println!("skipped: needs a mount namespace");
        return;
    }
    for (format, mode) in [("raw", "falloc"), ("raw", "full")] {
        let session = |program: &str| {
            let call = format!("{program} convert -f raw -O {format} -o preallocation={mode} a small/out");
            let script = format!("cd small; {probe}; cd ..; set +e; {call}; echo $?; ls small");
            let output = shell(directory.path(), &format!("unshare -rm sh -euc '{script}'"));
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            (text(output.stdout), text(output.stderr))
        };
        let as_qemu_img = instar.with_file_name("qemu-img").display().to_string();
        let (ours, theirs) = (session(&as_qemu_img), session("qemu-img"));
        assert_eq!(ours.1, theirs.1, "{format} {mode}");
        assert_eq!(ours.0, "1\n", "{format} {mode}: nothing is left");
    }
}

#[test]
fn data_files() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 300000 >a; truncate -s 9M a; mkdir sub; head -c 20M /dev/zero | tr '\\0' x >old");
    for (options, data, target) in [
        ("data_file=d", "d", "out"),
        ("data_file=d,data_file_raw=on", "d", "out"),
        ("data_file=d,preallocation=full", "d", "out"),
        ("data_file=d,data_file_raw=on,extended_l2=on", "d", "out"),
        ("data_file=old", "old", "out"),
    ] {
        let call = ["-f", "raw", "-O", "qcow2", "-o", options, "a", target];
        if !converts(directory.path(), &instar, "-o data_file", &call) {
            assert!(!directory.path().join("d").exists(), "{options}");
            continue;
        }
        make(
            directory.path(),
            &format!(
                "qemu-img check -f qcow2 {target} >/dev/null; qemu-img compare -f raw -F qcow2 a {target} >/dev/null; \
                 test $(stat -c %s {data}) = $(stat -c %s a)"
            ),
        );
        if options.contains("raw=on") {
            make(directory.path(), &format!("cmp a {data}"));
        }
        let ours = facts(directory.path(), target);
        make(directory.path(), &format!("rm {target} {data}; qemu-img convert {}", call.join(" ")));
        assert_eq!(ours, facts(directory.path(), target), "{options}");
        make(directory.path(), &format!("rm {target} {data}"));
    }
    // One that fails leaves neither.
    make(directory.path(), "rm -f old; head -c 100 /dev/urandom >noise");
    let call = ["convert", "-f", "qcow2", "-O", "qcow2", "-o", "data_file=d", "noise", "out"];
    assert_eq!(run(directory.path(), &instar, &call).status.code(), Some(1));
    assert!(!directory.path().join("d").exists() && !directory.path().join("out").exists());
}

#[test]
fn images_that_are_there() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 300000 >a; truncate -s 4M a");
    for create in ["out 4M", "out 6M", "-o cluster_size=4k out 4M", "-o extended_l2=on out 4M", "-o compat=0.10 out 4M"]
    {
        for options in [&[][..], &["-S", "0"], &["--target-is-zero"]] {
            let dirt = if options.contains(&"--target-is-zero") { 0 } else { 3 };
            let fill = format!("qemu-io -c 'write -P {dirt} 1M 2M' out >/dev/null");
            make(directory.path(), &format!("qemu-img create -q -f qcow2 {create}; {fill}; cp out theirs"));
            let call = [options, &["-n", "-f", "raw", "-O", "qcow2", "a"]].concat();
            if converts_there(directory.path(), &instar, "-n", &[&call[..], &["out"]].concat()) {
                let theirs = [&["convert"], &call[..], &["theirs"]].concat();
                assert!(run(directory.path(), Path::new("qemu-img"), &theirs).status.success(), "{create} {options:?}");
                make(
                    directory.path(),
                    "qemu-img compare -f qcow2 -F qcow2 out theirs >/dev/null; qemu-img check -f qcow2 out >/dev/null",
                );
            }
        }
    }
    // What is no such image, too small, or the source itself stays as it was.
    make(directory.path(), "cp a b; qemu-img create -q -f qcow2 small 2M; cp small small2");
    for target in ["b", "small", "a", "gone"] {
        let call = ["convert", "-n", "-f", "raw", "-O", "qcow2", "a", target];
        assert_eq!(run(directory.path(), &instar, &call).status.code(), Some(1), "{target}");
    }
    make(directory.path(), "cmp a b; cmp small small2; test ! -e gone");
}

#[test]
fn a_rate_is_kept() {
    let Some(instar) = instar(&[]) else { return };
    let directory = scratch();
    make(directory.path(), "head -c 4M /dev/urandom >a");
    let started = std::time::Instant::now();
    assert!(converts(directory.path(), &instar, "-r", &["-r", "4M", "-f", "raw", "a", "out"]));
    assert!(started.elapsed().as_millis() >= 800, "{:?}", started.elapsed());
    make(directory.path(), "cmp a out");
}

#[test]
fn options_without_effect_are_accepted() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 100000 >a; truncate -s 1M a");
    for options in [&["-W"][..], &["-m", "16"], &["-U"]] {
        let call = [options, &["-f", "raw", "-O", "qcow2", "a"]].concat();
        same_as_qemu_img(directory.path(), &instar, options[0], &call);
    }
    let output = shell(directory.path(), &format!("{} convert -f raw a /dev/stdout >out; cmp a out", instar.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn cache_modes_change_no_byte() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    // On a disk where there is one, and of a length that ends within a block.
    let directory = tempfile::tempdir().expect("a directory");
    make(directory.path(), "seq 1 400000 >a; head -c 3M /dev/urandom >>a; truncate -s 9000k a; head -c 512 a >>a");
    for mode in ["none", "off", "writeback", "writethrough", "directsync", "unsafe"] {
        for format in ["raw", "qcow2"] {
            let call = ["-t", mode, "-T", mode, "-f", "raw", "-O", format, "a"];
            let output = run(directory.path(), &instar, &[&["convert"], &call[..], &["out"]].concat());
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            if errors.contains("filesystem does not support O_DIRECT") {
                println!("skipped: needs a file system with O_DIRECT");
                continue;
            }
            assert!(output.status.success(), "{mode} {format}: {errors}");
            make(directory.path(), &format!("qemu-img compare -f raw -F {format} a out >/dev/null"));
            if format == "raw" {
                make(directory.path(), "cmp a out; qemu-img create -q -f raw out 9M");
                let there = ["convert", "-n", "-t", mode, "-T", mode, "-f", "raw", "a", "out"];
                assert!(run(directory.path(), &instar, &there).status.success(), "{mode}");
                make(directory.path(), "head -c $(stat -c %s a) out | cmp - a");
            }
            make(directory.path(), "rm out");
        }
    }
}

#[test]
fn a_file_system_without_o_direct_is_told_in_qemu_imgs_words() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 1000 >a; truncate -s 1M a; mkdir small");
    let mount = "mount -t ramfs none small";
    if !shell(directory.path(), &format!("unshare -rm {mount} 2>/dev/null")).status.success() {
        println!("skipped: needs a mount namespace with a file system in memory");
        return;
    }
    for options in
        ["-t none a small/out", "-t directsync -O qcow2 a small/out", "-T none small/a out", "-n -t none a small/a"]
    {
        let session = |program: &str| {
            let script = format!("{mount}; cp a small; set +e; {program} convert -f raw {options}; echo $?");
            let output = shell(directory.path(), &format!("unshare -rm sh -euc '{script}'"));
            (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let as_qemu_img = instar.with_file_name("qemu-img").display().to_string();
        assert_eq!(session(&as_qemu_img), session("qemu-img"), "{options}");
    }
}

#[test]
fn raw_images_go_down_pipes() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 900000 >a; truncate -s 9M a; truncate -s 70M a; seq 1 100 >>a; truncate -s 100M a; : >empty; \
         qemu-img convert -c -f raw -O qcow2 a c; mkfifo fifo",
    );
    let instar = instar.display();
    for session in [
        "$i convert -f raw a /dev/stdout | cmp - a",
        "$i convert -f raw -m 4 a /dev/fd/1 | cmp - a",
        "$i convert c /dev/stdout | cmp - a",
        "$i convert -S 0 c c /dev/stdout | (head -c 100M | cmp - a; cmp - a)",
        "$i convert -f raw -r 1G a /dev/stdout | cmp - a",
        "$i convert -f raw -C a /dev/stdout | cmp - a",
        "$i convert -f raw -p a /dev/stdout 2>progress | cmp - a; grep -q 100.00/100 progress",
        "$i convert -f raw empty /dev/stdout | cmp - empty",
        "cmp fifo a & $i convert -f raw a fifo; wait $!",
        // A redirected file is a file.
        "$i convert -f raw a /dev/stdout >out; cmp out a; rm out",
        "$i convert -f raw -O qcow2 a /dev/stdout >out; qemu-img compare -f raw -F qcow2 a out >/dev/null; rm out",
    ] {
        make(directory.path(), &format!("i={instar}; {session}"));
    }
    let refused =
        shell(directory.path(), &format!("{instar} convert -f raw -O qcow2 a /dev/stdout | cat >out; test ! -s out"));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.success() && text.contains("'/dev/stdout' is a pipe"), "{text}");
    // Whoever reads no more wants no message.
    let script = format!("({instar} convert -f raw a /dev/stdout || echo $? >code) | head -c 1 >/dev/null; cat code");
    let deserted = shell(directory.path(), &script);
    assert_eq!((deserted.stdout, deserted.stderr), (b"1\n".to_vec(), vec![]));
}

#[test]
fn an_existing_target_keeps_its_content_until_success() {
    let Some(instar) = instar(&[]) else { return };
    let directory = scratch();
    make(directory.path(), "echo precious >out; chmod 640 out; seq 1 1000 >a; truncate -s 1M a");
    let output = run(directory.path(), &instar, &["convert", "-f", "qcow2", "a", "out"]);
    assert_eq!(output.status.code(), Some(1));
    make(directory.path(), "echo precious | cmp - out");
    let output = run(directory.path(), &instar, &["convert", "-t", "none", "-f", "raw", "a", "out"]);
    assert!(output.status.success());
    make(directory.path(), "cmp a out; test $(stat -c %a out) = 640; test $(ls -A | wc -l) = 2");
}

#[test]
fn a_signal_asks_for_progress_and_work_goes_on() {
    let Some(instar) = instar(&[]) else { return };
    let directory = scratch();
    make(directory.path(), "head -c 8M /dev/urandom >a");
    let child = Command::new(&instar)
        .args(["convert", "-r", "8M", "-f", "raw", "a", "out"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    while std::fs::read_to_string(&children).is_ok_and(|text| text.is_empty()) {
        std::thread::yield_now();
    }
    make(directory.path(), &format!("kill -USR1 {}", child.id()));
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8(output.stderr).expect("ASCII");
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(text.starts_with("    (") && text.ends_with("/100%)\n") && text.lines().count() == 1, "{text:?}");
    make(directory.path(), "cmp a out");
}
