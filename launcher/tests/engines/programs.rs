//! Programs that fail: their last words, and a run that is stopped.

use crate::common::scratch;
use crate::launch::{be_launcher_if_told, has_images, launch_with, name_of};
use crate::place::{PROGRAMS, is_here};
use std::path::Path;

/// A program in the directory that poses as QEMU, and then does what the script says.
pub fn pose_as_qemu(directory: &Path, version: &str, script: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.join("qemu");
    let text = format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{version}'; exit; fi\n{script}\n");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("set");
    path
}

pub const QEMU_10: &str = "QEMU emulator version 10.0.2";

/// Whether a process has ended: one that nobody has waited for yet is dead all the same.
pub fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn a_program_that_gives_no_result_is_told_with_its_last_words() {
    be_launcher_if_told();
    if !has_images() {
        return;
    }
    let directory = scratch();
    std::fs::write(directory.path().join("a.raw"), [0; 512]).expect("written");
    let test = name_of(a_program_that_gives_no_result_is_told_with_its_last_words);
    let told = |version: &str, script: &str| {
        let program = pose_as_qemu(directory.path(), version, script);
        let arguments = ["info", "-f", "raw", "a.raw"];
        // Beside the working directory, by its name on PATH, and from the root.
        let beside = Path::new("./qemu");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = [directory.path().to_owned()].into_iter().chain(std::env::split_paths(&path));
        let path = std::path::PathBuf::from(std::env::join_paths(path).expect("no colon in it"));
        let ways: [&[(&str, &Path)]; 3] = [
            &[("INSTAR_QEMU", beside)],
            &[("INSTAR_QEMU", Path::new("qemu")), ("PATH", &path)],
            &[("INSTAR_QEMU", &program)],
        ];
        let told = ways.map(|way| {
            let ran = launch_with(test, "qemu-tcg", directory.path(), &arguments, way);
            assert_eq!(ran.code, Some(1), "{}", ran.err);
            ran.err
        });
        assert!(told.iter().all(|words| *words == told[0]), "{told:?}");
        told[0].clone()
    };
    let ended = told(QEMU_10, "for n in 1 2 3 4 5; do echo \"word $n\x1b\" >&2; done; exit 0");
    assert!(ended.contains("instar: qemu ended, and its guest gave no result\nword 2"), "{ended}");
    assert!(ended.contains("\nword 5") && !ended.contains('\x1b') && !ended.contains("word 1"), "{ended}");
    let old = told("QEMU emulator version 9.2.0", "exit 0");
    assert!(old.contains("engine qemu needs version 10.0 or later, and found 'QEMU emulator version 9.2.0'"), "{old}");
    assert!(old.contains("hint: INSTAR_QEMU names another binary"), "{old}");
    std::fs::remove_file(directory.path().join("qemu")).expect("there");
    let nowhere = directory.path().join("nowhere");
    let arguments = ["info", "-f", "raw", "a.raw"];
    let ran = launch_with(test, "qemu-tcg", directory.path(), &arguments, &[("INSTAR_QEMU", &nowhere)]);
    assert!(ran.err.contains("hint: INSTAR_QEMU names the binary"), "{}", ran.err);
}

/// One more is told before the program is looked for. As many as there is room for do run.
#[test]
fn a_program_has_room_for_as_many_devices_as_it_is_said_to_have() {
    be_launcher_if_told();
    if !has_images() {
        return;
    }
    let directory = scratch();
    let here = directory.path();
    let names: Vec<String> = (0..30).map(|index| format!("{index}.raw")).collect();
    for (index, name) in (0..).zip(&names) {
        std::fs::write(here.join(name), [index; 512]).expect("written");
    }
    let test = name_of(a_program_has_room_for_as_many_devices_as_it_is_said_to_have);
    for (place, program) in PROGRAMS {
        let most = program.devices_max();
        // Beside the sources the control device and the target.
        let convert = |sources: usize, environment: &[(&str, &Path)]| {
            let sources = names[..sources].iter().map(String::as_str);
            let arguments = ["convert", "-f", "raw", "-O", "raw"].into_iter().chain(sources).chain(["out"]);
            launch_with(test, place, here, &arguments.collect::<Vec<_>>(), environment)
        };
        let refused = convert(most - 1, &[(program.variable(), &here.join("nowhere"))]);
        assert_eq!(refused.code, Some(1), "{place}");
        let words = format!("has room for {most} devices, and each file being one this takes {}\n", most + 1);
        assert!(refused.err.contains(&words) && !here.join("out").exists(), "{place}: {}", refused.err);
        if is_here(program, place) {
            let ran = convert(most - 2, &[]);
            assert_eq!(ran.code, Some(0), "{place}: {}", ran.err);
            let made = std::fs::read(here.join("out")).expect("made");
            assert!(made.chunks(512).map(|sector| sector[0]).eq(0..u8::try_from(most - 2).expect("few")), "{place}");
            std::fs::remove_file(here.join("out")).expect("there");
        }
    }
}

#[test]
fn a_run_that_is_stopped_leaves_no_program_and_no_directory() {
    be_launcher_if_told();
    if !has_images() {
        return;
    }
    let directory = scratch();
    std::fs::write(directory.path().join("a.raw"), [0; 512]).expect("written");
    let here = directory.path().display();
    let script = format!("cd '{here}'; sleep 1000 & echo $$ $! >pids.new; mv pids.new pids; kill -TERM $PPID; wait");
    let program = pose_as_qemu(directory.path(), QEMU_10, &script);
    let test = name_of(a_run_that_is_stopped_leaves_no_program_and_no_directory);
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", "a.raw", "out"];
    let ran = launch_with(test, "qemu-tcg", directory.path(), &arguments, &[("INSTAR_QEMU", &program)]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(!directory.path().join("out").exists());
    let pids = std::fs::read_to_string(directory.path().join("pids")).expect("the program has run");
    for pid in pids.split_whitespace() {
        assert!(is_gone(pid), "{pid} is still there");
    }
}
