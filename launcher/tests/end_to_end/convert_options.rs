//! The options of `convert` in real VMs, judged by qemu-img.

use crate::common::{make, run, scratch};
use crate::judge::{converts, instar, same_as_qemu_img};
use std::path::Path;
use std::process::{Command, Stdio};

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
    for options in [&["-m", "16"][..], &["-U"]] {
        let call = [options, &["-f", "raw", "-O", "qcow2", "a"]].concat();
        same_as_qemu_img(directory.path(), &instar, options[0], &call);
    }
}

#[test]
fn clusters_in_any_order_hold_the_same() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "(seq 1 3000000; head -c 20M /dev/urandom) >a; truncate -s 60M a");
    for lanes in ["1", "2", "4"] {
        for more in [&[][..], &["-c"], &["-o", "cluster_size=512"], &["-c", "-o", "compression_type=zstd"]] {
            let call = [&["-W", "-m", lanes], more, &["-f", "raw", "-O", "qcow2", "a"]].concat();
            same_as_qemu_img(directory.path(), &instar, "-W", &call);
        }
    }
}

#[test]
fn what_cannot_be_read_is_salvaged_as_by_qemu_img() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 900000 >a; truncate -s 8M a; qemu-img convert -c -f raw -O qcow2 a bad; \
         head -c 60k /dev/urandom | dd of=bad bs=1k seek=350 conv=notrunc 2>/dev/null",
    );
    let as_qemu_img = instar.with_file_name("qemu-img");
    for options in [&["--salvage"][..], &["--salvage", "-q"], &["--salvage", "-O", "qcow2"]] {
        let session = |program: &Path, target: &str| {
            let call = [&["convert"], options, &["-f", "qcow2", "bad", target]].concat();
            let output = run(directory.path(), program, &call);
            // Both read in the order that suits them.
            let mut lines: Vec<String> = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
            lines.sort();
            (output.status.code(), output.stdout, lines)
        };
        let ours = session(&as_qemu_img, "out");
        assert_eq!(ours, session(Path::new("qemu-img"), "theirs"), "{options:?}");
        assert_eq!(ours.2.is_empty(), options.contains(&"-q"));
        let format = if options.contains(&"qcow2") { "qcow2" } else { "raw" };
        make(
            directory.path(),
            &format!("qemu-img compare -f {format} -F {format} out theirs >/dev/null; rm out theirs"),
        );
    }
    // In few words, one for each stretch; and not at all without the option.
    let told = run(directory.path(), &instar, &["convert", "--salvage", "-f", "qcow2", "bad", "out"]);
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && text.starts_with("instar: warning: error while reading offset "), "{text}");
    assert!(text.lines().count() < 10, "{text}");
    make(directory.path(), "rm out");
    assert_eq!(run(directory.path(), &instar, &["convert", "-f", "qcow2", "bad", "out"]).status.code(), Some(1));
    assert!(!directory.path().join("out").exists());
}

#[test]
fn a_person_at_a_terminal_sees_a_bar_and_a_program_does_not() {
    let Some(instar) = instar(&["script"]) else { return };
    let directory = scratch();
    make(directory.path(), "head -c 64M /dev/urandom >a");
    let session = |program: &Path| {
        let call = format!("{} convert -p -r 64M -f raw a out >printed", program.display());
        make(directory.path(), &format!("TERM=xterm script -qec '{call}' terminal >/dev/null"));
        let read = |name: &str| std::fs::read(directory.path().join(name)).expect("written");
        make(directory.path(), "cmp a out; rm out");
        (String::from_utf8_lossy(&read("terminal")).into_owned(), read("printed"))
    };
    let (terminal, printed) = session(&instar);
    assert!(terminal.contains("64.00 MiB") && terminal.contains("MiB/s") && terminal.contains("left"), "{terminal:?}");
    assert!(printed.is_empty());
    let (terminal, printed) = session(&instar.with_file_name("qemu-img"));
    assert!(!terminal.contains("MiB") && printed.ends_with(b"(100.00/100%)\r\n"), "{terminal:?}");
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

/// The story: places counted from the start of the first source on.
#[test]
fn what_is_salvaged_counts_in_its_source() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 200000 | head -c 1M >a; qemu-img convert -c -f raw -O qcow2 a bad; \
         head -c 2k /dev/urandom | dd of=bad bs=1k seek=330 conv=notrunc 2>/dev/null; cp bad bad2",
    );
    let warnings = |program: &Path| {
        let call = ["convert", "--salvage", "-f", "qcow2", "bad", "bad2", "out"];
        let output = run(directory.path(), program, &call);
        assert!(output.status.success());
        let mut lines: Vec<String> = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let ours = warnings(&instar.with_file_name("qemu-img"));
    assert!(!ours.is_empty());
    assert_eq!(ours, warnings(Path::new("qemu-img")));
}

#[test]
fn what_a_broken_table_maps_is_told_once() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    // The L2 table is at an odd place.
    make(
        directory.path(),
        "head -c 64k /dev/urandom >a; qemu-img convert -f raw -O qcow2 a bad; \
         printf '\\200\\0\\0\\0\\0\\4\\2\\0' | dd of=bad bs=1 seek=196608 conv=notrunc 2>/dev/null",
    );
    let lines = |program: &Path, words: &str| {
        let output = run(directory.path(), program, &["convert", "--salvage", "-f", "qcow2", "bad", "out"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.contains(words)).count()
    };
    let ours = instar.with_file_name("qemu-img");
    for program in [&ours, Path::new("qemu-img")] {
        assert_eq!(lines(program, "warning: error while reading offset "), 128);
    }
    assert_eq!((lines(&ours, "block status"), lines(Path::new("qemu-img"), "block status") > 0), (0, true));
}
