//! `convert`: copy an image into a new one.
#![forbid(unsafe_code)]

use super::Mode;
use super::grammar::{Grammar, Opt, Parsed, Support, UsageError};
use super::info::{ALLOW_BACKING, check_object, image_name};
use super::terminal::Terminal;
use crate::gate::policy::{Policy, Sources};
use crate::job::failure::Failure;
use crate::job::limits::{SPARSE_LEN, SPARSE_LEN_MAX};
use crate::job::name::{ImageName, NameError, Reading};
use crate::job::{Machine, convert, size};
use crate::render::escape::shown;
use crate::render::progress::{self, Meter};
use instar_abi::layout::LANES_MAX;
use instar_abi::request::{Qcow2Options, TargetFormat};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) const GRAMMAR: Grammar = Grammar {
    about: "Copy an image, its chain flattened, into a new one.",
    arguments: "SOURCE TARGET",
    options: &[
        Opt {
            id: "format",
            short: Some('f'),
            long: &["source-format"],
            value: Some("FMT"),
            help: "format of the source; without it, its content tells",
            support: Support::Full,
        },
        Opt {
            id: "output-format",
            short: Some('O'),
            long: &["output-format"],
            value: Some("FMT"),
            help: "format of the target: raw (default) or qcow2",
            support: Support::Full,
        },
        Opt { id: "progress", short: Some('p'), long: &[], value: None, help: "show progress", support: Support::Full },
        Opt {
            id: "quiet",
            short: Some('q'),
            long: &["quiet"],
            value: None,
            help: "print nothing but errors",
            support: Support::Full,
        },
        Opt {
            id: "sparse-size",
            short: Some('S'),
            long: &["sparse-size"],
            value: Some("SIZE"),
            help: "zero runs of this length become holes (default 4k, 0: none do)",
            support: Support::Full,
        },
        Opt {
            id: "image-opts",
            short: None,
            long: &["source-image-opts", "image-opts"],
            value: None,
            help: "the source is an option string: driver=qcow2,file.filename=x",
            support: Support::Full,
        },
        Opt {
            id: "force-share",
            short: Some('U'),
            long: &["force-share"],
            value: None,
            help: "open also what another process is writing",
            support: Support::Full,
        },
        Opt {
            id: "cache",
            short: Some('t'),
            long: &["output-cache"],
            value: Some("CACHE"),
            help: "cache mode of the target: unsafe (default) or any of qemu-img's, which all mean durable",
            support: Support::Full,
        },
        Opt {
            id: "source-cache",
            short: Some('T'),
            long: &["source-cache"],
            value: Some("CACHE"),
            help: "cache mode of the source: any of qemu-img's, without effect",
            support: Support::Full,
        },
        Opt {
            id: "parallel",
            short: Some('m'),
            long: &["parallel"],
            value: Some("N"),
            help: "lanes of the guest, 1 to 16 (default: one a core; at most 8 are used)",
            support: Support::Full,
        },
        Opt {
            id: "oob-writes",
            short: Some('W'),
            long: &["oob-writes"],
            value: None,
            help: "without effect: writes go as they come",
            support: Support::Full,
        },
        Opt {
            id: "object",
            short: None,
            long: &["object"],
            value: Some("DEF"),
            help: "define a secret; nothing in this version uses one",
            support: Support::Full,
        },
        Opt {
            id: "options",
            short: Some('o'),
            long: &["options"],
            value: Some("OPTIONS"),
            help: "",
            support: Support::NotYet,
        },
        Opt {
            id: "backing",
            short: Some('B'),
            long: &["backing"],
            value: Some("FILENAME"),
            help: "",
            support: Support::NotYet,
        },
        Opt {
            id: "backing-format",
            short: Some('F'),
            long: &["backing-format"],
            value: Some("FMT"),
            help: "",
            support: Support::NotYet,
        },
        Opt { id: "compress", short: Some('c'), long: &[], value: None, help: "", support: Support::NotYet },
        Opt { id: "no-create", short: Some('n'), long: &[], value: None, help: "", support: Support::NotYet },
        Opt {
            id: "target-is-zero",
            short: None,
            long: &["target-is-zero"],
            value: None,
            help: "",
            support: Support::NotYet,
        },
        Opt {
            id: "target-image-opts",
            short: None,
            long: &["target-image-opts"],
            value: None,
            help: "",
            support: Support::NotYet,
        },
        Opt {
            id: "snapshot",
            short: Some('l'),
            long: &["snapshot"],
            value: Some("SNAPSHOT"),
            help: "",
            support: Support::NotYet,
        },
        Opt { id: "bitmaps", short: None, long: &["bitmaps"], value: None, help: "", support: Support::NotYet },
        Opt {
            id: "skip-broken-bitmaps",
            short: None,
            long: &["skip-broken-bitmaps"],
            value: None,
            help: "",
            support: Support::NotYet,
        },
        Opt { id: "rate", short: Some('r'), long: &["rate"], value: Some("RATE"), help: "", support: Support::NotYet },
        Opt {
            id: "copy-range",
            short: Some('C'),
            long: &["copy-range-offloading"],
            value: None,
            help: "",
            support: Support::NotYet,
        },
        Opt { id: "salvage", short: None, long: &["salvage"], value: None, help: "", support: Support::NotYet },
        ALLOW_BACKING,
    ],
};

/// What was typed.
struct Typed {
    source: OsString,
    target: OsString,
    reading: Reading,
    format: Option<OsString>,
    target_format: TargetFormat,
    sparse_len: u32,
    shared: bool,
    durable: bool,
    lanes: u8,
    shows_progress: bool,
    allow: Vec<PathBuf>,
}

pub(super) fn run(mode: Mode, args: &[OsString], machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let parsed = match GRAMMAR.parse(mode, args) {
        Ok(parsed) if parsed.wants_help() => {
            return terminal.print(&super::help::subcommand(mode, "convert", &GRAMMAR));
        }
        Ok(parsed) => parsed,
        Err(error) => return terminal.usage("convert", &error),
    };
    let typed = match Typed::new(&parsed) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("convert", &error),
    };
    let mut meter = Progress { terminal, meter: Meter::default(), shows: typed.shows_progress };
    let result = meter.around(|on_progress| copy(mode, &typed, machine, on_progress));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => terminal.fail(&failure),
    }
}

impl Typed {
    fn new(parsed: &Parsed) -> Result<Self, UsageError> {
        let sparse_len = parsed.last("sparse-size").map_or(Ok(SPARSE_LEN), sparse_len)?;
        let lanes = parsed.last("parallel").map_or_else(|| Ok(lanes()), parallel)?;
        parsed.all("object").try_for_each(check_object)?;
        let (source, target) = match parsed.names()[..] {
            [source, target] => (source.to_owned(), target.to_owned()),
            [_, _, _, ..] => return Err(UsageError::NotYet { what: "several sources".to_owned() }),
            _ => return Err(UsageError::alone("Must specify image file name")),
        };
        let format = parsed.last("format").map(OsStr::to_owned);
        let image_opts = parsed.flag("image-opts");
        if format.is_some() && image_opts {
            return Err(UsageError::alone("--image-opts and --format are mutually exclusive"));
        }
        let target_format = target_format(parsed.last("output-format"))?;
        let cache = parsed.last("cache").map_or("unsafe".into(), |mode| mode.to_string_lossy());
        if !is_cache_mode(&cache) {
            return Err(UsageError::alone(format!("Invalid cache option: {}", shown(cache.as_bytes()))));
        }
        let source_cache = parsed.last("source-cache").map_or("writeback".into(), |mode| mode.to_string_lossy());
        if !is_cache_mode(&source_cache) {
            let words = format!("Invalid source cache option: {}", shown(source_cache.as_bytes()));
            return Err(UsageError::alone(words));
        }
        Ok(Self {
            source,
            target,
            reading: if image_opts { Reading::Options } else { Reading::Name },
            format,
            target_format,
            sparse_len,
            shared: parsed.flag("force-share"),
            durable: cache != "unsafe",
            lanes,
            shows_progress: parsed.flag("progress") && !parsed.flag("quiet"),
            allow: parsed.all("allow-backing").map(PathBuf::from).collect(),
        })
    }
}

fn sparse_len(typed: &OsStr) -> Result<u32, UsageError> {
    let typed = typed.as_encoded_bytes();
    let Some(len) = size::parse(typed) else {
        let words = format!("Invalid buffer size for sparse output specified: '{}'.", shown(typed));
        return Err(UsageError::alone(words));
    };
    let fits = u32::try_from(len).ok().filter(|len| len.is_multiple_of(512) && *len <= SPARSE_LEN_MAX);
    fits.ok_or_else(|| {
        UsageError::alone(format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to \
             {SPARSE_LEN_MAX}. Select 0 to disable sparse detection (fully allocates output)."
        ))
    })
}

fn parallel(typed: &OsStr) -> Result<u8, UsageError> {
    let text = typed.to_string_lossy();
    match text.parse::<i64>() {
        Ok(count @ 1..=16) => Ok(u8::try_from(count).map_or(1, |count| count.min(MOST_LANES))),
        Ok(_) => Err(UsageError::alone("Invalid number of coroutines specified. Must be between 1 and 16.")),
        Err(_) => {
            let words = format!("Invalid number of coroutines specified: '{}'.", shown(text.as_bytes()));
            Err(UsageError::alone(words))
        }
    }
}

fn target_format(typed: Option<&OsStr>) -> Result<TargetFormat, UsageError> {
    match typed.map(OsStr::as_encoded_bytes) {
        None | Some(b"raw") => Ok(TargetFormat::Raw),
        Some(b"qcow2") => Ok(TargetFormat::Qcow2(Qcow2Options::default())),
        Some(name) => match instar_abi::format::Format::from_name(name) {
            Some(format) => Err(UsageError::NotYet { what: format!("target format '{}'", format.name()) }),
            None => Err(UsageError::alone(format!("Unknown file format '{}'", shown(name)))),
        },
    }
}

fn is_cache_mode(mode: &str) -> bool {
    ["none", "off", "writeback", "writethrough", "directsync", "unsafe"].contains(&mode)
}

fn copy(
    mode: Mode,
    typed: &Typed,
    machine: &mut dyn Machine,
    on_progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Failure> {
    let source = image_name(&typed.source, typed.reading, typed.format.as_deref(), typed.shared)?;
    if source.alone {
        let error = NameError::UnsupportedOption { key: "backing".to_owned() };
        return Err(Failure::Name { typed: source.typed, error });
    }
    // The target's words are read like any others, but they may only say a path.
    let target = ImageName::parse(typed.target.as_encoded_bytes(), Reading::Name, None);
    let target = match target {
        Ok(target) if !typed.target.as_encoded_bytes().starts_with(b"json:") => target,
        Ok(_) => return Err(target_failure(typed, NameError::Protocol { name: b"json".to_vec() })),
        Err(error) => return Err(target_failure(typed, error)),
    };
    let meant = convert::Meant {
        source,
        target: typed.target.as_encoded_bytes().to_vec(),
        target_path: target.path,
        format: typed.target_format.clone(),
        sparse_len: typed.sparse_len,
        durable: typed.durable,
        raw_gate: mode.raw_gate(),
        lanes: typed.lanes,
    };
    let policy = || Policy::load(&Sources::of_process(typed.allow.clone()));
    convert::run(&meant, policy, machine, on_progress)
}

fn target_failure(typed: &Typed, error: NameError) -> Failure {
    Failure::Name { typed: typed.target.as_encoded_bytes().to_vec(), error }
}

/// One lane a core, as many as a guest can have.
fn lanes() -> u8 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u8::try_from(cores).map_or(MOST_LANES, |cores| cores.min(MOST_LANES))
}

const MOST_LANES: u8 = LANES_MAX as u8;

/// Progress on the terminal, as qemu-img writes it.
struct Progress<'a> {
    terminal: &'a mut Terminal,
    meter: Meter,
    shows: bool,
}

impl Progress<'_> {
    /// Writes the start, what `work` tells, and the end.
    fn around<E>(&mut self, work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<(), E>) -> Result<(), E> {
        if !self.shows {
            return work(&mut |_, _| {});
        }
        self.tell(0, 1);
        let result = work(&mut |done, total| self.tell(done, total));
        if result.is_ok() {
            self.write(&progress::line(1, 1));
        }
        self.write("\n");
        result
    }

    fn tell(&mut self, done: u64, total: u64) {
        if let Some(line) = self.meter.line(done, total) {
            self.write(&line);
        }
    }

    /// Nobody may be watching; the copy goes on all the same.
    fn write(&mut self, text: &str) {
        let _ = self.terminal.try_print(text);
    }
}
