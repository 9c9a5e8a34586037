//! `convert` killed at any time, by SIGKILL, which nobody can prepare for.

use crate::common::{make, run, scratch, shell};
use crate::judge::instar;
use rustix::fs::{Mode, OFlags};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Kills of each kind of call that come before its end; six kinds make more than a hundred.
const KILLS: u32 = 18;

/// Numbers that look random: a failure says which kill it was, and the next run draws the same times.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        limit.mul_f64((self.0 >> 40) as f64 / (1u64 << 24) as f64)
    }
}

fn start(directory: &Path, instar: &Path, call: &str) -> Child {
    let mut command = Command::new(instar);
    command.arg("convert").args(call.split(' ')).current_dir(directory);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}

/// Ends a run and the process that its guest runs in, and waits until both are gone.
fn kill(child: &mut Child) {
    let pid = child.id();
    let signal =
        |signal: &str| drop(Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status());
    // Stopped, it starts no other process, so that the one it has can be waited for.
    signal("-STOP");
    let others = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    signal("-KILL");
    child.wait().expect("it ends");
    for other in others.split_whitespace() {
        let lives = || {
            let stat = std::fs::read_to_string(format!("/proc/{other}/stat")).unwrap_or_default();
            let dead = stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
            // A first thread is shown as dead while others still end, and they hold the files until then.
            let threads = std::fs::read_dir(format!("/proc/{other}/task")).map_or(0, Iterator::count);
            !(stat.is_empty() || dead && threads <= 1)
        };
        let started = Instant::now();
        while lives() {
            assert!(started.elapsed() < Duration::from_secs(10), "the guest's process outlives its parent");
            std::thread::yield_now();
        }
    }
}

/// Kills a call at many times; `prepare` comes before each, `judge` is told how many kills there were before this one.
fn kill_often(directory: &Path, instar: &Path, call: &str, prepare: &str, mut judge: impl FnMut(u32)) {
    make(directory, prepare);
    let started = Instant::now();
    assert!(start(directory, instar, call).wait().expect("it ends").success(), "{call}");
    let whole = started.elapsed();
    let mut draw = Draw(u64::from(KILLS));
    let mut in_time = 0;
    for number in 0.. {
        if in_time == KILLS {
            break;
        }
        assert!(number < 8 * KILLS, "{call}: only {in_time} kills came before the end");
        make(directory, prepare);
        let mut child = start(directory, instar, call);
        let started = Instant::now();
        let wait = draw.below(whole.mul_f64(1.1));
        // Spinning is as exact as it gets.
        while started.elapsed() < wait {
            std::hint::spin_loop();
        }
        in_time += u32::from(child.try_wait().expect("our child").is_none());
        kill(&mut child);
        judge(number);
    }
}

/// What is in the directory beside what was made before.
fn left(directory: &Path, known: &[&str]) -> Vec<String> {
    let names = std::fs::read_dir(directory).expect("readable");
    let names = names.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter(|name| !known.contains(&name.as_str())).collect()
}

const KNOWN: [&str; 6] = ["a", "old", "old.qcow2", "new.qcow2", "out", "dirty"];

fn is(directory: &Path, script: &str) -> bool {
    shell(directory, script).status.success()
}

#[test]
fn a_killed_run_leaves_the_old_or_the_new_and_nothing_between() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "head -c 12M /dev/urandom >a; seq 1 1800000 | head -c 12M >>a; truncate -s 30M a; seq 1 99999 >old; \
         qemu-img create -q -f qcow2 old.qcow2 32M; qemu-io -c 'write -P 9 1M 20M' old.qcow2 >/dev/null; \
         cp old.qcow2 new.qcow2; qemu-img convert -n -f raw -O qcow2 a new.qcow2; head -c 32M /dev/zero | tr '\\0' x >dirty",
    );
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let nameless = rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600)).is_ok();
    for (call, format) in [("-f raw -O raw a out", "raw"), ("-f raw -O qcow2 -c -m 2 a out", "qcow2")] {
        kill_often(directory, &instar, call, "rm -f out .instar-*", |number| {
            let whole = format!("test ! -e out || qemu-img compare -f raw -F {format} a out >/dev/null");
            assert!(is(directory, &whole), "{call}, kill {number}: a part has the target's name");
            let left = left(directory, &KNOWN);
            assert!(left.is_empty() || !nameless, "{call}, kill {number}: {left:?}");
        });
    }
    for (call, format) in [("-f raw -O raw a out", "raw"), ("-f raw -O qcow2 a out", "qcow2")] {
        kill_often(directory, &instar, call, "rm -f .instar-*; cp old out", |number| {
            let either = format!("cmp -s old out || qemu-img compare -f raw -F {format} a out >/dev/null");
            assert!(is(directory, &either), "{call}, kill {number}: neither old nor new");
            // A link can't replace a name: between the two calls that do, the whole file has another.
            let left = left(directory, &KNOWN);
            assert!(left.iter().all(|name| name.starts_with(".instar-")) && left.len() <= 1, "{number}: {left:?}");
        });
    }
    // Over raw content there is no going back, but nothing else is touched.
    kill_often(directory, &instar, "-n -f raw a out", "rm -f out; cp dirty out", |number| {
        let [old, new, out] = ["dirty", "a", "out"].map(|name| std::fs::read(directory.join(name)).expect("there"));
        assert_eq!(out.len(), old.len(), "kill {number}");
        for (index, block) in out.chunks(4096).enumerate() {
            let at = index * 4096..index * 4096 + block.len();
            assert!(block == &old[at.clone()] || Some(block) == new.get(at), "kill {number}: block {index} is neither");
        }
        assert!(left(directory, &KNOWN).is_empty(), "kill {number}");
    });
    kill_often(directory, &instar, "-n -f raw -O qcow2 a out", "rm -f out; cp old.qcow2 out", |number| {
        let check = run(directory, Path::new("qemu-img"), &["check", "-q", "-f", "qcow2", "out"]);
        // 3: leaked clusters and nothing else.
        assert!(matches!(check.status.code(), Some(0 | 3)), "kill {number}: {check:?}");
        let either = "qemu-img compare -f qcow2 -F qcow2 old.qcow2 out >/dev/null || \
                      qemu-img compare -f qcow2 -F qcow2 new.qcow2 out >/dev/null";
        assert!(is(directory, either), "kill {number}: neither old nor new");
        assert!(left(directory, &KNOWN).is_empty(), "kill {number}");
    });
}
