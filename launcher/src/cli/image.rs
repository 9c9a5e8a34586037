//! `image`: the operations' guest images, for people who boot them by hand.
#![forbid(unsafe_code)]

use super::grammar::{Grammar, UsageError};
use super::terminal::Terminal;
use super::{Mode, by_hand, help};
use crate::machine::{Accelerator, Images, Program, QemuMachine};
use crate::render::errors::Message;
use crate::render::escape::shown;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const GRAMMAR: Grammar = Grammar {
    about: "List the operations' guest images, write one to a file, show the command lines it is booted with; make a control\n\
            disk that asks what an image is, and read the reply on it.",
    arguments: "list | path OP | cmdline OP | control IMAGE DISK | reply DISK",
    options: &[],
};

pub(super) fn run(args: &[OsString], terminal: &mut Terminal) -> ExitCode {
    let parsed = match GRAMMAR.parse(Mode::Instar, args) {
        Ok(parsed) if parsed.wants_help() => {
            return terminal.print(&help::subcommand(Mode::Instar, "image", &GRAMMAR));
        }
        Ok(parsed) => parsed,
        Err(error) => return terminal.usage("image", &error),
    };
    let words: Vec<&[u8]> = parsed.names().into_iter().map(OsStr::as_encoded_bytes).collect();
    match words[..] {
        [b"list"] => {
            let lines: Vec<String> = Images::names().map(|name| format!("{name}\n")).collect();
            terminal.print(&lines.concat())
        }
        [b"path", op] => with_image(op, terminal, |op, image, terminal| match extract(op, image) {
            Ok(path) => terminal.print(&format!("{}\n", path.display())),
            Err(error) => terminal.say(&Message::new(format!("Could not write the image of '{op}': {error}"))),
        }),
        [b"cmdline", op] => with_image(op, terminal, |_, _, terminal| terminal.print(&command_lines())),
        [b"control", _, disk] => {
            let paths = parsed.names();
            match by_hand::control(Path::new(paths[1]), Path::new(paths[2])) {
                Ok(words) => terminal.print(&format!("{words}\n")),
                Err(error) => terminal.say(&Message::new(format!("Could not make '{}': {error}", shown(disk)))),
            }
        }
        [b"reply", disk] => match by_hand::reply(Path::new(parsed.names()[1])) {
            Ok(text) => terminal.print(&text),
            Err(error) => terminal.say(&Message::new(format!("Could not read '{}': {error}", shown(disk)))),
        },
        _ => terminal.usage(
            "image",
            &UsageError::with_try("Expecting list, path OP, cmdline OP, control IMAGE DISK or reply DISK"),
        ),
    }
}

/// What each machine's kernel is told besides the nonce that `image control` prints. QEMU's microvm and Firecracker add
/// the places of their devices themselves.
fn command_lines() -> String {
    let qemu = |machine| Program::Qemu(machine, Accelerator::Best);
    let machines = [
        ("qemu microvm", qemu(QemuMachine::Microvm)),
        ("qemu q35", qemu(QemuMachine::Q35)),
        ("cloud-hypervisor", Program::CloudHypervisor),
        ("firecracker", Program::Firecracker),
    ];
    let lines = machines.map(|(name, program)| format!("{name:<17} nonce=HEX32 serial=1 {}\n", program.words()));
    lines.concat()
}

fn with_image(
    op: &[u8],
    terminal: &mut Terminal,
    then: impl FnOnce(&'static str, &'static [u8], &mut Terminal) -> ExitCode,
) -> ExitCode {
    let known = Images::names().find(|name| name.as_bytes() == op);
    match known.and_then(|name| Some((name, Images::find(name).ok()?))) {
        Some((name, image)) => then(name, image, terminal),
        None => terminal.say(
            &Message::new(format!("this build carries no image of the operation '{}'", shown(op)))
                .with_hint("instar image list shows those it has"),
        ),
    }
}

/// Writes an image where the user's caches are, under the build it belongs to, and returns the path.
fn extract(op: &str, image: &[u8]) -> std::io::Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.ok_or_else(|| std::io::Error::other("neither XDG_CACHE_HOME nor HOME is set"))?;
    let build: String = instar_abi::BUILD_ID[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = cache.join("instar").join(build);
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{op}.elf"));
    if std::fs::read(&path).ok().as_deref() != Some(image) {
        std::fs::write(&path, image)?;
    }
    Ok(path)
}
