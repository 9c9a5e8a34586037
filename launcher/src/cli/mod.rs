//! The command line: qemu-img's grammar and spelling, two modes.
//!
//! Called as `qemu-img`, or with `--qemu-img-compat` first, instar is qemu-img: its name in messages,
//! its way of guessing formats, no output of our own. Else it is instar: hints, and unknown content is
//! raw only with a partition table.
//!
//! What was typed is gathered here ([`grammar`]) and handed to [`crate::job`], which says what it
//! means. Only the typed subcommand's grammar is built: a run lasts milliseconds.
#![forbid(unsafe_code)]

mod by_hand;
mod check;
mod compare;
mod config;
mod convert;
mod convert_grammar;
mod convert_typed;
mod create_options;
mod dd;
mod engine;
pub mod grammar;
mod help;
mod image;
mod image_options;
mod info;
mod luks_options;
mod map;
mod measure;
mod progress;
pub mod terminal;

use crate::config::{Config, Limited, Sources, Values};
use crate::job::Machine;
use crate::job::failure::Failure;
use grammar::UsageError;
use instar_abi::request::RawGate;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
use terminal::Terminal;

/// The qemu-img whose grammar and texts are followed.
pub const QEMU_IMG_VERSION: &str = "10.0.2";

/// As which program we were called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// instar.
    Instar,
    /// qemu-img.
    QemuImg,
}

impl Mode {
    /// The program's name in messages.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Instar => "instar",
            Self::QemuImg => "qemu-img",
        }
    }

    /// When unknown content is taken as raw.
    #[must_use]
    pub const fn raw_gate(self) -> RawGate {
        match self {
            Self::Instar => RawGate::Partitioned,
            Self::QemuImg => RawGate::Open,
        }
    }
}

/// How a subcommand runs: as which program's, and by which configuration.
#[derive(Clone, Copy)]
struct Setup<'a> {
    mode: Mode,
    config: &'a Config,
}

impl<'a> Setup<'a> {
    /// What the configuration says of what qemu-img does not have; `None`: we are qemu-img.
    fn ours(self) -> Option<&'a Values> {
        Some(self.config.values()).filter(|_| self.mode == Mode::Instar)
    }

    /// When unknown content is taken as raw.
    fn raw_gate(self) -> RawGate {
        match self.ours() {
            Some(Values { raw_as_qemu_img: true, .. }) => RawGate::Open,
            _ => self.mode.raw_gate(),
        }
    }
}

/// What stands before the subcommand.
enum Start {
    Run { mode: Mode, subcommand: OsString, args: Vec<OsString> },
    Help(Mode),
    Version(Mode),
    Wrong(Mode, UsageError),
}

/// Runs the program on this process's streams. `args` starts with the name it was called by.
pub fn main(args: impl IntoIterator<Item = OsString>, machine: &mut dyn Machine) -> ExitCode {
    main_on(args, machine, &mut Terminal::of_process(Mode::Instar))
}

/// Runs the program on any streams.
pub fn main_on(
    args: impl IntoIterator<Item = OsString>,
    machine: &mut dyn Machine,
    terminal: &mut Terminal,
) -> ExitCode {
    match start(args.into_iter()) {
        Start::Help(mode) => terminal.print(&help::program(mode)),
        Start::Version(mode) => terminal.print(&help::version(mode)),
        Start::Wrong(mode, error) => {
            terminal.set_mode(mode);
            terminal.usage("", &error)
        }
        Start::Run { mode, subcommand, args } => {
            terminal.set_mode(mode);
            match engine::chosen(mode, args) {
                Ok((choice, args)) => {
                    if let Some(choice) = choice {
                        machine.choose(choice);
                    }
                    run(mode, &subcommand, &args, machine, terminal)
                }
                Err(error) => terminal.usage(&subcommand.to_string_lossy(), &error),
            }
        }
    }
}

fn run(
    mode: Mode,
    subcommand: &OsStr,
    args: &[OsString],
    machine: &mut dyn Machine,
    terminal: &mut Terminal,
) -> ExitCode {
    let (operation, name, grammar): (Operation, _, _) = match subcommand.as_encoded_bytes() {
        b"info" => (info::run, "info", &info::GRAMMAR),
        b"check" => (check::run, "check", &check::GRAMMAR),
        b"compare" => (compare::run, "compare", &compare::GRAMMAR),
        b"convert" => (convert::run, "convert", &convert_grammar::GRAMMAR),
        b"dd" => (dd::run, "dd", &dd::GRAMMAR),
        b"map" => (map::run, "map", &map::GRAMMAR),
        b"measure" => (measure::run, "measure", &measure::GRAMMAR),
        b"image" if mode == Mode::Instar => return image::run(args, terminal),
        b"config" if mode == Mode::Instar => return config::run(args, terminal),
        b"doctor" if mode == Mode::Instar => return crate::doctor::run(args, terminal),
        name => {
            return match help::known_subcommand(name) {
                Some(known) => terminal.usage("", &UsageError::NotYet { what: format!("subcommand '{known}'") }),
                None => terminal.usage("", &UsageError::NoSuchCommand { found: subcommand.to_owned() }),
            };
        }
    };
    // Help is there for those, too, whose configuration is not understood.
    let parsed = match parsed(mode, name, grammar, args, terminal) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    if let Some(code) = (name == "convert").then(|| convert::options_help(&parsed, terminal)).flatten() {
        return code;
    }
    let config = match Config::load(&Sources::of_process()) {
        Ok(config) => config,
        Err(error) => {
            let said = terminal.fail(&Failure::Policy(error));
            // There, 1 is an answer.
            return if name == "compare" { ExitCode::from(2) } else { said };
        }
    };
    let mut machine = Limited::new(machine, config.values().limits);
    operation(Setup { mode, config: &config }, &parsed, &mut machine, terminal)
}

/// What a subcommand that works on images is.
type Operation = fn(Setup<'_>, &grammar::Parsed, &mut dyn Machine, &mut Terminal) -> ExitCode;

/// What was typed after a subcommand; or how it ends at once, with its help or with what is wrong.
fn parsed(
    mode: Mode,
    name: &str,
    grammar: &grammar::Grammar,
    args: &[OsString],
    terminal: &mut Terminal,
) -> Result<grammar::Parsed, ExitCode> {
    match grammar.parse(mode, args) {
        Ok(parsed) if parsed.wants_help() => Err(terminal.print(&help::subcommand(mode, name, grammar))),
        Ok(parsed) => Ok(parsed),
        Err(error) => Err(terminal.usage(name, &error)),
    }
}

/// `SUBCOMMAND --help` of a subcommand of ours.
pub(crate) fn subcommand_help(name: &str, grammar: &grammar::Grammar) -> String {
    help::subcommand(Mode::Instar, name, grammar)
}

/// Reads the options before the subcommand: few enough to do without a parser.
fn start(mut args: impl Iterator<Item = OsString>) -> Start {
    let called = args.next().unwrap_or_default();
    let name = std::path::Path::new(&called).file_name().unwrap_or_default();
    let mut mode = if name == "qemu-img" { Mode::QemuImg } else { Mode::Instar };
    loop {
        let Some(arg) = args.next() else { return Start::Wrong(mode, UsageError::NoCommand) };
        let text = arg.to_string_lossy().into_owned();
        match text.strip_prefix("--") {
            Some("qemu-img-compat") if name != "qemu-img" => mode = Mode::QemuImg,
            Some("") => match args.next() {
                Some(subcommand) => return Start::Run { mode, subcommand, args: args.collect() },
                None => return Start::Wrong(mode, UsageError::NoCommand),
            },
            Some(long) => {
                let (long, value) = long.split_once('=').map_or((long, None), |(long, value)| (long, Some(value)));
                let full = ["help", "version", "trace"].into_iter().find(|full| full.starts_with(long));
                return match (full, value) {
                    (Some(full @ ("help" | "version")), Some(_)) => {
                        Start::Wrong(mode, UsageError::NoValue { option: full.to_owned() })
                    }
                    (Some("help"), None) => Start::Help(mode),
                    (Some("version"), None) => Start::Version(mode),
                    (Some(_), _) => Start::Wrong(mode, UsageError::NotYet { what: "option '--trace'".to_owned() }),
                    (None, _) => Start::Wrong(mode, UsageError::UnknownLong { found: text }),
                };
            }
            None => match text.strip_prefix('-').and_then(|short| short.chars().next()) {
                Some('h') => return Start::Help(mode),
                Some('V') => return Start::Version(mode),
                Some('T') => return Start::Wrong(mode, UsageError::NotYet { what: "option '-T'".to_owned() }),
                Some(found) => return Start::Wrong(mode, UsageError::UnknownShort { found }),
                None => return Start::Run { mode, subcommand: arg, args: args.collect() },
            },
        }
    }
}

#[cfg(test)]
mod tests;
