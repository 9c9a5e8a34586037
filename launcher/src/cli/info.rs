//! `info`: describe an image, or a chain of them.
#![forbid(unsafe_code)]

use super::Mode;
use super::grammar::{Grammar, Opt, Parsed, Support, UsageError};
use super::terminal::Terminal;
use crate::gate::policy::{Policy, Sources};
use crate::job::Machine;
use crate::job::failure::Failure;
use crate::job::info;
use crate::job::name::{ImageName, Reading, format_of};
use crate::render::info::{chain_to_json, to_json, to_lines};
use crate::render::zone::Zone;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) const GRAMMAR: Grammar = Grammar {
    about: "Describe an image.",
    arguments: "FILENAME",
    options: &[
        Opt {
            id: "format",
            short: Some('f'),
            long: &["format"],
            value: Some("FMT"),
            help: "format of the image; without it, its content tells",
            support: Support::Full,
        },
        Opt {
            id: "image-opts",
            short: None,
            long: &["image-opts"],
            value: None,
            help: "FILENAME is an option string: driver=qcow2,file.filename=x",
            support: Support::Full,
        },
        Opt {
            id: "backing-chain",
            short: Some('b'),
            long: &["backing-chain"],
            value: None,
            help: "describe the layers below as well",
            support: Support::Full,
        },
        FORCE_SHARE,
        Opt {
            id: "object",
            short: None,
            long: &["object"],
            value: Some("DEF"),
            help: "define an object; info needs none, not even a secret",
            support: Support::Full,
        },
        Opt {
            id: "output",
            short: None,
            long: &["output"],
            value: Some("human|json"),
            help: "form of the output (default human)",
            support: Support::Full,
        },
        ALLOW_BACKING,
    ],
};

/// The option that takes no locks.
pub(super) const FORCE_SHARE: Opt = Opt {
    id: "force-share",
    short: Some('U'),
    long: &["force-share"],
    value: None,
    help: "open also what another process is writing",
    support: Support::Full,
};

/// The option that widens the gate.
pub(super) const ALLOW_BACKING: Opt = Opt {
    id: "allow-backing",
    short: None,
    long: &["allow-backing"],
    value: Some("DIR"),
    help: "images may name files beneath this directory, too",
    support: Support::Ours,
};

/// What was typed.
struct Typed {
    name: OsString,
    reading: Reading,
    format: Option<OsString>,
    json: bool,
    chain: bool,
    shared: bool,
    allow: Vec<PathBuf>,
}

pub(super) fn run(mode: Mode, args: &[OsString], machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let parsed = match GRAMMAR.parse(mode, args) {
        Ok(parsed) if parsed.wants_help() => {
            return terminal.print(&super::help::subcommand(mode, "info", &GRAMMAR));
        }
        Ok(parsed) => parsed,
        Err(error) => return terminal.usage("info", &error),
    };
    let typed = match Typed::new(&parsed) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("info", &error),
    };
    match describe(mode, &typed, machine, terminal) {
        Ok(code) => code,
        Err(failure) => terminal.fail(&failure),
    }
}

impl Typed {
    fn new(parsed: &Parsed) -> Result<Self, UsageError> {
        let json = match parsed.last("output").map(OsStr::as_encoded_bytes) {
            None | Some(b"human") => false,
            Some(b"json") => true,
            Some(other) => {
                let other = crate::render::escape::shown(other);
                return Err(UsageError::with_try(format!("--output expects 'human' or 'json' not '{other}'")));
            }
        };
        parsed.all("object").try_for_each(check_object)?;
        let [name] = parsed.names()[..] else { return Err(UsageError::with_try("Expecting one image file name")) };
        let format = parsed.last("format").map(OsStr::to_owned);
        let image_opts = parsed.flag("image-opts");
        if format.is_some() && image_opts {
            return Err(UsageError::alone("--image-opts and --format are mutually exclusive"));
        }
        Ok(Self {
            name: name.to_owned(),
            reading: if image_opts { Reading::Options } else { Reading::Name },
            format,
            json,
            chain: parsed.flag("backing-chain"),
            shared: parsed.flag("force-share"),
            allow: parsed.all("allow-backing").map(PathBuf::from).collect(),
        })
    }
}

/// `--object` is accepted where it says what qemu-img would accept: a secret with a name and a value.
pub(super) fn check_object(definition: &OsStr) -> Result<(), UsageError> {
    let items: Vec<&[u8]> = definition.as_encoded_bytes().split(|&byte| byte == b',').collect();
    let kind = items.first().copied().unwrap_or_default();
    let kind = kind.strip_prefix(b"qom-type=").unwrap_or(kind);
    let has = |key: &[u8]| items.iter().any(|item| item.starts_with(key));
    if kind != b"secret" {
        let kind = crate::render::escape::shown(kind);
        return Err(UsageError::alone(format!("Parameter 'qom-type' does not accept value '{kind}'")));
    }
    if !has(b"id=") {
        return Err(UsageError::alone("Parameter 'id' is missing"));
    }
    if !has(b"data=") && !has(b"file=") {
        return Err(UsageError::alone("Either 'file' or 'data' must be provided"));
    }
    Ok(())
}

/// The user's image, from words to meaning.
pub(super) fn image_name(
    typed: &OsStr,
    reading: Reading,
    format: Option<&OsStr>,
    shared: bool,
) -> Result<ImageName, Failure> {
    let typed = typed.as_encoded_bytes();
    let failed = |error| Failure::Name { typed: typed.to_vec(), error };
    let format = format.map(|format| format_of(format.as_encoded_bytes())).transpose().map_err(failed)?;
    let mut name = ImageName::parse(typed, reading, format).map_err(failed)?;
    name.shared |= shared;
    Ok(name)
}

fn describe(
    mode: Mode,
    typed: &Typed,
    machine: &mut dyn Machine,
    terminal: &mut Terminal,
) -> Result<ExitCode, Failure> {
    let name = image_name(&typed.name, typed.reading, typed.format.as_deref(), typed.shared)?;
    // Read now: once the run has locked this process down, no file can be.
    let zone = Zone::of_user();
    if !typed.chain {
        let image = info::one(name, mode.raw_gate(), machine)?;
        let text = if typed.json { to_json(&image) } else { to_lines(&[image], &zone) };
        return Ok(terminal.print(&text));
    }
    let policy = Policy::load(&Sources::of_process(typed.allow.clone())).map_err(Failure::Policy)?;
    let (images, result) = info::chain(name, mode.raw_gate(), &policy, machine);
    // qemu-img prints a chain whole or not at all; we print what could be described.
    if result.is_ok() || (mode == Mode::Instar && !images.is_empty()) {
        let text = if typed.json { chain_to_json(&images) } else { to_lines(&images, &zone) };
        let printed = terminal.print(&text);
        result?;
        return Ok(printed);
    }
    result.map(|()| ExitCode::SUCCESS)
}
