//! `doctor`: what this machine has and lacks for instar, and what mends it.
#![forbid(unsafe_code)]

use crate::cli::Mode;
use crate::cli::grammar::{Grammar, Opt, Support};
use crate::cli::terminal::Terminal;
use crate::machine::{Accelerator, Images, Program, ProgramError, QemuMachine};
use crate::render::errors::errno_text;
use crate::vmm::sandbox::{self, Layer};
use std::ffi::OsString;
use std::fs;
use std::process::{Command, ExitCode, Stdio};

/// The grammar, for help.
pub const GRAMMAR: Grammar = Grammar {
    about: "Tell what this machine lacks, what that means, and what mends it.",
    arguments: "",
    options: &[Opt {
        id: "strict",
        short: None,
        long: &["strict"],
        value: None,
        help: "a missing layer of isolation is an error, not a warning",
        support: Support::Ours,
    }],
};

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// Works, with less protection or fewer tests.
    Less,
    /// Does not work.
    Missing,
}

/// One thing looked at.
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    mend: &'static str, // empty where nothing is to be done
}

/// Looks and reports.
pub fn run(args: &[OsString], terminal: &mut Terminal) -> ExitCode {
    let parsed = match GRAMMAR.parse(Mode::Instar, args) {
        Ok(parsed) if parsed.wants_help() => return terminal.print(&crate::cli::subcommand_help("doctor", &GRAMMAR)),
        Ok(parsed) => parsed,
        Err(error) => return terminal.usage("doctor", &error),
    };
    let mut findings = vec![kvm(), landlock(), seccomp(), images(), qemu_img()];
    findings.extend(PROGRAMS.map(engine));
    let lines: Vec<String> = findings.iter().map(line).collect();
    let printed = terminal.print(&lines.concat());
    let bad = if parsed.flag("strict") { State::Less } else { State::Missing };
    let healthy = findings.iter().all(|finding| finding.state != State::Missing && finding.state != bad);
    if healthy { printed } else { ExitCode::FAILURE }
}

const PROGRAMS: [Program; 3] =
    [Program::Qemu(QemuMachine::Microvm, Accelerator::Best), Program::CloudHypervisor, Program::Firecracker];

/// An engine that is another's program: nobody needs one.
fn engine(program: Program) -> Finding {
    let what = match program {
        Program::Qemu(..) => "engine qemu",
        Program::CloudHypervisor => "engine cloud-hypervisor",
        Program::Firecracker => "engine firecracker",
    };
    let found = match program.check() {
        Ok(version) => crate::render::escape::shown(version.as_bytes()),
        Err(ProgramError::Version { found, oldest: (major, minor), .. }) => {
            let found = crate::render::escape::shown(found.as_bytes());
            format!("'{found}' can't be used, {major}.{minor} or later can")
        }
        Err(_) => format!("not there, and not needed; {} names a binary", program.variable()),
    };
    Finding { what, state: State::Good, found, mend: "" }
}

fn line(finding: &Finding) -> String {
    let mark = match finding.state {
        State::Good => "ok",
        State::Less => "warning",
        State::Missing => "missing",
    };
    let mut text = format!("{mark:<8} {}: {}\n", finding.what, finding.found);
    if !finding.mend.is_empty() {
        text += &format!("         {}\n", finding.mend);
    }
    text
}

fn kvm() -> Finding {
    let (state, found, mend) = match fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => (State::Good, "/dev/kvm can be opened".to_owned(), ""),
        Err(error) => {
            let mend = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "enable virtualisation in the firmware, then: sudo modprobe kvm-intel (or kvm-amd)"
                }
                std::io::ErrorKind::PermissionDenied => "sudo usermod -aG kvm \"$USER\", then log in again",
                _ => "look into the kernel's log: dmesg | grep -i kvm",
            };
            let why = error.raw_os_error().map_or_else(|| error.to_string(), errno_text);
            (State::Missing, format!("/dev/kvm can't be opened ({why}); only --engine qemu can run, slowly"), mend)
        }
    };
    Finding { what: "KVM", state, found, mend }
}

fn landlock() -> Finding {
    // A run takes what there is and says nothing: only here is it told what is missing.
    let mend = "a kernel from 6.12 on with lsm=landlock,… on its command line";
    let (state, found, mend) = match sandbox::available().files {
        Layer::Full => (State::Good, "runs can give up the file system", ""),
        Layer::Partial => (State::Less, "runs can give up the file system but for some of its calls", mend),
        Layer::Missing => {
            (State::Less, "runs keep the rights to the file system that the system-call filter leaves", mend)
        }
    };
    Finding { what: "landlock", state, found: found.to_owned(), mend }
}

fn seccomp() -> Finding {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let (state, found, mend) = match actions.split_whitespace().any(|action| action == "kill_process") {
        true => (State::Good, "runs can give up system calls".to_owned(), ""),
        false => (
            State::Missing,
            "the kernel has no system-call filters; no operation runs without".to_owned(),
            "a kernel with CONFIG_SECCOMP_FILTER=y",
        ),
    };
    Finding { what: "seccomp", state, found, mend }
}

fn images() -> Finding {
    let names: Vec<&str> = Images::names().collect();
    if names.is_empty() {
        let found = "this build carries none; no operation can run".to_owned();
        return Finding { what: "guest images", state: State::Missing, found, mend: "cargo xtask build" };
    }
    Finding { what: "guest images", state: State::Good, found: names.join(" "), mend: "" }
}

fn qemu_img() -> Finding {
    let output = Command::new("qemu-img").arg("--version").stdin(Stdio::null()).output();
    let version = output.ok().and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.strip_prefix("qemu-img version ")?.split_whitespace().next()?.to_owned())
    });
    let what = "qemu-img";
    match version {
        Some(version) => Finding { what, state: State::Good, found: format!("{version}, for tests only"), mend: "" },
        None => Finding {
            what,
            state: State::Less,
            found: "not there; tests that compare with it are skipped".to_owned(),
            mend: "sudo apt install qemu-utils",
        },
    }
}
