//! What a user of `info` is promised beyond its output: nothing else is opened, nothing is changed, limits hold.

use crate::common::{binaries, has, make, run, scratch, shell};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The two programs, when everything that the test needs is here.
fn instar(needs: &[&str]) -> Option<PathBuf> {
    let binaries = binaries()?;
    needs.iter().all(|program| has(program)).then(|| binaries.join("instar"))
}

#[test]
fn only_the_image_and_the_system_s_own_files_are_opened() {
    let Some(instar) = instar(&["qemu-img", "strace"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "qemu-img create -q -f raw secret.img 1M; qemu-img create -q -f qcow2 -b secret.img -F raw a.img; \
         qemu-img create -q -f qcow2 -o data_file=data.raw b.img 1M; qemu-img create -q -f qcow2 plain.img 1M",
    );
    for (command, image) in [
        ("info a.img", "a.img"),
        ("info b.img", "b.img"),
        ("convert -f qcow2 -O raw plain.img out", "plain.img"),
        ("convert -f raw -O qcow2 secret.img out", "secret.img"),
    ] {
        let script = format!(
            "env -u LD_LIBRARY_PATH strace -f -o trace -e trace=%file,%network,ioctl {} {command} >/dev/null",
            instar.display()
        );
        make(directory.path(), &script);
        let trace = std::fs::read_to_string(directory.path().join("trace")).expect("strace wrote it");
        let mut locked = std::collections::BTreeSet::new();
        for line in trace.lines() {
            let process = line.split_whitespace().next().unwrap_or_default();
            if line.contains("KVM_RUN") {
                locked.insert(process);
            }
            let names = ["open", "exec", "socket", "stat(", "statx", "link", "rename"];
            let tries = locked.contains(process) && names.iter().any(|name| line.contains(name));
            assert!(!tries, "by the process of a guest: {line}");
            let Some(path) = line.contains("open").then(|| line.split('"').nth(1)).flatten() else { continue };
            let system = [
                "/etc/ld.so.",
                "/lib",
                "/usr/lib",
                "/etc/localtime",
                "/usr/share/zoneinfo",
                "/proc/self/",
                "/sys/fs/cgroup",
            ];
            // The user's configuration and the administrator's, where there are such.
            let is_configuration = path.ends_with("/instar/config.toml");
            // A target is made in its directory, without a name.
            let ours =
                [image, "/dev/kvm"].contains(&path) || command.starts_with("convert") && [".", "out"].contains(&path);
            assert!(ours || is_configuration || system.iter().any(|prefix| path.starts_with(prefix)), "{line}");
        }
        assert!(!locked.is_empty());
    }
}

#[test]
fn the_image_stays_as_it_was() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "qemu-img create -q -f qcow2 -o lazy_refcounts=on a.img 64M; \
         qemu-io -c 'write 0 1M' -c 'sigraise 9' a.img >/dev/null 2>&1 || true",
    );
    let path = directory.path().join("a.img");
    let state = || {
        let facts = std::fs::metadata(&path).expect("it is there");
        let times = (facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec());
        (std::fs::read(&path).expect("readable"), facts.len(), facts.blocks(), times)
    };
    let before = state();
    for arguments in [&["info", "a.img"][..], &["info", "--backing-chain", "a.img"], &["info", "-U", "a.img"]] {
        assert!(run(directory.path(), &instar, arguments).status.success());
    }
    assert!(before == state());
}

#[test]
fn it_works_within_the_limits_of_careful_callers() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "qemu-img create -q -f qcow2 a.img 1T; for i in 1 2 3; do qemu-img snapshot -c $i a.img; done",
    );
    // Glance's and Incus' limits: 1 GiB of address space, 2 s of processor time.
    let script = format!("ulimit -v 1048576; ulimit -t 2; {} info --output=json a.img", instar.display());
    make(directory.path(), &script);
}

#[test]
fn peak_memory_of_all_processes_is_at_most_32_mib() {
    let Some(instar) = instar(&["qemu-img", "/usr/bin/time"]) else { return };
    let directory = scratch();
    make(directory.path(), "qemu-img create -q -f qcow2 a.img 1T; qemu-img create -q -f qcow2 -b a.img -F qcow2 b.img");
    for arguments in ["info a.img", "info --backing-chain b.img"] {
        let script = format!("/usr/bin/time -f %M -o peak {} {arguments} >/dev/null; cat peak", instar.display());
        let output = shell(directory.path(), &script);
        let kib: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a figure");
        // A chain has a parent and one child at a time.
        assert!(kib * 2 <= 32 << 10, "{arguments}: {kib} KiB");
    }
}

#[test]
fn a_closed_pipe_is_no_error_message() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "qemu-img create -q -f qcow2 a.img 1M");
    let script = format!("{} info a.img 2>stderr | true; cat stderr", instar.display());
    assert_eq!(String::from_utf8_lossy(&shell(directory.path(), &script).stdout), "");
}

/// An overlay whose backing name is `name`, whatever it is; qemu-img writes it without looking.
fn overlay(directory: &Path, image: &str, name: &str) {
    let name = name.replace('\'', "'\\''");
    make(directory, &format!("qemu-img create -q -f qcow2 -u -b '{name}' -F qcow2 {image} 1M"));
}

#[test]
fn no_control_byte_of_an_image_reaches_a_terminal() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "qemu-img create -q -f qcow2 a.img 1M; qemu-img snapshot -c \"$(printf '\\033[2J\\r\\377')\" a.img; \
         qemu-img rebase -u -F raw -b \"$(printf '\\033]0;owned\\007\\342\\200\\256gpj.exe\\302\\23331m')\" a.img",
    );
    for output in ["human", "json"] {
        let output = run(directory.path(), &instar, &["info", "--output", output, "a.img"]);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).expect("valid UTF-8");
        let bad = text.chars().find(|c| c.is_control() && *c != '\n' || ('\u{202a}'..='\u{202e}').contains(c));
        assert_eq!(bad, None, "{text:?}");
    }
}

#[test]
fn a_chain_is_followed_only_where_the_gate_allows() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    let (root, outside) = (directory.path().join("in"), directory.path().join("out"));
    std::fs::create_dir_all(root.join("sub")).expect("a directory");
    std::fs::create_dir_all(&outside).expect("a directory");
    make(
        directory.path(),
        "qemu-img create -q -f qcow2 out/there.img 1M; ln -s ../out/there.img in/link.img; ln -s ../out in/outlink; \
         mkfifo in/fifo; qemu-img create -q -f qcow2 in/good.img 1M; qemu-img create -q -f qcow2 -u -b loop.img -F qcow2 \
         in/loop.img 1M",
    );
    let absolute = outside.join("there.img").display().to_string();
    let absent = outside.join("absent.img").display().to_string();
    let attempts = [
        "../out/there.img",
        "../out/absent.img",
        "link.img",
        "outlink/there.img",
        "sub/../../out/there.img",
        &absolute,
        &absent,
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/fd/0",
        "/dev/stdin",
        "fifo",
        "sub",
        "nbd:localhost:10809",
        "nbd://localhost/x",
        "https://localhost/x",
        "fat:/tmp",
        "blkdebug::good.img",
        r#"json:{"driver":"qcow2","file.filename":"good.img"}"#,
        r#"json:{"driver":"nbd","host":"localhost"}"#,
        "loop.img",
    ];
    let mut messages = std::collections::BTreeMap::new();
    for name in attempts {
        overlay(&root, "a.img", name);
        let output = run(&root, &instar, &["info", "--backing-chain", "a.img"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        // What is known is printed before the reason.
        assert!(String::from_utf8_lossy(&output.stdout).contains("image: a.img"), "{name}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!message.is_empty(), "{name}");
        messages.insert(name, message.replace(name, "NAME").replace("there.img", "X").replace("absent.img", "X"));
    }
    // The same words whether the target exists or not.
    assert_eq!(messages["../out/there.img"], messages["../out/absent.img"].replace("absent.img", "there.img"));
    assert_eq!(messages[absolute.as_str()], messages[absent.as_str()]);
    assert_eq!(messages["/etc/passwd"], messages[absent.as_str()]);
    overlay(&root, "a.img", "good.img");
    assert!(run(&root, &instar, &["info", "--backing-chain", "a.img"]).status.success());
}

#[test]
fn the_17th_layer_is_refused() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    let mut script = "qemu-img create -q -f qcow2 c1.img 1M".to_owned();
    for layer in 2..=17 {
        script += &format!("; qemu-img create -q -f qcow2 -b c{}.img -F qcow2 c{layer}.img", layer - 1);
    }
    make(directory.path(), &script);
    assert!(run(directory.path(), &instar, &["info", "--backing-chain", "c16.img"]).status.success());
    assert_eq!(run(directory.path(), &instar, &["info", "--backing-chain", "c17.img"]).status.code(), Some(1));
}

#[test]
fn unknown_content_is_raw_only_when_the_user_says_so() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 1000 >text.img");
    let refused = run(directory.path(), &instar, &["info", "text.img"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("-f raw"), "the way out is named");
    assert!(run(directory.path(), &instar, &["info", "-f", "raw", "text.img"]).status.success());
    let compat = run(directory.path(), &instar, &["--qemu-img-compat", "info", "text.img"]);
    assert!(compat.status.success());
}

#[test]
fn locks_of_qemu_are_honoured_and_shared_on_request() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(directory.path(), "qemu-img create -q -f qcow2 a.img 1M");
    let script = format!(
        "(sleep 3) | qemu-io a.img >/dev/null & sleep 1; {0} info a.img 2>&1; echo \"code $?\"; {0} info -U a.img >/dev/null; \
         echo \"code $?\"; wait",
        instar.display()
    );
    let output = shell(directory.path(), &format!("set +e; {script}"));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Failed to get shared \"write\" lock"), "{text}");
    assert!(text.contains("code 1") && text.ends_with("code 0\n"), "{text}");
}
