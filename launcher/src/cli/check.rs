//! `check`: tell what is wrong with the metadata of an image.
#![forbid(unsafe_code)]

use super::grammar::{Grammar, Opt, Parsed, Support, UsageError};
use super::image_options::{
    ALLOW_BACKING, FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, QUIET, SOURCE_CACHE, check_object, image_name,
    policy, reading, source_cache, wants_json,
};
use super::terminal::Terminal;
use super::{Mode, Setup};
use crate::disk::bytes::CacheMode;
use crate::gate::policy::Policy;
use crate::job::failure::Failure;
use crate::job::name::{ImageName, Reading};
use crate::job::{Machine, below, read};
use crate::render::check;
use crate::render::errors::Message;
use crate::render::escape::shown;
use crate::render::report::Lie;
use instar_abi::check::{Checked, Finding};
use instar_abi::error::Error;
use instar_abi::reply::Frame;
use instar_abi::request::{Check, LayerId, Op};
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

pub(super) const GRAMMAR: Grammar = Grammar {
    about: "Tell what is wrong with the metadata of an image. What it names is not opened, but for files with its content.",
    arguments: "FILENAME",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        SOURCE_CACHE,
        OUTPUT,
        QUIET,
        Opt {
            id: "repair",
            short: Some('r'),
            long: &["repair"],
            value: Some("leaks|all"),
            help: "repair what is found",
            support: Support::Full,
        },
        Opt {
            id: "chain",
            short: None,
            long: &["chain"],
            value: None,
            help: "check the layers below as well, and count their errors apart",
            support: Support::Ours,
        },
        FORCE_SHARE,
        OBJECT,
        ALLOW_BACKING,
    ],
};

/// What check exits with besides success and failure.
mod exit {
    /// The metadata is wrong.
    pub const CORRUPT: u8 = 2;
    /// Clusters are leaked, and nothing else is wrong.
    pub const LEAKS: u8 = 3;
    /// The format has nothing to check.
    pub const NO_CHECK: u8 = 63;
}

/// What was asked for.
struct Typed {
    name: OsString,
    reading: Reading,
    cache: CacheMode,
    is_json: bool,
    is_quiet: bool,
}

pub(super) fn run(setup: Setup<'_>, parsed: &Parsed, machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let typed = match typed(parsed, setup) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("check", &error),
    };
    // Found first: then one machine checks the image and what is below it.
    let below = parsed.flag("chain").then(|| look_below(setup, &typed, parsed, machine));
    let result = checked(setup, &typed, parsed, machine, terminal);
    let below = below.filter(|_| result.is_ok()).map(|below| check_below(below, setup, machine, terminal));
    machine.rest();
    match result {
        Ok(checked) => tell(&checked, below.as_ref(), &typed, terminal),
        Err(Failure::Guest(failed)) if matches!(failed.error, Error::NoCheck { .. }) => {
            terminal.fail(&Failure::Guest(failed));
            ExitCode::from(exit::NO_CHECK)
        }
        Err(failure) => terminal.fail(&failure),
    }
}

fn typed(parsed: &Parsed, setup: Setup<'_>) -> Result<Typed, UsageError> {
    let is_json = wants_json(parsed, setup)?;
    let repair = parsed.last("repair").map(OsStr::as_encoded_bytes);
    if let Some(other) = repair.filter(|repair| !matches!(*repair, b"leaks" | b"all")) {
        let other = shown(other);
        return Err(UsageError::with_try(format!("--repair (-r) expects 'leaks' or 'all' not '{other}'")));
    }
    parsed.all("object").try_for_each(check_object)?;
    let [name] = parsed.names()[..] else { return Err(UsageError::with_try("Expecting one image file name")) };
    let reading = reading(parsed, &["format"])?;
    let cache = source_cache(parsed)?;
    if repair.is_some() {
        if parsed.flag("force-share") {
            let name = shown(name.as_encoded_bytes());
            let why = "force-share=on can only be used with read-only images";
            return Err(UsageError::alone(format!("Could not open '{name}': {why}")));
        }
        return Err(UsageError::NotYet { what: "option '-r'".to_owned() });
    }
    Ok(Typed { name: name.to_owned(), reading, cache, is_json, is_quiet: parsed.flag("quiet") })
}

/// The image that is meant.
fn image(typed: &Typed, parsed: &Parsed) -> Result<ImageName, Failure> {
    image_name(&typed.name, typed.reading, parsed.last("format"), parsed.flag("force-share"))
}

fn note_findings(findings: &[Finding], setup: Setup<'_>, terminal: &mut Terminal) {
    let lines = findings.iter().map(|finding| check::line(finding, setup.mode.program()));
    terminal.note(&lines.collect::<String>());
}

/// Checks; findings are told as they come.
fn checked(
    setup: Setup<'_>,
    typed: &Typed,
    parsed: &Parsed,
    machine: &mut dyn Machine,
    terminal: &mut Terminal,
) -> Result<Checked, Failure> {
    let name = image(typed, parsed)?;
    let op = Op::Check(Check { image: LayerId(0), as_qemu_img: setup.mode == Mode::QemuImg });
    let meant = read::Meant { op, images: vec![name], cache: typed.cache, raw_gate: setup.raw_gate(), lanes: 1 };
    let mut checked = None;
    read::run_before_others(&meant, policy(parsed, setup), machine, &mut |told| match told.frame {
        Frame::Findings(findings) if checked.is_none() => {
            note_findings(&findings, setup, terminal);
            Ok(())
        }
        Frame::Checked(found) if checked.is_none() => {
            checked = Some(found);
            Ok(())
        }
        _ => Err(Lie::OutOfPlace),
    })?;
    checked.ok_or(Failure::Lie(Lie::OutOfPlace))
}

/// What is below the image, and the rules by which it was found; or why that can't be told.
type Found = Result<(below::Below, Policy), Failure>;

fn look_below(setup: Setup<'_>, typed: &Typed, parsed: &Parsed, machine: &mut dyn Machine) -> Found {
    let name = image(typed, parsed)?;
    let policy = policy(parsed, setup)().map_err(Failure::Policy)?;
    let asked = below::Asked { raw_gate: setup.raw_gate(), cache: typed.cache };
    Ok((below::Below::look(name, asked, &policy, machine), policy))
}

/// Checks what is below the image; findings are told as they come, each layer's behind a line with its name. A layer that
/// can't be reached or checked is an error of the chain.
fn check_below(found: Found, setup: Setup<'_>, machine: &mut dyn Machine, terminal: &mut Terminal) -> check::Below {
    let mut sum = check::Below::default();
    let result = found.and_then(|(layers, policy)| {
        layers.check(&policy, machine, &mut |news| match news {
            below::News::Layer { path } => {
                sum.layers += 1;
                terminal.note(&format!("Layer {} below the image: '{}'\n", sum.layers, shown(path)));
                Ok(())
            }
            below::News::Frame(Frame::Findings(findings)) => {
                note_findings(&findings, setup, terminal);
                Ok(())
            }
            below::News::Frame(Frame::Checked(checked)) => {
                sum.add(&checked);
                Ok(())
            }
            below::News::Frame(_) => Err(Lie::OutOfPlace),
        })
    });
    if let Err(failure) = result {
        sum.errors += 1;
        terminal.fail(&failure);
    }
    sum
}

fn tell(checked: &Checked, below: Option<&check::Below>, typed: &Typed, terminal: &mut Terminal) -> ExitCode {
    if checked.untold > 0 {
        terminal.say(&Message::new(format!("{} more findings are not listed", checked.untold)));
    }
    let is_told = checked.failure.is_none() && !typed.is_quiet;
    let printed = match (is_told, typed.is_json) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => terminal.print(&check::json(checked, below, typed.name.as_encoded_bytes())),
        (true, false) => terminal.print(&check::human(checked, below)),
    };
    if let Some(failure) = check::failure(checked) {
        return terminal.say(&Message::new(failure));
    }
    let (errors, leaks) = below.map_or((0, 0), |below| (below.errors, below.leaks));
    match (checked.corruptions.saturating_add(errors), checked.leaks.saturating_add(leaks)) {
        (0, 0) => printed,
        (0, _) => ExitCode::from(exit::LEAKS),
        _ => ExitCode::from(exit::CORRUPT),
    }
}
