//! `measure`: tell how large a new image would be.
#![forbid(unsafe_code)]

use super::Setup;
use super::convert_typed::snapshot;
use super::create_options::Given;
use super::grammar::{Grammar, Opt, Parsed, Support, UsageError};
use super::image_options::{
    ALLOW_BACKING, FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, OUTPUT, check_object, image_name, number, policy, reading,
    wants_json,
};
use super::luks_options;
use super::terminal::Terminal;
use crate::disk::bytes::CacheMode;
use crate::job::Machine;
use crate::job::name::Reading;
use crate::job::read;
use crate::job::reserve::Preallocation;
use crate::render::escape::shown;
use crate::render::json::{Layout, to_text};
use crate::render::qdict::{QDict, Value};
use crate::render::report::Lie;
use instar_abi::format::Format;
use instar_abi::reply::{Frame, Measured};
use instar_abi::request::{
    LayerId, Measure, MeasuredContent, NewBacking, Op, Qcow2Options, SnapshotName, TargetFormat,
};
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

pub(super) const GRAMMAR: Grammar = Grammar {
    about: "Tell how large a new image would be.",
    arguments: "(--size SIZE | FILENAME)",
    options: &[
        Opt {
            id: "output-format",
            short: Some('O'),
            long: &["target-format"],
            value: Some("FMT"),
            help: "format of the new image: raw (default), qcow2 or luks",
            support: Support::Full,
        },
        Opt {
            id: "options",
            short: Some('o'),
            long: &["options"],
            value: Some("OPTIONS"),
            help: "options of the new image; -o help lists them",
            support: Support::Full,
        },
        Opt {
            id: "size",
            short: None,
            long: &["size"],
            value: Some("SIZE"),
            help: "measure a new image of this virtual size",
            support: Support::Full,
        },
        FORMAT,
        IMAGE_OPTS,
        Opt {
            id: "snapshot",
            short: Some('l'),
            long: &["snapshot"],
            value: Some("SNAPSHOT"),
            help: "measure this internal snapshot of FILENAME",
            support: Support::Full,
        },
        OUTPUT,
        FORCE_SHARE,
        OBJECT,
        ALLOW_BACKING,
    ],
};

/// What was typed, held against itself.
struct Typed {
    content: Content,
    target: TargetFormat,
    luks_key_len: u32,
    is_preallocated: bool,
    is_json: bool,
}

enum Content {
    Size(u64),
    Image { name: OsString, reading: Reading, snapshot: Option<SnapshotName> },
}

pub(super) fn run(setup: Setup<'_>, parsed: &Parsed, machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let typed = match Typed::new(parsed, setup) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("measure", &error),
    };
    let (content, images) = match typed.content {
        Content::Size(size) => (MeasuredContent::Size(size), Vec::new()),
        Content::Image { name, reading, snapshot } => {
            let format = parsed.last("format");
            match image_name(&name, reading, format, parsed.flag("force-share")) {
                Ok(name) => (MeasuredContent::Image { image: LayerId(0), snapshot }, vec![name]),
                Err(failure) => return terminal.fail(&failure),
            }
        }
    };
    let measure = Measure {
        content,
        target: typed.target,
        luks_key_len: typed.luks_key_len,
        is_preallocated: typed.is_preallocated,
    };
    let (op, cache, raw_gate) = (Op::Measure(measure), CacheMode::Writeback, setup.raw_gate());
    let meant = read::Meant { op, images, cache, raw_gate, lanes: 1 };
    let mut measured = None;
    let result = read::run(&meant, policy(parsed, setup), machine, &mut |told| match told.frame {
        Frame::Measured(found) if measured.is_none() => {
            measured = Some(found);
            Ok(())
        }
        _ => Err(Lie::OutOfPlace),
    });
    match (result, measured) {
        (Err(failure), _) => terminal.fail(&failure),
        (Ok(()), Some(measured)) => terminal.print(&text(&measured, typed.is_json)),
        (Ok(()), None) => terminal.fail(&crate::job::failure::Failure::Lie(Lie::OutOfPlace)),
    }
}

impl Typed {
    fn new(parsed: &Parsed, setup: Setup<'_>) -> Result<Self, UsageError> {
        let alone = |words: &str| Err(UsageError::alone(words));
        let is_json = wants_json(parsed, setup)?;
        let size = parsed.last("size").map(|typed| number(typed, "image size")).transpose()?;
        parsed.all("object").try_for_each(check_object)?;
        let snapshot = parsed.last("snapshot").map(snapshot).transpose()?;
        let names = parsed.names();
        let content = match (names.as_slice(), size) {
            ([], _) if parsed.flag("image-opts") || parsed.last("format").is_some() || snapshot.is_some() => {
                return alone("--image-opts, -f, and -l require a filename argument.");
            }
            ([], Some(size)) => Content::Size(size),
            ([_], Some(_)) => return alone("--size N cannot be used together with a filename."),
            ([name], None) => {
                let reading = reading(parsed, &["format"])?;
                Content::Image { name: (*name).to_owned(), reading, snapshot }
            }
            ([], None) => return alone("Either --size N or one filename must be specified."),
            _ => return alone("At most one filename argument is allowed."),
        };
        let (target, luks_key_len, is_preallocated) = target(parsed)?;
        Ok(Self { content, target, luks_key_len, is_preallocated, is_json })
    }
}

/// What is wrong with the options of a format, and that they are its.
fn in_format(error: UsageError, format: Format) -> UsageError {
    match error {
        UsageError::Words { text, try_line } if !text.contains(" is unexpected") => {
            let text = format!("{text}\nqemu-img: Invalid options for file format '{}'", format.name());
            UsageError::Words { text, try_line }
        }
        error => error,
    }
}

/// qemu-img's words speak of options as they are typed here, and elsewhere of the fields they become.
fn words(text: &str) -> UsageError {
    let text = match text.strip_prefix("Parameter 'preallocation' does not accept value '") {
        Some(value) => format!("invalid parameter value: {}", value.trim_end_matches('\'')),
        None => text.replace("(use version=v3 or greater)", "(use compat=1.1 or greater)"),
    };
    UsageError::alone(text.replace("Parameter 'version' does not accept value", "Invalid compatibility level:"))
}

/// The new image's format, and whether all of it is allocated when it is made.
fn target(parsed: &Parsed) -> Result<(TargetFormat, u32, bool), UsageError> {
    let name = parsed.last("output-format").map_or(b"raw".as_slice(), OsStr::as_encoded_bytes);
    let format = match Format::from_name(name) {
        Some(format @ (Format::Raw | Format::Qcow2)) => format,
        Some(Format::Luks) => {
            let given = luks_options::given(parsed).map_err(|error| in_format(error, Format::Luks))?;
            return Ok((TargetFormat::Raw, luks_options::key_len(parsed, "", &given)?, false));
        }
        Some(format) if format != Format::Iso => {
            let text = format!("Block driver '{}' does not support size measurement", format.name());
            return Err(UsageError::alone(text));
        }
        _ => return Err(UsageError::alone(format!("Unknown file format '{}'", shown(name)))),
    };
    let mut given = Given::default();
    for list in parsed.all("options") {
        given.add(list, format).map_err(|error| in_format(error, format))?;
    }
    let is_full = matches!(given.preallocation(format, words)?, Preallocation::Falloc | Preallocation::Full);
    if format == Format::Raw {
        return Ok((TargetFormat::Raw, 0, is_full));
    }
    let luks_key_len = match given.encryption() {
        Some(b"luks") => luks_options::key_len(parsed, "encrypt.", given.all())?,
        _ => 0,
    };
    let (file, _) = given.backing();
    let options = given.qcow2(file.is_some(), words)?;
    // Nobody opens it: that there is one counts.
    let backing = file.map(|name| NewBacking { name: name.to_vec(), format: Vec::new(), layer: LayerId(0) });
    Ok((TargetFormat::Qcow2(Qcow2Options { backing, ..options }), luks_key_len, is_full))
}

fn text(measured: &Measured, is_json: bool) -> String {
    let Measured { required, fully_allocated, bitmaps } = *measured;
    if is_json {
        // QEMU's type for it: what is rounded up from 63 bits becomes negative.
        let number = |len: u64| Value::Number(len.cast_signed().into());
        let mut dict: QDict =
            [("required", number(required)), ("fully-allocated", number(fully_allocated))].into_iter().collect();
        if let Some(len) = bitmaps {
            dict.put("bitmaps", len.into());
        }
        return to_text(&Value::Object(dict), Layout::Pretty) + "\n";
    }
    let mut text = format!("required size: {required}\nfully allocated size: {fully_allocated}\n");
    if let Some(len) = bitmaps {
        text += &format!("bitmaps size: {len}\n");
    }
    text
}
