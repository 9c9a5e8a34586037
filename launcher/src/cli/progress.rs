//! What is told while work goes on.
#![forbid(unsafe_code)]

use super::Mode;
use super::terminal::Terminal;
use crate::job::convert::News;
use crate::render::bar::Bar;
use crate::render::escape::shown;
use crate::render::progress::{self, Meter};
use crate::vmm::process::take_progress_asked;
use instar_abi::control::SECTOR_LEN;

/// How progress is told.
pub(super) enum Shows {
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
pub(super) struct Told<'a> {
    mode: Mode,
    terminal: &'a mut Terminal,
    meter: Meter,
    shows: Shows,
    warnings_left: u64,
    source: &'a [u8],
}

impl Shows {
    /// As the user asked, and as a person can read it.
    pub fn by(mode: Mode, terminal: &Terminal, asked: bool) -> Self {
        match () {
            () if !asked => Self::Asked,
            () if mode == Mode::Instar && terminal.is_watched() => Self::Bar(Bar::new()),
            () => Self::Lines,
        }
    }
}

impl<'a> Told<'a> {
    /// Nothing has been told.
    pub fn new(mode: Mode, terminal: &'a mut Terminal, shows: Shows) -> Self {
        Self { mode, terminal, meter: Meter::default(), shows, warnings_left: 0, source: b"" }
    }

    /// The same, which warns of what can't be read.
    pub fn warning(self) -> Self {
        Self { warnings_left: WARNINGS_MAX, ..self }
    }

    /// The same, which knows what the user calls the source.
    pub fn of(self, source: &'a [u8]) -> Self {
        Self { source, ..self }
    }

    /// Writes the start, what `work` tells, and the end.
    pub fn around<T, E>(&mut self, work: impl FnOnce(&mut dyn FnMut(News)) -> Result<T, E>) -> Result<T, E> {
        let in_lines = matches!(self.shows, Shows::Lines | Shows::LinesOnStderr);
        if in_lines {
            self.progress(0, 1);
        }
        let result = work(&mut |news| match news {
            News::Progress { done, total } => self.progress(done, total),
            News::Unreadable { offset, len } => self.warn(offset, len),
            News::PastEnd => self.terminal.note(&format!(
                "{}: {}: cannot skip to specified offset\n",
                self.mode.program(),
                shown(self.source)
            )),
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
