//! Words for runs that came to no end.
#![forbid(unsafe_code)]

use super::{Message, broken_guest, errno_text};
use crate::job::NoEnd;
use crate::machine::{MachineError, OutsideError, ProgramError, ReplyFault};
use crate::render::escape::shown;
use crate::vmm::run::{LastWords, PrepareError};
use crate::vmm::shared::Stop;
use instar_abi::epitaph::Death;
use nix::sys::signal::Signal;
use std::io;

/// The words for a run without an end; `None`: who stopped it knows.
pub(super) fn no_end(no_end: &NoEnd) -> Option<Message> {
    match no_end {
        NoEnd::Machine(error) => Some(machine_error(error)),
        NoEnd::NoImage { op } => Some(
            Message::new(format!("this build carries no image of the operation '{op}'"))
                .with_hint("cargo xtask build embeds the images; a plain cargo build does not"),
        ),
        NoEnd::Told(words) => {
            let mut lines = words.lines().map(str::to_owned);
            let text = lines.next().unwrap_or_default();
            let hint = lines.next().filter(|hint| !hint.is_empty());
            Some(Message { text, hint, more: lines.collect() })
        }
        NoEnd::Stopped(_) => None,
    }
}

/// The words for a run that the machine ended, as one text: a line, what to do about it on a second one, which may be empty,
/// and then what the machine's program said.
#[must_use]
pub fn words(error: &MachineError) -> String {
    let Message { text, more, hint } = machine_error(error);
    [text, hint.unwrap_or_default()].into_iter().chain(more).collect::<Vec<_>>().join("\n")
}

/// The words for a run that the machine ended.
#[must_use]
fn machine_error(error: &MachineError) -> Message {
    match error {
        MachineError::Image(error) => {
            Message::new(format!("the op image is damaged: {error:?}")).with_hint("cargo xtask build makes it again")
        }
        MachineError::BuildId { found } => {
            let ids =
                [&instar_abi::BUILD_ID, found].map(|id| id[..8].iter().map(|b| format!("{b:02x}")).collect::<String>());
            Message::new(format!("op image {} does not belong to launcher {}", ids[1], ids[0]))
                .with_hint("cargo xtask build makes both anew")
        }
        MachineError::RequestTooLong => Message::new("the job names too many files to be handed over"),
        MachineError::Random(error) => Message::new(format!("Could not get random numbers: {}", io_text(error))),
        MachineError::Prepare(error) => prepare(error),
        MachineError::Sandbox(error) => Message::new(format!("the sandbox can't be closed: {error:?}"))
            .with_hint("instar doctor tells which layers this kernel has"),
        MachineError::Host(error) => Message::new(format!("the machine can't be started: {}", io_text(error))),
        MachineError::Died(words) => died(words),
        MachineError::Reply(fault) => broken_guest(&format!("the guest broke the protocol: {}", reply(*fault))),
        MachineError::NoEnd(stop) => stopped(*stop),
        MachineError::Outside(error) => outside(error),
        MachineError::ChildKilled { signal } => {
            Message::new(format!("the process that ran the guest was ended by signal {signal}"))
                .with_hint(child_hint(*signal))
        }
    }
}

/// What a signal that ends a run's process hints at.
fn child_hint(signal: i32) -> &'static str {
    match Signal::try_from(signal) {
        Ok(Signal::SIGSYS) => "it tried a system call that it had given up: a bug in instar, maybe used on purpose",
        Ok(Signal::SIGKILL) => "out of memory, or killed by hand? the kernel's log says: dmesg",
        Ok(Signal::SIGXCPU) => "a limit on CPU time: ulimit -t",
        Ok(Signal::SIGXFSZ) => "a limit on file sizes: ulimit -f",
        _ => "the kernel's log may say why: dmesg",
    }
}

fn prepare(error: &PrepareError) -> Message {
    match error {
        PrepareError::OpenKvm(error) => {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => {
                    "is virtualisation enabled? sudo modprobe kvm-intel or kvm-amd; --engine qemu does without, slowly"
                }
                io::ErrorKind::PermissionDenied => {
                    "allow yourself: sudo usermod -aG kvm \"$USER\", then log in again; --engine qemu does without, slowly"
                }
                _ => "instar doctor tells more; --engine qemu does without, slowly",
            };
            Message::new(format!("Could not open '/dev/kvm': {}", io_text(error))).with_hint(hint)
        }
        PrepareError::Kvm { step, error } => {
            Message::new(format!("KVM refused: {step}: {}", io_text(error))).with_hint("instar doctor tells more")
        }
        PrepareError::Memory(error) => {
            Message::new(format!("Cannot allocate memory for the guest: {}", io_text(error)))
                .with_hint("ulimit -v shows whether the address space is limited")
        }
        PrepareError::Layout => Message::new("the job does not fit the guest's memory"),
    }
}

/// Lines of what a program said that are shown.
const SAID_LINES: usize = 4;

fn outside(error: &OutsideError) -> Message {
    let with = |text: String, said: &[u8]| {
        let lines: Vec<&[u8]> = said.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(SAID_LINES)..];
        Message { more: last.iter().map(|line| shown(line.trim_ascii_end())).collect(), ..Message::new(text) }
    };
    match error {
        OutsideError::Program(error) => program(error),
        OutsideError::Directory(error) => {
            Message::new(format!("Could not make a directory for the machine's sockets: {}", io_text(error)))
                .with_hint("TMPDIR or XDG_RUNTIME_DIR names a directory that can be written to")
        }
        OutsideError::Ended { program, said } => with(format!("{program} ended, and its guest gave no result"), said),
        OutsideError::Protocol { program, device, error, said } => {
            with(format!("{program} broke the protocol of device {device}: {error}"), said)
        }
    }
}

fn program(error: &ProgramError) -> Message {
    match error {
        ProgramError::Missing { name, path, variable } => {
            Message::new(format!("Could not find '{}', which engine {name} needs", shown(path.as_encoded_bytes())))
                .with_hint(format!("{variable} names the binary"))
        }
        ProgramError::Start { path, error } => {
            Message::new(format!("Could not start '{}': {}", shown(path.as_encoded_bytes()), io_text(error)))
        }
        ProgramError::Version { name, found, oldest: (major, minor), variable } => {
            let found = shown(found.as_bytes());
            Message::new(format!("engine {name} needs version {major}.{minor} or later, and found '{found}'"))
                .with_hint(format!("{variable} names another binary"))
        }
        ProgramError::Devices { name, needed, most } => Message::new(format!(
            "engine {name} has room for {most} devices, and each file being one this takes {needed}"
        ))
        .with_hint("--engine builtin has room for every chain that may be opened"),
        ProgramError::Kvm { name, error } => {
            Message::new(format!("engine {name} needs '/dev/kvm', which can't be opened: {}", io_text(error)))
                .with_hint("--engine qemu does without, slowly")
        }
    }
}

fn died(words: &LastWords) -> Message {
    let text = shown(&words.text);
    broken_guest(&match words.death {
        Death::Fault | Death::FaultInRing0 => {
            let ring = if words.death == Death::Fault { "" } else { " in its kernel" };
            format!(
                "the guest died of exception {}{ring} at {:#x} (address {:#x}, error code {:#x})",
                words.vector_or_line, words.rip, words.cr2, words.error_code
            )
        }
        Death::Panic => format!("the guest panicked at {text}:{}", words.vector_or_line),
        Death::HeapExhausted => "the guest used up its memory".to_owned(),
        Death::BadControl => format!("the guest did not accept its control device {text}"),
        Death::BadDevice => format!("the guest did not accept a device's answer {text}"),
    })
}

fn reply(fault: ReplyFault) -> String {
    match fault {
        ReplyFault::Frame(error) => format!("a frame can't be decoded ({error:?})"),
        ReplyFault::AfterEnd => "it went on after its end".to_owned(),
        ReplyFault::OutOfOrder => "it wrote its reply out of order or past its limit".to_owned(),
        ReplyFault::Copy => "it asked for a copy that it may not have".to_owned(),
        ReplyFault::Progress => "its progress went backwards".to_owned(),
    }
}

fn stopped(stop: Stop) -> Message {
    match stop {
        Stop::TimeOut { rip } => Message::new(match rip {
            // Nobody sees where another program's guest is.
            0 => "the guest did not end in its time".to_owned(),
            rip => format!("the guest did not end in its time (it was at {rip:#x})"),
        })
        .with_hint("the image is damaged or made to keep its reader busy, or the machine is very slow"),
        Stop::Kvm(errno) => Message::new(format!("KVM failed: {}", errno_text(errno))),
        Stop::PowerOff | Stop::LaneEnd => broken_guest("the guest stopped without a result"),
        Stop::GuestFault(fault) => broken_guest(&format!("the guest misused a device: {fault:?}")),
        Stop::TripleFault => broken_guest("the guest died of three faults in a row"),
        Stop::Halted => broken_guest("the guest halted"),
        Stop::InternalError => {
            Message::new("KVM gave up on the guest").with_hint("the kernel's log may say why: dmesg")
        }
    }
}

fn io_text(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), errno_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found on every engine: what a program had said last was lost on the way out of the child.
    #[test]
    fn the_words_of_a_child_are_the_same_in_its_parent() {
        let ended = OutsideError::Ended { program: "qemu", said: b"word 1\nword 2\n".to_vec() };
        for error in [
            MachineError::RequestTooLong,
            MachineError::ChildKilled { signal: 31 },
            MachineError::Outside(ended),
            MachineError::NoEnd(Stop::TimeOut { rip: 0 }),
        ] {
            assert_eq!(no_end(&NoEnd::Told(words(&error))), Some(machine_error(&error)), "{error:?}");
        }
    }
}
