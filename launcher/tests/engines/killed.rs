//! A launcher that is killed leaves nothing behind, at whatever moment.

use crate::common::{make, scratch};
use crate::launch::{PATIENCE, again, be_launcher_if_told, directory_of_run, has_images, launcher, name_of};
use crate::place;
use crate::programs::{QEMU_10, is_gone, pose_as_qemu};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Whether a process of a run in this directory is left: the program has it in its arguments, the launcher and its
/// children in their environment.
fn processes_of(directory: &Path) -> Vec<String> {
    let here = directory.as_os_str().as_encoded_bytes();
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").expect("there").filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mentions = |name: &str, file: &str| {
        let bytes = std::fs::read(format!("/proc/{name}/{file}")).unwrap_or_default();
        bytes.windows(here.len()).any(|window| window == here)
    };
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own)
        .filter(|name| mentions(name, "cmdline") || mentions(name, "environ"))
        .collect()
}

/// Waits until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not so after all this time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_launcher_that_is_killed_leaves_no_program_and_no_directory() {
    be_launcher_if_told();
    if !has_images() {
        return;
    }
    let directory = scratch();
    let here = directory.path();
    make(here, "head -c 256M /dev/urandom >a.raw");
    type Moment = fn(&Path) -> bool;
    let program_runs: Moment = |here| {
        // Its arguments name something there.
        directory_of_run(here).is_some_and(|run| !processes_of(&run).is_empty())
    };
    // And how much later, in milliseconds.
    let moments: [(&str, Moment, u64); 6] = [
        ("the directory is there", |here| directory_of_run(here).is_some(), 0),
        ("the op image is there", |here| directory_of_run(here).is_some_and(|run| run.join("kernel").exists()), 0),
        ("a socket is there", |here| directory_of_run(here).is_some_and(|run| run.join("0").exists()), 0),
        ("the program is there", program_runs, 0),
        ("the guest boots", program_runs, 30),
        ("the guest writes", program_runs, 500),
    ];
    let test = name_of(a_launcher_that_is_killed_leaves_no_program_and_no_directory);
    for place in place::programs() {
        for (what, moment, later) in moments {
            // Much to do.
            let arguments = ["convert", "-f", "raw", "-O", "qcow2", "-c", "a.raw", "out"];
            let mut launcher = launcher(again(test, None), place, here, &arguments)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("it runs");
            wait_until(what, || {
                let said = || std::fs::read_to_string(here.join("stderr")).unwrap_or_default();
                assert!(launcher.try_wait().expect("ours").is_none(), "{place}: {what}: ended before; {}", said());
                moment(here)
            });
            std::thread::sleep(Duration::from_millis(later));
            launcher.kill().expect("SIGKILL");
            let status = launcher.wait().expect("ours");
            assert_eq!(status.signal(), Some(9), "{place}: {what}");
            wait_until(what, || directory_of_run(here).is_none() && processes_of(here).is_empty());
            let _ = std::fs::remove_file(here.join("out"));
        }
    }
}

#[test]
fn a_launcher_that_is_killed_takes_along_what_the_program_has_started() {
    be_launcher_if_told();
    if !has_images() {
        return;
    }
    let directory = scratch();
    let here = directory.path();
    std::fs::write(here.join("a.raw"), [0; 512]).expect("written");
    let script =
        format!("cd '{}'; sleep 1000 & echo $$ $! >pids.new; mv pids.new pids; kill -KILL $PPID; wait", here.display());
    let program = pose_as_qemu(here, QEMU_10, &script);
    let test = name_of(a_launcher_that_is_killed_takes_along_what_the_program_has_started);
    let status = launcher(again(test, None), "qemu-tcg", here, &["info", "-f", "raw", "a.raw"])
        .env("INSTAR_QEMU", &program)
        .stdout(Stdio::null())
        .status()
        .expect("it runs");
    assert_eq!(status.signal(), Some(9));
    let pids = std::fs::read_to_string(here.join("pids")).expect("the program has run");
    wait_until("all are gone", || pids.split_whitespace().all(is_gone) && directory_of_run(here).is_none());
}
