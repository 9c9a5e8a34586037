//! `convert` when the host fails: full file systems, errors of a device, one request after another.
//!
//! Whatever fails: one typed line, exit code 1, no new target, and an existing one as it was.

use crate::common::{make, scratch, shell};
use crate::judge::instar;
use instar::cli::terminal::Terminal;
use instar::cli::{self, Mode};
use instar::disk::Disk;
use instar::disk::fault::{BadSectors, Failing, Faulty};
use instar::job::{Job, Machine, NoEnd, Then};
use instar::machine::Engine;
use instar_abi::reply::{End, Frame};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

/// `error while writing at byte 2097152: …`: where, depends on how much is under way at once.
fn without_place(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let (before, after) = text.split_once(" at byte ").unwrap_or((&text, ""));
    format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
}

#[test]
fn a_disk_that_fills_up_is_told_in_qemu_imgs_words() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "head -c 8M /dev/urandom >a; truncate -s 8M base; seq 1 9000 >old; mkdir small");
    let mount = "mount -t tmpfs -o size=3m none small";
    if !shell(directory.path(), &format!("unshare -rm {mount} 2>/dev/null")).status.success() {
        println!("skipped: needs a mount namespace");
        return;
    }
    let as_qemu_img = instar.with_file_name("qemu-img").display().to_string();
    for options in [
        "-O raw",
        "-O raw -m 4 -W",
        "-O qcow2",
        "-O qcow2 -c",
        "-O qcow2 -c -o compression_type=zstd",
        "-O qcow2 -B $PWD/base -F raw",
        "-O qcow2 -o cluster_size=4k,extended_l2=off -m 4",
        "-O raw -n",
        "-O qcow2 -n",
    ] {
        let format = if !options.contains("-O qcow2") { "raw" } else { "qcow2" };
        let there = if options.contains("-n") {
            format!("qemu-img create -q -f {format} small/out 8M; ")
        } else {
            String::new()
        };
        let session = |program: &str| {
            let call = format!("{program} convert -f raw {options} a small/out");
            let script = format!("{mount}; cp old small; {there}set +e; {call}; echo $?; cmp old small/old");
            let script = format!("{script}; test -e small/out && echo left");
            shell(directory.path(), &format!("unshare -rm sh -euc '{script}'"))
        };
        let (ours, theirs) = (session(&as_qemu_img), session("qemu-img"));
        // qemu-img says it once for each request that was under way.
        let first = theirs.stderr.split_inclusive(|&byte| byte == b'\n').next().expect("a line");
        assert_eq!(without_place(&ours.stderr), without_place(first), "{options}");
        let expected = if there.is_empty() { "1\n" } else { "1\nleft\n" };
        assert_eq!(String::from_utf8_lossy(&ours.stdout), expected, "{options}");
    }
    // Over what is there: it stays, also where it must be written in place.
    for (prepare, options) in [(":", "-O raw"), (":", "-O qcow2 -m 4"), ("ln small/old small/other", "-O qcow2 -n")] {
        let target = if prepare == ":" { "cp old small" } else { "qemu-img create -q -f qcow2 small/old 8M" };
        let script = format!(
            "{mount}; {target}; {prepare}; cp small/old before; set +e; {} convert -f raw {options} a small/old; echo $?",
            instar.display()
        );
        let after = if prepare == ":" { "cmp before small/old" } else { "qemu-img check -q small/old || test $? = 3" };
        let output = shell(directory.path(), &format!("unshare -rm sh -euc '{script}; {after}'"));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && output.stdout == b"1\n", "{options}: {errors}");
        assert!(errors.contains("No space left on device\n"), "{errors}");
    }
}

/// Set in the process that runs conversions, which a test starts.
const CASE: &str = "INSTAR_FAULTS";

/// Runs a test of this binary in a process of its own, in `directory`, and returns what it prints: each run forks, which a
/// process with other threads had better not.
fn in_process(name: &str, directory: &Path) -> String {
    let exe = std::env::current_exe().expect("a test binary knows itself");
    let mut command = Command::new(exe);
    command.args([name, "--exact", "--nocapture"]).env(CASE, "1").current_dir(directory);
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A machine that puts another disk in the place of one.
struct Bent<F> {
    engine: Engine,
    disk: usize,
    bend: F,
}

impl<F: FnMut(Arc<dyn Disk>) -> Arc<dyn Disk>> Machine for Bent<F> {
    fn run(&mut self, job: &Job, then: Then, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
        let mut job = job.clone();
        let disk = &mut job.disks[self.disk];
        *disk = (self.bend)(Arc::clone(disk));
        self.engine.run(&job, then, on_frame)
    }

    fn rest(&mut self) {
        self.engine.rest();
    }

    fn host_errno(&self) -> Option<i32> {
        self.engine.host_errno()
    }
}

/// Calls the program, as which it is called first; its exit code and what it says on standard error.
fn call(words: &str, disk: usize, bend: impl FnMut(Arc<dyn Disk>) -> Arc<dyn Disk>) -> (ExitCode, String) {
    let engine = Engine::new(|error| panic!("the machine is sound: {error:?}"));
    let (out, err) = (Shared::default(), Shared::default());
    let mut terminal = Terminal::new(Mode::Instar, Box::new(out.clone()), Box::new(err.clone()));
    let args = words.split(' ').map(OsString::from).collect::<Vec<_>>();
    let code = cli::main_on(args, &mut Bent { engine, disk, bend }, &mut terminal);
    assert!(out.0.lock().expect("not poisoned").is_empty());
    let errors = err.0.lock().expect("not poisoned").clone();
    (code, String::from_utf8(errors).expect("UTF-8"))
}

/// A stream whose content can be asked for.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Calls of the program; the target's disk is the second.
const CALLS: [&str; 8] = [
    "-f raw -O raw a out",
    "-f raw -O qcow2 a out",
    "-f raw -O qcow2 -c a out",
    "-f raw -O qcow2 -B base -F raw a out",
    "-f raw -O qcow2 -o cluster_size=4k,refcount_bits=1 -m 2 a out",
    "-f qcow2 -O qcow2 -o preallocation=metadata q out",
    "-f qcow2 -O raw q old",
    "-f raw -O qcow2 a old",
];

/// Runs a call with every request of a disk failing in turn, until one goes well; returns how many failed.
fn fail_each(call: &str, disk: usize, failing: Failing) -> u64 {
    for fails_at in 0..1000 {
        std::fs::write("old", "precious\n").expect("writable");
        let bend = |inner| Arc::new(Faulty::new(inner, fails_at, failing)) as Arc<dyn Disk>;
        let (code, errors) = self::call(&format!("instar convert {call}"), disk, bend);
        if code == ExitCode::SUCCESS {
            assert_eq!(errors, "", "{call}");
            return fails_at;
        }
        assert_eq!(code, ExitCode::from(1), "{call}");
        let why = if failing == Failing::Io { "Input/output error" } else { "No space left on device" };
        let lines: Vec<&str> = errors.lines().filter(|line| !line.starts_with("hint: ")).collect();
        let [line] = lines.as_slice() else { panic!("{call}: {errors}") };
        assert!(line.starts_with("instar: ") && line.ends_with(why), "{call}, request {fails_at}: {errors}");
        assert!(!Path::new("out").exists(), "{call}: request {fails_at} leaves a target");
        assert_eq!(std::fs::read("old").expect("still there"), b"precious\n", "{call}: request {fails_at}");
        let left = std::fs::read_dir(".").expect("readable").count();
        assert_eq!(left, 4, "{call}: request {fails_at} leaves a file");
    }
    panic!("{call}: still failing after 1000 requests");
}

#[test]
fn whatever_request_fails_is_one_line_and_leaves_no_target() {
    const NAME: &str = "convert_faults::whatever_request_fails_is_one_line_and_leaves_no_target";
    if std::env::var_os(CASE).is_some() {
        for failing in [Failing::Io, Failing::Full] {
            for call in CALLS {
                let failed = fail_each(call, 1, failing);
                println!("\nfailed: {failed} {failing:?} {call}");
                let _ = std::fs::remove_file("out");
            }
        }
        for call in ["-f raw -O raw a out", "-f qcow2 -O qcow2 -c q out"] {
            println!("\nfailed: {} reading {call}", fail_each(call, 0, Failing::Io));
            let _ = std::fs::remove_file("out");
        }
        return;
    }
    let Some(_) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 60000 | head -c 300k >a; truncate -s 5M a; head -c 200k /dev/urandom >>a; truncate -s 6M base; \
         qemu-img convert -f raw -O qcow2 a q; : >old",
    );
    let text = in_process(NAME, directory.path());
    let counts: Vec<u64> =
        text.lines().filter_map(|line| line.strip_prefix("failed: ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(counts.len(), 2 * CALLS.len() + 2, "{text}");
    // Data, tables, header and flushes: each call has at least these to fail.
    assert!(counts.iter().all(|&count| count >= 2), "{text}");
}

/// A qcow2 image under `-n` is the old or the new one, and clean but for leaks.
#[test]
fn whatever_request_fails_an_existing_image_is_old_or_new() {
    const NAME: &str = "convert_faults::whatever_request_fails_an_existing_image_is_old_or_new";
    if std::env::var_os(CASE).is_some() {
        let judge = |words: &str| {
            let output = Command::new("qemu-img").args(words.split(' ')).output().expect("it runs");
            output.status.code().expect("it ends")
        };
        for failing in [Failing::Io, Failing::Full] {
            let mut failed = 0;
            loop {
                std::fs::copy("before", "there").expect("writable");
                let bend = |inner| Arc::new(Faulty::new(inner, failed, failing)) as Arc<dyn Disk>;
                let (code, errors) = call("instar convert -n -f raw -O qcow2 a there", 1, bend);
                assert!(matches!(judge("check -q -f qcow2 there"), 0 | 3), "request {failed}: {errors}");
                let is = |other: &str| judge(&format!("compare -q -f qcow2 -F qcow2 {other} there")) == 0;
                if code == ExitCode::SUCCESS {
                    assert!(is("after"));
                    break;
                }
                assert!(is("before") || is("after"), "request {failed}: neither old nor new");
                failed += 1;
            }
            println!("\nfailed: {failed} {failing:?}");
        }
        return;
    }
    let Some(_) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 60000 >a; truncate -s 3M a; qemu-img create -q -f qcow2 -o cluster_size=4k before 4M; \
         qemu-io -c 'write -P 9 1M 2M' before >/dev/null; cp before after; qemu-img convert -n -f raw -O qcow2 a after",
    );
    let text = in_process(NAME, directory.path());
    let counts: Vec<u32> =
        text.lines().filter_map(|line| line.strip_prefix("failed: ")?.split(' ').next()?.parse().ok()).collect();
    assert!(counts.len() == 2 && counts.iter().all(|&count| count >= 4), "{text}");
}

/// Sectors that can't be read, as often as it is tried: qemu-img's own fault injection has the same.
#[test]
fn bad_sectors_are_salvaged_in_qemu_imgs_words() {
    const NAME: &str = "convert_faults::bad_sectors_are_salvaged_in_qemu_imgs_words";
    if std::env::var_os(CASE).is_some() {
        let bend = |inner| Arc::new(BadSectors::new(inner, 40_960..42_496)) as Arc<dyn Disk>;
        let (code, errors) = call("qemu-img convert --salvage -f raw -O raw a out", 0, bend);
        assert_eq!(code, ExitCode::SUCCESS, "{errors}");
        std::fs::write("warnings", errors).expect("writable");
        let (code, errors) = call("instar convert --salvage -m 4 -f raw -O qcow2 a out.qcow2", 0, bend);
        assert_eq!((code, errors.lines().count()), (ExitCode::SUCCESS, 1), "{errors}");
        let (code, errors) = call("instar convert -f raw -O raw a gone", 0, bend);
        assert_eq!(code, ExitCode::from(1));
        assert!(errors.contains("error while reading at byte ") && errors.contains("Input/output error\n"), "{errors}");
        return;
    }
    let Some(_) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 60000 >a; truncate -s 400k a");
    in_process(NAME, directory.path());
    let rule = |sector: u32| format!(r#"{{"event":"none","iotype":"read","sector":{sector}}}"#);
    let bad = format!(
        r#"json:{{"driver":"raw","file":{{"driver":"blkdebug","inject-error":[{}],"image":{{"driver":"file","filename":"a"}}}}}}"#,
        [80, 81, 82].map(rule).join(",")
    );
    make(
        directory.path(),
        &format!(
            "qemu-img convert --salvage -O raw '{bad}' theirs 2>expected; cmp out theirs; cmp warnings expected; \
             qemu-img compare -f qcow2 -F raw out.qcow2 theirs >/dev/null; test ! -e gone"
        ),
    );
}
