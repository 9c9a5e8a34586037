//! `config`: what the configuration says, and whether a file is sound.
#![forbid(unsafe_code)]

use super::grammar::{Grammar, UsageError};
use super::image_options::ALLOW_BACKING;
use super::terminal::Terminal;
use super::{Mode, help};
use crate::config::{Config, Sources};
use crate::gate::policy::PolicyError;
use crate::job::failure::Failure;
use crate::job::open::path_of;
use crate::render::escape::shown;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const GRAMMAR: Grammar = Grammar {
    about: "Show the configuration with who says what, as a file that would set it again; or tell whether a file is sound.",
    arguments: "show | check FILE",
    options: &[ALLOW_BACKING],
};

pub(super) fn run(args: &[OsString], terminal: &mut Terminal) -> ExitCode {
    let parsed = match GRAMMAR.parse(Mode::Instar, args) {
        Ok(parsed) if parsed.wants_help() => {
            let help = help::subcommand(Mode::Instar, "config", &GRAMMAR);
            return terminal.print(&format!("{help}\nKeys:\n{}", Config::keys()));
        }
        Ok(parsed) => parsed,
        Err(error) => return terminal.usage("config", &error),
    };
    let names: Vec<&[u8]> = parsed.names().into_iter().map(OsStr::as_encoded_bytes).collect();
    let text = match names[..] {
        [b"show"] => {
            let allow = parsed.all("allow-backing").map(PathBuf::from).collect();
            Config::load(&Sources { allow, ..Sources::of_process() }).map(|config| config.show())
        }
        [b"check", file] => {
            check(path_of(file)).map(|count| format!("'{}' is sound; it sets {count} keys\n", shown(file)))
        }
        _ => return terminal.usage("config", &UsageError::with_try("Expecting show or check FILE")),
    };
    match text {
        Ok(text) => terminal.print(&text),
        Err(error) => terminal.fail(&Failure::Policy(error)),
    }
}

/// How many keys a file sets, if all of it is understood and the directories that it allows are there.
fn check(file: &Path) -> Result<usize, PolicyError> {
    let text = std::fs::read_to_string(file).map_err(|error| PolicyError::unreadable(file, &error))?;
    let mut config = Config::default();
    config.take_file(file, &text)?;
    config.policy(&[])?;
    Ok(config.count())
}
