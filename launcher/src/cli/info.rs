//! `info`: describe an image, or a chain of them.
#![forbid(unsafe_code)]

use super::grammar::{Grammar, Opt, Parsed, Support, UsageError};
use super::image_options::{
    ALLOW_BACKING, FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, check_object, image_name, reading, wants_json,
};
use super::terminal::Terminal;
use super::{Mode, Setup};
use crate::job::Machine;
use crate::job::failure::Failure;
use crate::job::info;
use crate::job::name::Reading;
use crate::render::info::{chain_to_json, to_json, to_lines};
use crate::render::zone::Zone;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) const GRAMMAR: Grammar = Grammar {
    about: "Describe an image.",
    arguments: "FILENAME",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt {
            id: "backing-chain",
            short: Some('b'),
            long: &["backing-chain"],
            value: None,
            help: "describe the layers below as well",
            support: Support::Full,
        },
        Opt {
            id: "details",
            short: None,
            long: &["details"],
            value: None,
            help: "tell also its partitions, what speaks for its format, and what is risky about it",
            support: Support::Ours,
        },
        FORCE_SHARE,
        OBJECT,
        OUTPUT,
        ALLOW_BACKING,
    ],
};

/// What was typed.
struct Typed {
    name: OsString,
    reading: Reading,
    format: Option<OsString>,
    json: bool,
    chain: bool,
    details: bool,
    shared: bool,
    allow: Vec<PathBuf>,
}

pub(super) fn run(setup: Setup<'_>, parsed: &Parsed, machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let typed = match Typed::new(parsed, setup) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("info", &error),
    };
    match describe(setup, &typed, machine, terminal) {
        Ok(code) => code,
        Err(failure) => terminal.fail(&failure),
    }
}

impl Typed {
    fn new(parsed: &Parsed, setup: Setup<'_>) -> Result<Self, UsageError> {
        let json = wants_json(parsed, setup)?;
        parsed.all("object").try_for_each(check_object)?;
        let [name] = parsed.names()[..] else { return Err(UsageError::with_try("Expecting one image file name")) };
        let format = parsed.last("format").map(OsStr::to_owned);
        let reading = reading(parsed, &["format"])?;
        Ok(Self {
            name: name.to_owned(),
            reading,
            format,
            json,
            chain: parsed.flag("backing-chain"),
            details: parsed.flag("details") || setup.ours().is_some_and(|values| values.details),
            shared: parsed.flag("force-share"),
            allow: parsed.all("allow-backing").map(PathBuf::from).collect(),
        })
    }
}

fn describe(
    setup: Setup<'_>,
    typed: &Typed,
    machine: &mut dyn Machine,
    terminal: &mut Terminal,
) -> Result<ExitCode, Failure> {
    let name = image_name(&typed.name, typed.reading, typed.format.as_deref(), typed.shared)?;
    let asked = info::Asked { raw_gate: setup.raw_gate(), details: typed.details };
    // Read now: once the run has locked this process down, no file can be.
    let zone = Zone::of_user();
    if !typed.chain {
        let image = info::one(name, asked, || setup.config.policy(&typed.allow), machine)?;
        let text = if typed.json { to_json(&image) } else { to_lines(&[image], &zone) };
        return Ok(terminal.print(&text));
    }
    let policy = setup.config.policy(&typed.allow).map_err(Failure::Policy)?;
    let (images, result) = info::chain(name, asked, &policy, machine);
    // qemu-img prints a chain whole or not at all; we print what could be described.
    if result.is_ok() || (setup.mode == Mode::Instar && !images.is_empty()) {
        let text = if typed.json { chain_to_json(&images) } else { to_lines(&images, &zone) };
        let printed = terminal.print(&text);
        result?;
        return Ok(printed);
    }
    result.map(|()| ExitCode::SUCCESS)
}
