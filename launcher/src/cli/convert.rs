//! `convert`: copy an image into a new one.
#![forbid(unsafe_code)]

use super::Mode;
use super::convert_grammar::GRAMMAR;
use super::convert_typed::{Typed, target_format};
use super::create_options;
use super::info::image_name;
use super::terminal::Terminal;
use crate::disk::existing::Content;
use crate::gate::policy::{Policy, Sources};
use crate::job::Machine;
use crate::job::convert::{self, News};
use crate::job::failure::Failure;
use crate::job::name::{ImageName, NameError, Reading};
use crate::job::open::path_of;
use crate::job::pipe::is_stdout;
use crate::render::bar::Bar;
use crate::render::progress::{self, Meter};
use crate::vmm::process::take_progress_asked;
use instar_abi::control::SECTOR_LEN;
use instar_abi::format::Format;
use std::ffi::OsString;
use std::process::ExitCode;

pub(super) fn run(mode: Mode, args: &[OsString], machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let parsed = match GRAMMAR.parse(mode, args) {
        Ok(parsed) if parsed.wants_help() => {
            return terminal.print(&super::help::subcommand(mode, "convert", &GRAMMAR));
        }
        Ok(parsed) => parsed,
        Err(error) => return terminal.usage("convert", &error),
    };
    if parsed.all("options").any(create_options::wants_help) {
        return match target_format(parsed.last("output-format")) {
            Ok(format) => terminal.print(&create_options::help(format, !parsed.names().is_empty())),
            Err(error) => terminal.usage("convert", &error),
        };
    }
    let typed = match Typed::new(&parsed) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("convert", &error),
    };
    let shows = match () {
        () if !typed.shows_progress => Shows::Asked,
        () if mode == Mode::Instar && terminal.is_watched() => Shows::Bar(Bar::new()),
        // Standard output has the content.
        () if is_stdout(path_of(typed.target.as_encoded_bytes())) => Shows::LinesOnStderr,
        () => Shows::Lines,
    };
    let warnings_left = if typed.warns { WARNINGS_MAX } else { 0 };
    let mut told = Told { mode, terminal, meter: Meter::default(), shows, warnings_left };
    let result = told.around(|on_news| copy(mode, &typed, machine, on_news));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => terminal.fail(&failure),
    }
}

/// From words to meaning, and on to the job.
fn copy(mode: Mode, typed: &Typed, machine: &mut dyn Machine, on_news: &mut dyn FnMut(News)) -> Result<(), Failure> {
    let source = |name: &OsString| {
        let source = image_name(name, typed.reading, typed.format.as_deref(), typed.shared)?;
        if source.alone {
            let error = NameError::UnsupportedOption { key: "backing".to_owned() };
            return Err(Failure::Name { typed: source.typed, error });
        }
        Ok(source)
    };
    let sources = typed.sources.iter().map(source).collect::<Result<_, _>>()?;
    let (target_path, existing) = target_path(typed)?;
    let meant = convert::Meant {
        sources,
        snapshot: typed.snapshot.clone(),
        target: typed.target.as_encoded_bytes().to_vec(),
        target_path,
        existing,
        format: typed.target_format.clone(),
        top_only: typed.top_only,
        backing: typed.backing.clone(),
        data_file: typed.data_file.clone(),
        preallocation: typed.preallocation,
        sparse_len: typed.sparse_len,
        any_order: typed.any_order,
        salvage: typed.salvage,
        offload: typed.offload,
        rate: typed.rate,
        cache: typed.cache,
        source_cache: typed.source_cache,
        raw_gate: mode.raw_gate(),
        lanes: typed.lanes,
        asked: typed.asked.clone(),
    };
    let policy = || Policy::load(&Sources::of_process(typed.allow.clone()));
    convert::run(&meant, policy, machine, on_news)
}

/// The target's words are read like any others, but they may only say a path.
fn target_path(typed: &Typed) -> Result<(Vec<u8>, Option<Content>), Failure> {
    let words = typed.target.as_encoded_bytes();
    let failed = |error| Failure::Name { typed: words.to_vec(), error };
    let unsupported = |key: &str| Err(failed(NameError::UnsupportedOption { key: key.to_owned() }));
    // A filter of Proxmox's qemu-img that promises zeros.
    let zeros = words.strip_prefix(b"zeroinit:").filter(|_| typed.existing.is_some());
    if words.starts_with(b"json:") {
        return Err(failed(NameError::Protocol { name: b"json".to_vec() }));
    }
    let name = ImageName::parse(zeros.unwrap_or(words), typed.target_reading, None).map_err(failed)?;
    if typed.target_reading == Reading::Options {
        match name.format() {
            Some(Format::Raw) if !name.is_window() => {}
            Some(Format::Qcow2) => {}
            Some(Format::Raw) => return unsupported("offset"),
            Some(format) => return Err(failed(NameError::UnsupportedDriver { name: format.name().into() })),
            // qemu-img guesses, and warns that guessing is dangerous.
            None => return Err(failed(NameError::DriverPlace { name: "" })),
        }
    }
    Ok((name.path, if zeros.is_some() { Some(Content::Zeros) } else { typed.existing }))
}

/// How progress is told.
enum Shows {
    /// As qemu-img does without -p: a line on standard error for every SIGUSR1.
    Asked,
    /// As qemu-img does with it.
    Lines,
    /// The same, on standard error.
    LinesOnStderr,
    /// To a person.
    Bar(Bar),
}

/// What is told while work goes on.
struct Told<'a> {
    mode: Mode,
    terminal: &'a mut Terminal,
    meter: Meter,
    shows: Shows,
    warnings_left: u64,
}

impl Told<'_> {
    /// Writes the start, what `work` tells, and the end.
    fn around<E>(&mut self, work: impl FnOnce(&mut dyn FnMut(News)) -> Result<(), E>) -> Result<(), E> {
        let in_lines = matches!(self.shows, Shows::Lines | Shows::LinesOnStderr);
        if in_lines {
            self.progress(0, 1);
        }
        let result = work(&mut |news| match news {
            News::Progress { done, total } => self.progress(done, total),
            News::Unreadable { offset, len } => self.warn(offset, len),
        });
        if let Shows::Bar(bar) = &self.shows {
            bar.clear();
        }
        if in_lines {
            if result.is_ok() {
                self.write(&progress::line(1, 1));
            }
            self.write("\n");
        }
        result
    }

    fn progress(&mut self, done: u64, total: u64) {
        let asked = take_progress_asked();
        match &self.shows {
            // The line is there anyway.
            Shows::Lines | Shows::LinesOnStderr => {
                if let Some(line) = self.meter.line(done, total) {
                    self.write(&line);
                }
            }
            Shows::Bar(bar) => {
                bar.tell(done, total);
                if asked {
                    bar.aside(|| self.terminal.note(&progress::asked_line(done, total)));
                }
            }
            Shows::Asked if asked => self.terminal.note(&progress::asked_line(done, total)),
            Shows::Asked => {}
        }
    }

    /// qemu-img reads such a stretch again sector by sector, and warns of each.
    fn warn(&mut self, offset: u64, len: u64) {
        let sectors = if self.mode == Mode::QemuImg { len.div_ceil(SECTOR_LEN) } else { 1 };
        for sector in 0..sectors.min(self.warnings_left) {
            let (program, at) = (self.mode.program(), offset.saturating_add(sector * SECTOR_LEN));
            let text = format!("{program}: warning: error while reading offset {at}: Input/output error\n");
            match &self.shows {
                Shows::Bar(bar) => bar.aside(|| self.terminal.note(&text)),
                _ => self.terminal.note(&text),
            }
        }
        self.warnings_left = self.warnings_left.saturating_sub(sectors);
    }

    /// Nobody may be watching; the copy goes on all the same.
    fn write(&mut self, text: &str) {
        if matches!(self.shows, Shows::LinesOnStderr) {
            self.terminal.note(text);
        } else {
            let _ = self.terminal.try_print(text);
        }
    }
}

/// Most warnings of a run, half a GiB of sectors: a stretch is as long as the guest says.
const WARNINGS_MAX: u64 = 1 << 20;
