//! `map`: tell where the content of an image is.
#![forbid(unsafe_code)]

use super::grammar::{Grammar, Opt, Parsed, Support, UsageError};
use super::image_options::{
    ALLOW_BACKING, FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, check_object, image_name, number, policy, reading,
    wants_json,
};
use super::terminal::Terminal;
use super::{Mode, Setup};
use crate::disk::bytes::CacheMode;
use crate::job::Machine;
use crate::job::failure::Failure;
use crate::job::name::Reading;
use crate::job::read::{self, Told};
use crate::render::map::{self, NoPlace};
use crate::render::report::Lie;
use instar_abi::reply::Frame;
use instar_abi::request::{LayerId, Map, Op};
use std::ffi::OsString;
use std::process::ExitCode;

pub(super) const GRAMMAR: Grammar = Grammar {
    about: "Tell where the content of an image is, layer by layer.",
    arguments: "FILENAME",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt {
            id: "start-offset",
            short: Some('s'),
            long: &["start-offset"],
            value: Some("OFFSET"),
            help: "first byte of the disk",
            support: Support::Full,
        },
        Opt {
            id: "max-length",
            short: Some('l'),
            long: &["max-length"],
            value: Some("LENGTH"),
            help: "most bytes of the disk",
            support: Support::Full,
        },
        OUTPUT,
        FORCE_SHARE,
        OBJECT,
        ALLOW_BACKING,
    ],
};

pub(super) fn run(setup: Setup<'_>, parsed: &Parsed, machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let (op, name, reading, is_json) = match typed(setup, parsed) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("map", &error),
    };
    let name = match image_name(&name, reading, parsed.last("format"), parsed.flag("force-share")) {
        Ok(name) => name,
        Err(failure) => return terminal.fail(&failure),
    };
    let meant =
        read::Meant { op, images: vec![name], cache: CacheMode::Writeback, raw_gate: setup.raw_gate(), lanes: 1 };
    let mut printer = Printer { terminal, is_json, has_begun: false, stop: None };
    let result = read::run(&meant, policy(parsed, setup), machine, &mut |told| printer.take(&told));
    printer.finish(result)
}

/// What was asked for, of which image, and whether as JSON.
fn typed(setup: Setup<'_>, parsed: &Parsed) -> Result<(Op, OsString, Reading, bool), UsageError> {
    let is_json = wants_json(parsed, setup)?;
    let start = parsed.last("start-offset").map(|typed| number(typed, "start offset")).transpose()?.unwrap_or(0);
    let len = parsed.last("max-length").map(|typed| number(typed, "max length")).transpose()?;
    parsed.all("object").try_for_each(check_object)?;
    let [name] = parsed.names()[..] else { return Err(UsageError::with_try("Expecting one image file name")) };
    let reading = reading(parsed, &["format"])?;
    let as_qemu_img = setup.mode == Mode::QemuImg;
    Ok((Op::Map(Map { image: LayerId(0), start, len, as_qemu_img }), name.to_owned(), reading, is_json))
}

/// Why nothing more is printed.
enum Stop {
    NoPlace,
    NoReader,
}

/// Prints extents as they come.
struct Printer<'a> {
    terminal: &'a mut Terminal,
    is_json: bool,
    has_begun: bool,
    stop: Option<Stop>,
}

impl Printer<'_> {
    fn take(&mut self, told: &Told<'_>) -> Result<(), Lie> {
        let Frame::Extents(extents) = &told.frame else { return Err(Lie::OutOfPlace) };
        if self.stop.is_some() {
            return Ok(());
        }
        let mut text = String::new();
        if !self.has_begun && !self.is_json {
            text += map::HUMAN_HEAD;
        }
        for extent in extents {
            let path = match extent.at {
                None => b"",
                Some(at) => told.path(at.disk).ok_or(Lie::OutOfPlace)?,
            };
            if self.is_json {
                map::json(extent, !self.has_begun, &mut text);
            } else if let Err(NoPlace) = map::human(extent, path, &mut text) {
                self.stop = Some(Stop::NoPlace);
                break;
            }
            self.has_begun = true;
        }
        if self.terminal.try_print(&text).is_err() {
            self.stop = Some(Stop::NoReader);
        }
        Ok(())
    }

    /// Closes what was begun, whatever has happened.
    fn finish(self, result: Result<(), Failure>) -> ExitCode {
        let closed = match self.is_json && self.has_begun {
            true => self.terminal.print(map::JSON_END),
            false => ExitCode::SUCCESS,
        };
        match (result, self.stop) {
            (Err(failure), _) => self.terminal.fail(&failure),
            (Ok(()), Some(Stop::NoPlace)) => {
                let words = "File contains external, encrypted or compressed clusters.";
                self.terminal.usage("map", &UsageError::alone(words))
            }
            (Ok(()), Some(Stop::NoReader)) => ExitCode::FAILURE,
            (Ok(()), None) => closed,
        }
    }
}
