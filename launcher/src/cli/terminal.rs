//! The two streams a command writes to, and how it ends.
#![forbid(unsafe_code)]

use super::Mode;
use super::grammar::UsageError;
use crate::job::NoEnd;
use crate::job::failure::Failure;
use crate::render::errors::{self, Message};
use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;

/// Standard output, standard error, and the program's name.
pub struct Terminal {
    mode: Mode,
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    watched: bool, // standard error is a terminal
}

impl Terminal {
    /// This process's streams.
    #[must_use]
    pub fn of_process(mode: Mode) -> Self {
        let watched = io::stderr().is_terminal();
        Self { watched, ..Self::new(mode, Box::new(io::stdout()), Box::new(io::stderr())) }
    }

    /// Any streams.
    #[must_use]
    pub fn new(mode: Mode, out: Box<dyn Write>, err: Box<dyn Write>) -> Self {
        Self { mode, out, err, watched: false }
    }

    /// Whether a person may be watching standard error.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// As which program messages are signed.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Writes a result; failing to is a failure without words, as nobody reads any more.
    pub fn print(&mut self, text: &str) -> ExitCode {
        match self.try_print(text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }

    /// Writes a part of a result at once.
    ///
    /// # Errors
    /// The stream's.
    pub fn try_print(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Says what went wrong.
    pub fn say(&mut self, message: &Message) -> ExitCode {
        let mut text = format!("{}: {}\n", self.mode.program(), message.text);
        for line in &message.more {
            text += &format!("{line}\n");
        }
        if let Some(hint) = message.hint.as_ref().filter(|_| self.mode == Mode::Instar) {
            text += &format!("hint: {hint}\n");
        }
        self.tell(&text)
    }

    /// Says how a command line is wrong. `subcommand` is empty before it is known.
    pub fn usage(&mut self, subcommand: &str, error: &UsageError) -> ExitCode {
        let program = self.mode.program();
        let space = if subcommand.is_empty() { "" } else { " " };
        let signed = if error.is_getopts() { format!("{program}{space}{subcommand}") } else { program.to_owned() };
        let mut text = format!("{signed}: {error}\n");
        if error.has_try_line() {
            text += &format!("Try '{program}{space}{subcommand} --help' for more info\n");
        }
        self.tell(&text)
    }

    /// Says why a command failed; the exit code is qemu-img's, or the signal's.
    pub fn fail(&mut self, failure: &Failure) -> ExitCode {
        if let Failure::NoEnd(NoEnd::Stopped(signal)) = failure {
            return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
        }
        match errors::failure(failure) {
            Some(message) => self.say(&message),
            None => ExitCode::FAILURE,
        }
    }

    /// Writes to standard error what is no failure.
    pub(super) fn note(&mut self, text: &str) {
        // Nobody may be reading.
        let _ = self.err.write_all(text.as_bytes());
    }

    /// Writes to standard error; returns failure's exit code, as what is written there mostly is one.
    fn tell(&mut self, text: &str) -> ExitCode {
        // Nobody reads the complaint; the exit code still tells.
        let _ = self.err.write_all(text.as_bytes());
        ExitCode::FAILURE
    }
}
