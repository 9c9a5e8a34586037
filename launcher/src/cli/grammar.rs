//! qemu-img's grammar on top of clap, and getopt's words for what does not fit it.
//!
//! Options may follow arguments, long names may be shortened to any unambiguous beginning, the last
//! of repeated options counts, values may start with a dash.
#![forbid(unsafe_code)]

use super::Mode;
use crate::render::escape::shown;
use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::{OsStr, OsString};
use std::fmt;

/// One option of a subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// What it is called here.
    pub id: &'static str,
    /// Its letter.
    pub short: Option<char>,
    /// Its long names, the one for help first.
    pub long: &'static [&'static str],
    /// What its value is called in help; `None`: it takes none.
    pub value: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
    /// Whether it can be used.
    pub support: Support,
}

/// Whether an option can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Yes.
    Full,
    /// qemu-img has it, this version does not: refused by name.
    NotYet,
    /// Only instar has it; in compatibility mode it is unknown.
    Ours,
}

/// How a command line is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageError {
    /// Nothing but the program.
    NoCommand,
    /// A subcommand that nobody knows.
    NoSuchCommand {
        /// What was typed.
        found: OsString,
    },
    /// qemu-img has it, this version does not.
    NotYet {
        /// What it is.
        what: String,
    },
    /// A letter that is no option.
    UnknownShort {
        /// The letter.
        found: char,
    },
    /// A long option that does not exist.
    UnknownLong {
        /// As typed.
        found: String,
    },
    /// The beginning of several long options.
    Ambiguous {
        /// As typed.
        found: String,
        /// The options.
        candidates: Vec<&'static str>,
    },
    /// An option without its value.
    ValueMissing {
        /// Its letter, or its full long name.
        option: Result<char, String>,
    },
    /// A value for an option that takes none.
    NoValue {
        /// The option's full long name.
        option: String,
    },
    /// Anything else, in qemu-img's own words.
    Words {
        /// The words.
        text: String,
        /// `Try … --help` follows.
        try_line: bool,
    },
}

impl UsageError {
    /// qemu-img's words, with the line that points to help.
    #[must_use]
    pub fn with_try(text: impl Into<String>) -> Self {
        Self::Words { text: text.into(), try_line: true }
    }

    /// qemu-img's words alone.
    #[must_use]
    pub fn alone(text: impl Into<String>) -> Self {
        Self::Words { text: text.into(), try_line: false }
    }

    /// Whether the words are getopt's, which signs with program and subcommand.
    #[must_use]
    pub const fn is_getopts(&self) -> bool {
        matches!(
            self,
            Self::UnknownShort { .. }
                | Self::UnknownLong { .. }
                | Self::Ambiguous { .. }
                | Self::ValueMissing { .. }
                | Self::NoValue { .. }
        )
    }

    /// Whether a line that points to help follows.
    #[must_use]
    pub const fn has_try_line(&self) -> bool {
        !matches!(self, Self::Words { try_line: false, .. } | Self::NotYet { .. })
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommand => f.write_str("Not enough arguments"),
            Self::NoSuchCommand { found } => write!(f, "Command not found: {}", shown(found.as_encoded_bytes())),
            Self::NotYet { what } => write!(f, "not supported yet by this version: {what}"),
            Self::UnknownShort { found } => write!(f, "invalid option -- '{}'", shown(found.to_string().as_bytes())),
            Self::UnknownLong { found } => write!(f, "unrecognized option '{}'", shown(found.as_bytes())),
            Self::Ambiguous { found, candidates } => {
                write!(f, "option '{}' is ambiguous; possibilities:", shown(found.as_bytes()))?;
                candidates.iter().try_for_each(|candidate| write!(f, " '--{candidate}'"))
            }
            Self::ValueMissing { option: Ok(short) } => write!(f, "option requires an argument -- '{short}'"),
            Self::ValueMissing { option: Err(long) } => write!(f, "option '--{long}' requires an argument"),
            Self::NoValue { option } => write!(f, "option '--{option}' doesn't allow an argument"),
            Self::Words { text, .. } => f.write_str(text),
        }
    }
}

/// The grammar of one subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Grammar {
    /// Its options, `--help` apart.
    pub options: &'static [Opt],
    /// What its arguments are called in help.
    pub arguments: &'static str,
    /// What it does, one line.
    pub about: &'static str,
}

/// What was typed.
#[derive(Clone, Debug)]
pub struct Parsed(ArgMatches);

const NAMES: &str = "\0names"; // the arguments; no option is called so
const HELP: &str = "\0help";

impl Grammar {
    /// Reads what was typed after the subcommand.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn parse(&self, mode: Mode, args: &[OsString]) -> Result<Parsed, UsageError> {
        let options = self.options.iter().filter(|option| option.support != Support::Ours || mode == Mode::Instar);
        let mut command = Command::new("")
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .infer_long_args(true)
            .arg(Arg::new(HELP).short('h').long("help").action(ArgAction::Count))
            .arg(Arg::new(NAMES).num_args(0..).action(ArgAction::Append).value_parser(ValueParser::os_string()));
        for option in options.clone() {
            command = command.arg(option.arg());
        }
        let parsed = command.try_get_matches_from(args).map(Parsed);
        let parsed = parsed.map_err(|error| words(&error, options.clone().collect::<Vec<_>>().as_slice(), args))?;
        if let Some(option) = options.clone().find(|option| option.support == Support::NotYet && parsed.given(option)) {
            let name = option.short.map_or_else(|| format!("--{}", option.long[0]), |short| format!("-{short}"));
            return Err(UsageError::NotYet { what: format!("option '{name}'") });
        }
        Ok(parsed)
    }
}

impl Opt {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.id).short(self.short);
        let arg = match self.long {
            [] => arg,
            [first, rest @ ..] => arg.long(first).aliases(rest.iter().copied()),
        };
        match self.value {
            None => arg.action(ArgAction::Count),
            Some(_) => arg
                .num_args(1)
                .allow_hyphen_values(true)
                .action(ArgAction::Append)
                .value_parser(ValueParser::os_string()),
        }
    }
}

impl Parsed {
    /// Whether help was asked for.
    #[must_use]
    pub fn wants_help(&self) -> bool {
        self.0.get_count(HELP) > 0
    }

    /// Whether an option without a value was given; never one that this mode does not have.
    #[must_use]
    pub fn flag(&self, id: &str) -> bool {
        self.0.try_get_one::<u8>(id).is_ok_and(|count| count.is_some_and(|count| *count > 0))
    }

    /// The last value of an option.
    #[must_use]
    pub fn last(&self, id: &str) -> Option<&OsStr> {
        self.all(id).last()
    }

    /// All values of an option, in order.
    pub fn all(&self, id: &str) -> impl Iterator<Item = &OsStr> {
        // An option of ours is no option at all in compatibility mode.
        let values = self.0.try_get_many::<OsString>(id).ok().flatten();
        values.into_iter().flatten().map(OsString::as_os_str)
    }

    /// The arguments.
    #[must_use]
    pub fn names(&self) -> Vec<&OsStr> {
        self.all(NAMES).collect()
    }

    fn given(&self, option: &Opt) -> bool {
        if option.value.is_some() { self.last(option.id).is_some() } else { self.flag(option.id) }
    }
}

/// clap's error in getopt's words.
fn words(error: &clap::Error, options: &[&Opt], args: &[OsString]) -> UsageError {
    let context = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => missing(options, args),
        ErrorKind::TooManyValues => {
            // clap shows an option that may be repeated with dots.
            let name = context.trim_start_matches('-').split([' ', '=', '.']).next().unwrap_or_default();
            UsageError::NoValue { option: name.to_owned() }
        }
        _ => unknown(&context, options, args),
    }
}

/// A value can only be missing from the last word: any other is followed by what is then its value.
fn missing(options: &[&Opt], args: &[OsString]) -> UsageError {
    let last = args.last().map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
    let option = match last.strip_prefix("--") {
        Some(typed) => Err(beginning_with(options, typed).first().map_or(typed, |full| *full).to_owned()),
        None => Ok(last.chars().last().unwrap_or_default()),
    };
    UsageError::ValueMissing { option }
}

fn unknown(context: &str, options: &[&Opt], args: &[OsString]) -> UsageError {
    if let Some(typed) = context.strip_prefix("--") {
        let candidates = beginning_with(options, typed);
        // getopt repeats the whole word, with its value.
        let found = args.iter().map(|arg| arg.to_string_lossy().into_owned());
        let whole = found.into_iter().find(|arg| arg == context || arg.starts_with(&format!("{context}=")));
        let found = whole.unwrap_or_else(|| context.to_owned());
        return if candidates.len() > 1 {
            UsageError::Ambiguous { found, candidates }
        } else {
            UsageError::UnknownLong { found }
        };
    }
    UsageError::UnknownShort { found: context.chars().nth(1).unwrap_or('-') }
}

/// The long names that start like this, as declared.
fn beginning_with(options: &[&Opt], typed: &str) -> Vec<&'static str> {
    let typed = typed.split('=').next().unwrap_or_default();
    let names = options.iter().flat_map(|option| option.long.iter().copied()).chain(["help"]);
    names.filter(|name| name.starts_with(typed)).collect()
}
