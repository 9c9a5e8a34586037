//! Where `convert` writes to, and how, in real VMs, judged by qemu-img.

use crate::common::{has, make, run, scratch, shell};
use crate::judge::{converts, converts_there, facts, instar, same_as_qemu_img};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

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
    for (format, mode) in [
        ("raw", "falloc"),
        ("raw", "full"),
        ("qcow2", "falloc"),
        ("qcow2", "full"),
        ("qcow2", "full,data_file=small/d"),
    ] {
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
fn the_kernel_copies_what_lies_as_it_is() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 900000 >a; truncate -s 40M a; seq 1 99 >>a; qemu-img convert -f raw -O qcow2 a plain; \
         qemu-img convert -c -f raw -O qcow2 -o cluster_size=4k a packed; \
         qemu-img create -q -f qcow2 -b plain -F qcow2 top; qemu-io -c 'write -P 3 5M 70k' top >/dev/null",
    );
    for (from, source) in [("raw", "a"), ("qcow2", "plain"), ("qcow2", "packed"), ("qcow2", "top")] {
        for to in ["raw", "qcow2"] {
            same_as_qemu_img(directory.path(), &instar, "-C", &["-C", "-f", from, "-O", to, source]);
        }
        let rated = ["-C", "-r", "100M", "-O", "qcow2", "-o", "data_file=d", "-f", from, source, "out"];
        assert!(converts(directory.path(), &instar, "-C", &rated));
        make(directory.path(), &format!("qemu-img compare -f {from} -F qcow2 {source} out >/dev/null; rm out d"));
    }
    // Over what is there.
    make(directory.path(), "yes | head -c 41M >out; truncate -s 42M out; cp out theirs");
    for (program, target) in [(instar.as_path(), "out"), (Path::new("qemu-img"), "theirs")] {
        assert!(run(directory.path(), program, &["convert", "-n", "-C", "-f", "raw", "a", target]).status.success());
    }
    make(directory.path(), "cmp out theirs; rm out theirs");
    if !has("strace") {
        return;
    }
    let traced = |options: &str| {
        let script = format!("strace -f -o trace {} convert {options} -f raw a out; rm out", instar.display());
        make(directory.path(), &script);
        std::fs::read_to_string(directory.path().join("trace")).expect("written").contains("copy_file_range(")
    };
    assert!(traced("-C") && !traced(""));
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
fn a_data_file_is_made_in_the_working_directory_and_read_beside_its_image() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "mkdir sub; head -c 1M /dev/urandom >a");
    let call = ["convert", "-f", "raw", "-O", "qcow2", "-o", "data_file=d", "a", "sub/out"];
    assert!(run(directory.path(), &instar, &call).status.success());
    make(directory.path(), "test ! -e sub/d; cmp a d; qemu-img compare -f raw -F qcow2 a sub/out >/dev/null");
    let back = ["convert", "-f", "qcow2", "sub/out", "back"];
    let elsewhere = run(directory.path(), &instar, &back);
    let text = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(!elsewhere.status.success() && text.contains("'sub/d': No such file or directory"), "{text}");
    make(directory.path(), "mv d sub/d");
    assert!(run(directory.path(), &instar, &back).status.success());
    make(directory.path(), "cmp a back");
}
