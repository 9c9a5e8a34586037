//! `image`: the operations' guest images, for people who boot them by hand.
#![forbid(unsafe_code)]

use super::grammar::{Grammar, UsageError};
use super::terminal::Terminal;
use super::{Mode, help};
use crate::machine::Images;
use crate::render::errors::Message;
use crate::render::escape::shown;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

const GRAMMAR: Grammar = Grammar {
    about: "List the operations' guest images, write one to a file, or show the command line it is booted with.",
    arguments: "list | path OP | cmdline OP",
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
        [b"cmdline", op] => with_image(op, terminal, |_, _, terminal| terminal.print(COMMAND_LINE)),
        _ => terminal.usage("image", &UsageError::with_try("Expecting list, path OP or cmdline OP")),
    }
}

/// What a machine of one's own passes to the kernel; devices are found on the PCI bus, or named as Linux names them.
const COMMAND_LINE: &str = "nonce=HEX32 lanes=1 poff=PORT,VALUE serial=1 virtio_mmio.device=SIZE@ADDRESS:IRQ\n";

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
