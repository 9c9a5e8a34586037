//! The same request on every engine gives the same bytes; guests that misbehave are found out on every engine.
//!
//! Each run is a process of its own: the test starts this very binary again, which is then the launcher on the engine
//! that it is told. An engine whose program is missing says so.

use instar::cli::{self, terminal::Terminal};
use instar::disk::Disk;
use instar::disk::file::SourceFile;
use instar::job::{Job, Machine as _, Then, limits};
use instar::machine::{Accelerator, Choice, Engine, Images, MachineError, Program, QemuMachine, Transport};
use instar_abi::request::{Disk as RequestDisk, DiskId, Layer, LayerId, Op, RawGate, Request};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ENGINE: &str = "INSTAR_TEST_ENGINE";
const ARGUMENTS: &str = "INSTAR_TEST_ARGUMENTS";
const DIRECTORY: &str = "INSTAR_TEST_DIRECTORY";
const PROVOKE: &str = "INSTAR_TEST_PROVOKE";
const LANES: &str = "INSTAR_TEST_LANES";

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(100);

/// What makes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Builtin(Transport),
    Outside(Program),
}

const KVM: Program = Program::Qemu(QemuMachine::Microvm, Accelerator::Kvm);
const TCG: Program = Program::Qemu(QemuMachine::Microvm, Accelerator::Tcg);
const Q35: Program = Program::Qemu(QemuMachine::Q35, Accelerator::Tcg);

const PLACES: [(&str, Place); 9] = [
    ("table", Place::Builtin(Transport::Table)),
    ("strict-mmio", Place::Builtin(Transport::StrictMmio)),
    ("pci", Place::Builtin(Transport::Pci)),
    ("pci-by-ports", Place::Builtin(Transport::PciByPorts)),
    ("qemu-kvm", Place::Outside(KVM)),
    ("qemu-tcg", Place::Outside(TCG)),
    ("qemu-q35", Place::Outside(Q35)),
    ("cloud-hypervisor", Place::Outside(Program::CloudHypervisor)),
    ("firecracker", Place::Outside(Program::Firecracker)),
];

/// The engine of a place, for a child.
fn engine(name: &str, words: fn(&MachineError) -> String) -> Engine {
    let engine = Engine::new(words);
    match PLACES.iter().find(|(known, _)| *known == name).expect("a place").1 {
        Place::Builtin(transport) => engine.on(transport),
        Place::Outside(program) => {
            let mut engine = engine;
            engine.choose(Choice::Outside(program));
            engine
        }
    }
}

/// Places to try; those that lack their program are named.
fn places() -> Vec<&'static str> {
    let here = |&(name, place): &(&'static str, Place)| match place {
        Place::Builtin(_) => Some(name),
        Place::Outside(program) => match program.check() {
            Ok(_) => Some(name),
            Err(_) => {
                println!("skipped: no {name}");
                None
            }
        },
    };
    PLACES.iter().filter_map(here).collect()
}

/// What a run left.
struct Ran {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

/// Runs the launcher with `arguments` on an engine, in a directory.
fn launch(test: &str, place: &str, directory: &Path, arguments: &[&str]) -> Ran {
    launch_with(test, place, directory, arguments, &[], "100")
}

/// The same with more in its environment, and stopped by SIGTERM after `seconds`.
fn launch_with(
    test: &str,
    place: &str,
    directory: &Path,
    arguments: &[&str],
    environment: &[(&str, &Path)],
    seconds: &str,
) -> Ran {
    let exe = std::env::current_exe().expect("a test binary knows itself");
    let started = Instant::now();
    let output = Command::new("timeout")
        .args(["-k", "20", "--preserve-status", seconds])
        .arg(exe)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ENGINE, place)
        .env(ARGUMENTS, arguments.join("\x1f"))
        .env(DIRECTORY, directory)
        .env("TMPDIR", directory)
        .env_remove("XDG_RUNTIME_DIR")
        .envs(environment.iter().copied())
        .current_dir(directory)
        .output()
        .expect("it runs");
    assert!(started.elapsed() < PATIENCE, "{place}: {arguments:?} did not end");
    for entry in std::fs::read_dir(directory).expect("there") {
        let name = entry.expect("there").file_name();
        assert!(!name.to_string_lossy().starts_with("instar-"), "{place}: {name:?} is left behind");
    }
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap_or_default();
    let err = [read("stderr"), output.stderr].concat();
    Ran { code: output.status.code(), out: read("stdout"), err: String::from_utf8_lossy(&err).into_owned() }
}

/// In a child: is the launcher, and does not return.
fn be_launcher_if_told() {
    let Some(place) = std::env::var_os(ENGINE) else { return };
    let directory = std::env::var_os(DIRECTORY).expect("a child is told");
    let arguments = std::env::var(ARGUMENTS).expect("a child is told");
    let place = place.into_string().expect("ASCII");
    let stream = |name: &str| Box::new(File::create(Path::new(&directory).join(name)).expect("made"));
    let mut terminal = Terminal::new(cli::Mode::Instar, stream("stdout"), stream("stderr"));
    let words = ["instar"].into_iter().chain(arguments.split('\x1f')).map(OsString::from);
    let code = cli::main_on(words, &mut engine(&place, instar::words), &mut terminal);
    std::process::exit(i32::from(format!("{code:?}") != format!("{:?}", std::process::ExitCode::SUCCESS)));
}

fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("instar-test-").tempdir().expect("a scratch directory")
}

/// Whether there are op images; if not, the test says so and is skipped.
fn has_images() -> bool {
    let has = Images::names().next().is_some();
    if !has {
        println!("skipped: needs the op images; `cargo xtask test` builds them");
    }
    has
}

/// Runs a shell script that makes images; without qemu-img the test is skipped.
fn make(directory: &Path, script: &str) -> bool {
    match Command::new("qemu-img").arg("--version").output() {
        Ok(_) => {}
        Err(_) => {
            println!("skipped: needs qemu-img");
            return false;
        }
    }
    let output = Command::new("sh").args(["-euc", script]).current_dir(directory).output().expect("sh runs");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    true
}

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
    let directory = scratch();
    if !has_images() || !make(directory.path(), IMAGES) {
        return;
    }
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
        let theirs =
            Command::new("qemu-img").args(arguments).current_dir(directory.path()).output().expect("it starts");
        let mut expected = is_qemu_imgs.then_some((theirs.status.success(), theirs.stdout));
        for place in places() {
            let test = "what_is_asked_is_answered_the_same_on_every_engine";
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
    let directory = scratch();
    if !has_images() || !make(directory.path(), IMAGES) {
        return;
    }
    let cases: [&[&str]; 3] = [
        &["convert", "-O", "raw", "top.qcow2", "out"],
        &["convert", "-O", "qcow2", "-f", "raw", "flat.raw", "out"],
        &["convert", "-O", "qcow2", "-c", "small.qcow2", "out"],
    ];
    for arguments in cases {
        let mut first = None;
        for (place, lanes) in places().into_iter().flat_map(|place| [(place, "1"), (place, "2")]) {
            let test = "convert_writes_the_same_on_every_engine_with_one_lane_and_with_two";
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
    let directory = scratch();
    if !has_images() {
        return;
    }
    let content: Vec<u8> = (0..100_001u32).map(|index| (index / 3) as u8).collect();
    std::fs::write(directory.path().join("odd.raw"), &content).expect("written");
    let test = "a_length_that_is_no_multiple_of_a_sector_is_kept_by_every_program";
    let arguments = ["convert", "-f", "raw", "-O", "raw", "odd.raw", "out"];
    for place in places() {
        let ran = launch(test, place, directory.path(), &arguments);
        let strict =
            !matches!(PLACES.iter().find(|(name, _)| *name == place), Some((_, Place::Outside(_)))) && place != "table";
        if strict {
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

/// A program in the directory that poses as QEMU, and then does what the script says.
fn pose_as_qemu(directory: &Path, version: &str, script: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = directory.join("qemu");
    let text = format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{version}'; exit; fi\n{script}\n");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("set");
    path
}

const QEMU_10: &str = "QEMU emulator version 10.0.2";

#[test]
fn a_program_that_gives_no_result_is_told_with_its_last_words() {
    be_launcher_if_told();
    let directory = scratch();
    if !has_images() {
        return;
    }
    std::fs::write(directory.path().join("a.raw"), [0; 512]).expect("written");
    let test = "a_program_that_gives_no_result_is_told_with_its_last_words";
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
            let ran = launch_with(test, "qemu-tcg", directory.path(), &arguments, way, "60");
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
    let ran = launch_with(test, "qemu-tcg", directory.path(), &arguments, &[("INSTAR_QEMU", &nowhere)], "60");
    assert!(ran.err.contains("hint: INSTAR_QEMU names the binary"), "{}", ran.err);
}

#[test]
fn a_run_that_is_stopped_leaves_no_program_and_no_directory() {
    be_launcher_if_told();
    let directory = scratch();
    if !has_images() {
        return;
    }
    std::fs::write(directory.path().join("a.raw"), [0; 512]).expect("written");
    let here = directory.path().display();
    let script = format!("cd '{here}'; sleep 1000 & echo $$ $! >pids.new; mv pids.new pids; kill -TERM $PPID; wait");
    let program = pose_as_qemu(directory.path(), QEMU_10, &script);
    let test = "a_run_that_is_stopped_leaves_no_program_and_no_directory";
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", "a.raw", "out"];
    let ran = launch_with(test, "qemu-tcg", directory.path(), &arguments, &[("INSTAR_QEMU", &program)], "60");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(!directory.path().join("out").exists());
    let pids = std::fs::read_to_string(directory.path().join("pids")).expect("the program has run");
    for pid in pids.split_whitespace() {
        // What nobody has waited for yet is dead all the same.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat} is still there");
    }
}

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

/// The directory of a run, as long as there is one.
fn directory_of_run(directory: &Path) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("there").filter_map(Result::ok);
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("instar-")))
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
    const TEST: &str = "a_launcher_that_is_killed_leaves_no_program_and_no_directory";
    be_launcher_if_told();
    let directory = scratch();
    let here = directory.path();
    if !has_images() || !make(here, "head -c 256M /dev/urandom >a.raw") {
        return;
    }
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
    let outside = places()
        .into_iter()
        .filter(|name| matches!(PLACES.iter().find(|(known, _)| known == name), Some((_, Place::Outside(_)))));
    for place in outside {
        for (what, moment, later) in moments {
            let exe = std::env::current_exe().expect("a test binary knows itself");
            // Much to do.
            let arguments = ["convert", "-f", "raw", "-O", "qcow2", "-c", "a.raw", "out"];
            let mut launcher = Command::new(exe)
                .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
                .env(ENGINE, place)
                .env(ARGUMENTS, arguments.join("\x1f"))
                .env(DIRECTORY, here)
                .env("TMPDIR", here)
                .env_remove("XDG_RUNTIME_DIR")
                .current_dir(here)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
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
    let directory = scratch();
    if !has_images() {
        return;
    }
    let here = directory.path();
    std::fs::write(here.join("a.raw"), [0; 512]).expect("written");
    let script =
        format!("cd '{}'; sleep 1000 & echo $$ $! >pids.new; mv pids.new pids; kill -KILL $PPID; wait", here.display());
    let program = pose_as_qemu(here, QEMU_10, &script);
    let test = "a_launcher_that_is_killed_takes_along_what_the_program_has_started";
    let exe = std::env::current_exe().expect("a test binary knows itself");
    let status = Command::new(exe)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ENGINE, "qemu-tcg")
        .env(ARGUMENTS, ["info", "-f", "raw", "a.raw"].join("\x1f"))
        .env(DIRECTORY, here)
        .env("TMPDIR", here)
        .env("INSTAR_QEMU", &program)
        .env_remove("XDG_RUNTIME_DIR")
        .current_dir(here)
        .status()
        .expect("it runs");
    assert_eq!(status.signal(), Some(9));
    let pids = std::fs::read_to_string(here.join("pids")).expect("the program has run");
    let gone = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    wait_until("all are gone", || pids.split_whitespace().all(gone) && directory_of_run(here).is_none());
}

/// The blocks of commands on the page about engines.
fn blocks_of_the_page() -> Vec<&'static str> {
    let page = include_str!("../../docs/engines.md");
    page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_page_s_own_commands_work() {
    let Some(instar) = std::env::var_os("INSTAR_BIN") else {
        println!("skipped: needs the built binaries; `cargo xtask test` builds them");
        return;
    };
    let blocks = blocks_of_the_page();
    let [images, machines @ ..] = &blocks[..] else { panic!("the page has commands") };
    let programs = [TCG, Q35, Program::CloudHypervisor, Program::Firecracker];
    assert_eq!(machines.len(), programs.len(), "each machine has its commands");
    let directory = scratch();
    if !make(directory.path(), images) {
        return;
    }
    for (block, program) in machines.iter().zip(programs) {
        if program.check().is_err() {
            println!("skipped: no {}", program.name());
            continue;
        }
        let here = Path::new(&instar).parent().expect("it is in a directory");
        let path = std::env::join_paths(
            [here.to_owned()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let output = Command::new("timeout")
            .args(["-k", "1", "60", "sh", "-euc", block])
            .current_dir(directory.path())
            .env("PATH", path.expect("no colon in it"))
            .env("XDG_CACHE_HOME", directory.path())
            .stdin(std::process::Stdio::null())
            .output()
            .expect("sh runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("End(Done"), "{block}\n{out}{err}");
    }
}

/// In a child: boots the guest that misbehaves, says what came of it, and does not return.
fn be_provoked_if_told() {
    let Some(place) = std::env::var_os(ENGINE) else { return };
    let how = std::env::var(PROVOKE).expect("a child is told").parse().expect("a number");
    let lanes = std::env::var(LANES).expect("a child is told").parse().expect("a number");
    let images = std::env::var_os("INSTAR_TEST_IMAGES").expect("the parent has looked");
    let image = std::fs::read(Path::new(&images).join("provoke")).expect("provoke is built");
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&[3; 512]).expect("written");
    let disk: Arc<dyn Disk> = Arc::new(SourceFile::new(file, 512));
    let request = Request::new(
        Op::Info { image: LayerId(0), details: false },
        vec![RequestDisk::read_only(512)],
        vec![Layer::new(DiskId(0), None, RawGate::Open)],
        limits::INFO_BUDGET,
    );
    let request = Request { now: how, lanes, ..request };
    let limits = limits::Limits { memory_len: 128 << 20, time: Duration::from_secs(3), ..limits::INFO };
    let job = Job { op: "info", disks: vec![disk], request, limits };
    let place = place.into_string().expect("ASCII");
    let mut engine = engine(&place, |error| format!("{error:?}")).booting(image.leak());
    let end = engine.run(&job, Then::GoOn, &mut |frame| eprintln!("{frame:?}"));
    eprintln!("saw: {end:?}");
    std::process::exit(0)
}

/// What a guest that misbehaves comes to on a place.
fn provoke(test: &str, place: &str, how: u64, lanes: u8) -> String {
    let exe = std::env::current_exe().expect("a test binary knows itself");
    let started = Instant::now();
    let output = Command::new("timeout")
        .args(["-k", "1", "60"])
        .arg(exe)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ENGINE, place)
        .env(PROVOKE, how.to_string())
        .env(LANES, lanes.to_string())
        .output()
        .expect("it runs");
    assert!(started.elapsed() < PATIENCE, "{place}: {how} did not end");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn has_test_images() -> bool {
    let has = std::env::var_os("INSTAR_TEST_IMAGES").is_some();
    if !has {
        println!("skipped: needs test images; `cargo xtask test` builds them");
    }
    has
}

macro_rules! provoked {
    ($($name:ident: $how:expr => $($part:literal),+;)*) => {$(
        #[test]
        fn $name() {
            be_provoked_if_told();
            if !has_test_images() {
                return;
            }
            for place in places() {
                let saw = provoke(stringify!($name), place, $how, 1);
                for part in [$($part),+] {
                    assert!(saw.contains(part), "{place}: {part:?} is not in {saw}");
                }
            }
        }
    )*};
}

provoked! {
    a_guest_that_ends_well_is_done_everywhere: 0 => "saw: Ok(Done";
    a_panic_is_reported_with_its_place_everywhere: 1 => "saw: Err(Told(\"Died", "Panic";
    a_page_fault_is_reported_with_its_address_everywhere: 2 => "death: Fault", "vector_or_line: 14", "cr2: 8";
    the_local_apic_is_out_of_reach_everywhere: 14 => "death: Fault", "vector_or_line: 14", "error_code: 7", "cr2: 4276093696";
    an_exhausted_heap_is_reported_everywhere: 4 => "HeapExhausted";
    a_guest_that_hangs_is_stopped_everywhere: 5 => "TimeOut";
    a_read_only_disk_is_never_written_anywhere: 10 => "saw: Ok(Failed(WrongOp))";
    garbage_instead_of_frames_is_refused_everywhere: 11 => "Reply(Frame(Len";
    a_chain_that_bites_its_tail_ends_the_run: 20 => "GuestFault(Chain { device: 1 })";
    a_header_without_length_ends_the_run: 21 => "GuestFault(Chain { device: 1 })";
    data_as_long_as_the_address_space_ends_the_run: 22 => "GuestFault(Chain { device: 1 })";
    a_header_outside_memory_ends_the_run: 23 => "GuestFault(Chain { device: 1 })";
    data_outside_memory_end_the_run: 24 => "GuestFault(Chain { device: 1 })";
    a_descriptor_outside_its_table_ends_the_run: 25 => "GuestFault(Chain { device: 1 })";
    more_requests_than_the_ring_holds_end_the_run: 26 => "GuestFault(Ring { device: 1 })";
}

/// Every lane reads a sector of threes, twice: 6, and 12 for the second lane.
#[test]
fn two_lanes_run_on_every_machine_that_has_two_queues() {
    be_provoked_if_told();
    if !has_test_images() {
        return;
    }
    for place in places() {
        let saw = provoke("two_lanes_run_on_every_machine_that_has_two_queues", place, 12, 2);
        let has_one = ["strict-mmio", "pci", "pci-by-ports", "firecracker"].contains(&place);
        let (sum, lanes) = if has_one { (6, 1) } else { (18, 2) };
        let told = format!("Progress {{ done: {sum}, total: {} }}", u64::MAX - lanes);
        assert!(saw.contains(&told) && saw.contains("saw: Ok(Done"), "{place}: {told:?} is not in {saw}");
    }
}

/// A guest that sets up a disk anew that runs. The built-in machine ends it at once. Other programs take such words
/// themselves: they keep to what they were told first, or start the device again where it is nonsense.
#[test]
fn a_disk_that_runs_is_not_set_up_anew() {
    be_provoked_if_told();
    if !has_test_images() {
        return;
    }
    for place in places() {
        let expected: [&[&str]; 5] = match place {
            "table" => [&["GuestFault(QueueSetup { device: 1 })"]; 5],
            // It knows no reset, and keeps to what it was told first.
            "firecracker" => [&["saw: Ok(NeedsMore)"]; 5],
            "strict-mmio" | "pci" | "pci-by-ports" => [&["GuestFault(Register {"]; 5],
            _ => [
                // Another place and another length for the queue: no word of it reaches the launcher.
                &["saw: Ok(NeedsMore)"],
                &["saw: Ok(NeedsMore)"],
                // A reset: the guest waits for an answer that does not come.
                &["TimeOut"],
                // Outside memory: some programs hand it on, some stop there.
                &["Protocol { program", "TimeOut"],
                // In memory that is no ring.
                &["GuestFault(Chain { device: 1 })", "GuestFault(Ring { device: 1 })"],
            ],
        };
        for (how, expected) in (30..).zip(expected) {
            let saw = provoke("a_disk_that_runs_is_not_set_up_anew", place, how, 1);
            assert!(expected.iter().any(|part| saw.contains(part)), "{place}: none of {expected:?} is in {saw}");
        }
    }
}
