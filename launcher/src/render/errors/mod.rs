//! Failures to prose, once. qemu-img's words come first where clients match on them.
//!
//! A [`Message`] is a line for stderr, lines that qemu-img adds below it, and a hint that says what the
//! user can do; hints are ours and are left out in compatibility mode.
#![forbid(unsafe_code)]

mod block;
mod guest;
mod host;
mod machine;
mod qcow2;

use super::escape::shown;
use super::report::Lie;
use crate::job::failure::{Failure, NamedError};
use instar_abi::request::NeedKind;

pub use host::{errno_text, policy};
pub use machine::words;

/// What the user reads when a command fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The line, without the program's name before it.
    pub text: String,
    /// Lines of qemu-img's that follow it.
    pub more: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Message {
    /// A line alone.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), more: Vec::new(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same with `before` put before its line.
    fn after(self, before: impl std::fmt::Display) -> Self {
        Self { text: format!("{before}{}", self.text), ..self }
    }
}

/// The words for a failure; `None`: the user has been told already.
#[must_use]
pub fn failure(failure: &Failure) -> Option<Message> {
    Some(match failure {
        Failure::Name { typed, error } => could_not_open(typed, host::name(error)),
        Failure::Open { typed, path, error } => could_not_open(typed, host::open(path, error)),
        Failure::Create { typed, name, making, error } => host::create(typed, name, making, error),
        Failure::Named(failed) => {
            let message = named(failed.kind, &failed.name, failed.path.as_os_str().as_encoded_bytes(), &failed.error);
            let message = match failed.kind {
                NeedKind::Backing => message.after("Could not open backing file: "),
                NeedKind::DataFile | NeedKind::Extent => message,
            };
            could_not_open(&failed.top, below(failed.depth, message))
        }
        Failure::Policy(error) => policy(error),
        Failure::Guest(failed) => guest::error(&failed.names, &failed.error, failed.errno),
        Failure::Parts { typed } => {
            let why = Message::new("its content is in files that it names");
            could_not_open(typed, why.with_hint("-f vmdk says so before it is looked at"))
        }
        Failure::Lie(found) => lie(*found),
        Failure::NoEnd(no_end) => return machine::no_end(no_end),
        Failure::Random(errno) => Message::new(format!("Could not get random numbers: {}", errno_text(*errno))),
        Failure::Keep { typed, errno } => {
            Message::new(format!("Could not put '{}' in its place: {}", shown(typed), errno_text(*errno)))
        }
        // As with any output that is not wanted any more.
        Failure::Deserted => return None,
        Failure::Reserve { typed, format, of_data_file, by_zeros, errno } => {
            let what =
                if *by_zeros { "Could not write zeros for preallocation" } else { "Could not preallocate new data" };
            let nested = match (*format, of_data_file) {
                ("raw", _) => "",
                (_, true) => "Could not resize image: ",
                (_, false) => "Could not resize image: Failed to resize underlying file: ",
            };
            let why = errno_text(*errno);
            Message::new(format!("{}: error while converting {format}: {nested}{what}: {why}", shown(typed)))
        }
        Failure::Finish { typed, errno } => {
            Message::new(format!("{}: error while resizing: {}", shown(typed), errno_text(*errno)))
        }
    })
}

/// qemu-img's first half of every message about an image that does not open.
fn could_not_open(typed: &[u8], why: Message) -> Message {
    why.after(format_args!("Could not open '{}': ", shown(typed)))
}

/// What qemu-img says before a reason that lies `depth` layers below the image it was asked about.
fn below(depth: u32, message: Message) -> Message {
    (0..depth).fold(message, |message, _| message.after("Could not open backing file: "))
}

fn named(kind: NeedKind, name: &[u8], path: &[u8], error: &NamedError) -> Message {
    let what = match kind {
        NeedKind::Backing => "backing file",
        NeedKind::DataFile => "data file",
        NeedKind::Extent => "extent",
    };
    match error {
        NamedError::Refused(refusal) => host::refusal(what, name, path, *refusal),
        NamedError::Format { found } => Message::new(format!("Unknown driver '{}'", shown(found))),
        NamedError::NoFormat => {
            let text = format!("backing file '{}' has no recorded format, and content is not guessed", shown(name));
            Message::new(text).with_hint(
                "record the format: qemu-img rebase -u -b NAME -F FORMAT IMAGE; --qemu-img-compat guesses it",
            )
        }
    }
}

fn lie(lie: Lie) -> Message {
    let what = match lie {
        Lie::SecondImage => "it described two images".to_owned(),
        Lie::OutOfPlace => "it said something out of place".to_owned(),
        Lie::TooMany => "it said more than any image can hold".to_owned(),
        Lie::Depth { found, max } => format!("it sent a fact at depth {found}, where {max} is the most"),
        Lie::Key => "it sent a fact with a key that is none".to_owned(),
        Lie::NoImage => "it described no image".to_owned(),
    };
    broken_guest(&format!("the guest broke the protocol: {what}"))
}

/// A guest that misbehaves has met a bug of ours, or an image that uses one.
fn broken_guest(text: &str) -> Message {
    Message::new(text)
        .with_hint("this is a bug in instar, maybe used on purpose by the image; nothing of its reply was used")
}

#[cfg(test)]
mod tests;
