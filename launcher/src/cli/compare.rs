//! `compare`: tell whether two images have the same content.
#![forbid(unsafe_code)]

use super::Setup;
use super::grammar::{Grammar, Opt, Parsed, Support, UsageError};
use super::image_options::{
    ALLOW_BACKING, FORCE_SHARE, IMAGE_OPTS, OBJECT, QUIET, SOURCE_CACHE, check_object, image_name, lanes, policy,
    reading, source_cache,
};
use super::progress::{Shows, Told as Telling};
use super::terminal::Terminal;
use crate::disk::bytes::CacheMode;
use crate::job::Machine;
use crate::job::convert::News;
use crate::job::failure::Failure;
use crate::job::name::{ImageName, Reading};
use crate::job::read;
use crate::render::report::Lie;
use instar_abi::error::Error;
use instar_abi::reply::{Compared, Difference, Frame};
use instar_abi::request::{Compare, LayerId, Op};
use std::ffi::OsString;
use std::process::ExitCode;

pub(super) const GRAMMAR: Grammar = Grammar {
    about: "Tell whether two images have the same content.",
    arguments: "FILENAME1 FILENAME2",
    options: &[
        Opt {
            id: "left-format",
            short: Some('f'),
            long: &["a-format", "left-format"],
            value: Some("FMT"),
            help: "format of the first image; without it, its content tells",
            support: Support::Full,
        },
        Opt {
            id: "right-format",
            short: Some('F'),
            long: &["b-format", "right-format"],
            value: Some("FMT"),
            help: "format of the second image",
            support: Support::Full,
        },
        IMAGE_OPTS,
        Opt {
            id: "strict",
            short: Some('s'),
            long: &["strict"],
            value: None,
            help: "sizes and allocation must agree as well",
            support: Support::Full,
        },
        Opt {
            id: "progress",
            short: Some('p'),
            long: &["progress"],
            value: None,
            help: "show progress",
            support: Support::Full,
        },
        QUIET,
        SOURCE_CACHE,
        FORCE_SHARE,
        OBJECT,
        ALLOW_BACKING,
    ],
};

/// What compare exits with where it does not come to an answer.
mod exit {
    /// The images differ.
    pub const DIFFERENT: u8 = 1;
    /// An image can't be opened.
    pub const OPEN: u8 = 2;
    /// It can't be told where its content is.
    pub const STATUS: u8 = 3;
    /// Its content can't be read.
    pub const CONTENT: u8 = 4;
}

pub(super) fn run(setup: Setup<'_>, parsed: &Parsed, machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let mode = setup.mode;
    let (names, reading, cache) = match typed(parsed) {
        Ok(typed) => typed,
        Err(Wrong::Words(error)) => return terminal.usage("compare", &error),
        Err(Wrong::Opening(error)) => {
            terminal.usage("compare", &error);
            return ExitCode::from(exit::OPEN);
        }
    };
    let shows = Shows::by(mode, terminal, parsed.flag("progress") && !parsed.flag("quiet"));
    let mut telling = Telling::new(mode, terminal, shows);
    let result = telling.around(|on_news| {
        let images = images(parsed, &names, reading)?;
        let op = Op::Compare(Compare { left: LayerId(0), right: LayerId(1), is_strict: parsed.flag("strict") });
        let meant = read::Meant { op, images, cache, raw_gate: setup.raw_gate(), lanes: lanes() };
        let mut compared = None;
        read::run(&meant, policy(parsed, setup), machine, &mut |told| match told.frame {
            Frame::Compared(found) if compared.is_none() => {
                compared = Some(found);
                Ok(())
            }
            Frame::Progress { done, total } => {
                on_news(News::Progress { done, total });
                Ok(())
            }
            _ => Err(Lie::OutOfPlace),
        })?;
        compared.ok_or(Failure::Lie(Lie::OutOfPlace))
    });
    match result {
        Ok(compared) => tell(&compared, parsed.flag("quiet"), terminal),
        Err(failure) => {
            let said = terminal.fail(&failure);
            code(&failure).map_or(said, ExitCode::from)
        }
    }
}

/// What is wrong with a command line.
enum Wrong {
    Words(UsageError),
    /// What qemu-img looks at when it opens the images.
    Opening(UsageError),
}

impl From<UsageError> for Wrong {
    fn from(error: UsageError) -> Self {
        Self::Words(error)
    }
}

fn typed(parsed: &Parsed) -> Result<([OsString; 2], Reading, CacheMode), Wrong> {
    parsed.all("object").try_for_each(check_object)?;
    let [left, right] = parsed.names()[..] else {
        return Err(UsageError::with_try("Expecting two image file names").into());
    };
    let reading = reading(parsed, &["left-format"]).map_err(Wrong::Opening)?;
    Ok(([left.to_owned(), right.to_owned()], reading, source_cache(parsed).map_err(Wrong::Opening)?))
}

fn images(parsed: &Parsed, names: &[OsString; 2], reading: Reading) -> Result<Vec<ImageName>, Failure> {
    let formats = [parsed.last("left-format"), parsed.last("right-format")];
    let shared = parsed.flag("force-share");
    names.iter().zip(formats).map(|(name, format)| image_name(name, reading, format, shared)).collect()
}

/// The exit code of a failure; `None`: a signal's.
fn code(failure: &Failure) -> Option<u8> {
    match failure {
        Failure::NoEnd(crate::job::NoEnd::Stopped(_)) => None,
        Failure::Guest(failed) => Some(match &failed.error {
            Error::Compare { is_content: true, .. } => exit::CONTENT,
            Error::Compare { is_content: false, .. } => exit::STATUS,
            _ => exit::OPEN,
        }),
        _ => Some(exit::OPEN),
    }
}

fn tell(compared: &Compared, is_quiet: bool, terminal: &mut Terminal) -> ExitCode {
    let mut text = String::new();
    if compared.past_common {
        text += "Warning: Image size mismatch!\n";
    }
    text += &match compared.difference {
        None => "Images are identical.\n".to_owned(),
        Some(Difference::Size) => "Strict mode: Image size mismatch!\n".to_owned(),
        Some(Difference::Allocation(at)) => format!("Strict mode: Offset {at} block status mismatch!\n"),
        Some(Difference::Content(at)) => format!("Content mismatch at offset {at}!\n"),
    };
    let printed = if is_quiet { ExitCode::SUCCESS } else { terminal.print(&text) };
    if compared.difference.is_some() { ExitCode::from(exit::DIFFERENT) } else { printed }
}
