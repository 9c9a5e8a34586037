//! What several subcommands have in common: options about images, and what their values mean.
#![forbid(unsafe_code)]

use super::Setup;
use super::grammar::{Opt, Parsed, Support, UsageError};
use crate::disk::bytes::CacheMode;
use crate::gate::policy::{Policy, PolicyError};
use crate::job::failure::Failure;
use crate::job::name::{ImageName, Reading, format_of};
use crate::job::size;
use crate::render::escape::shown;
use instar_abi::layout::LANES_MAX;
use std::ffi::OsStr;
use std::path::PathBuf;

/// The option that takes no locks.
pub(super) const FORCE_SHARE: Opt = Opt {
    id: "force-share",
    short: Some('U'),
    long: &["force-share"],
    value: None,
    help: "open also what another process is writing",
    support: Support::Full,
};

/// The option that widens the gate.
pub(super) const ALLOW_BACKING: Opt = Opt {
    id: "allow-backing",
    short: None,
    long: &["allow-backing"],
    value: Some("DIR"),
    help: "images may name files beneath this directory, too",
    support: Support::Ours,
};

/// `--format`.
pub(super) const FORMAT: Opt = Opt {
    id: "format",
    short: Some('f'),
    long: &["format"],
    value: Some("FMT"),
    help: "format of the image; without it, its content tells",
    support: Support::Full,
};

/// `--image-opts`.
pub(super) const IMAGE_OPTS: Opt = Opt {
    id: "image-opts",
    short: None,
    long: &["image-opts"],
    value: None,
    help: "FILENAME is an option string: driver=qcow2,file.filename=x",
    support: Support::Full,
};

/// `--output`.
pub(super) const OUTPUT: Opt = Opt {
    id: "output",
    short: None,
    long: &["output"],
    value: Some("human|json"),
    help: "form of the output (default human)",
    support: Support::Full,
};

/// `--object`.
pub(super) const OBJECT: Opt = Opt {
    id: "object",
    short: None,
    long: &["object"],
    value: Some("DEF"),
    help: "define an object, a secret",
    support: Support::Full,
};

/// `--quiet`.
pub(super) const QUIET: Opt = Opt {
    id: "quiet",
    short: Some('q'),
    long: &["quiet"],
    value: None,
    help: "print nothing but errors",
    support: Support::Full,
};

/// The cache mode of what is only read.
pub(super) const SOURCE_CACHE: Opt = Opt {
    id: "source-cache",
    short: Some('T'),
    long: &["cache"],
    value: Some("CACHE"),
    help: "cache mode of what is read: none and directsync read past the page cache",
    support: Support::Full,
};

/// `-T`.
pub(super) fn source_cache(parsed: &Parsed) -> Result<CacheMode, UsageError> {
    let mode = parsed.last("source-cache").map_or("writeback".into(), |mode| mode.to_string_lossy());
    let words = || UsageError::alone(format!("Invalid source cache option: {}", shown(mode.as_bytes())));
    CacheMode::from_name(&mode).ok_or_else(words)
}

/// `--output`.
pub(super) fn wants_json(parsed: &Parsed, setup: Setup<'_>) -> Result<bool, UsageError> {
    match parsed.last("output").map(OsStr::as_encoded_bytes) {
        None => Ok(setup.ours().is_some_and(|values| values.json)),
        Some(b"human") => Ok(false),
        Some(b"json") => Ok(true),
        Some(other) => {
            let other = shown(other);
            Err(UsageError::with_try(format!("--output expects 'human' or 'json' not '{other}'")))
        }
    }
}

/// How the names of images are to be read, by `--image-opts`, which goes without formats.
pub(super) fn reading(parsed: &Parsed, formats: &[&str]) -> Result<Reading, UsageError> {
    match parsed.flag("image-opts") {
        true if formats.iter().any(|id| parsed.last(id).is_some()) => {
            Err(UsageError::alone("--image-opts and --format are mutually exclusive"))
        }
        true => Ok(Reading::Options),
        false => Ok(Reading::Name),
    }
}

/// A number of bytes, in qemu-img's words where it is none.
pub(super) fn number(typed: &OsStr, what: &str) -> Result<u64, UsageError> {
    let typed = typed.as_encoded_bytes();
    let bounds = || UsageError::alone(format!("Invalid {what} specified. Must be between 0 and {}.", i64::MAX));
    match size::parse(typed) {
        Some(number) if i64::try_from(number).is_ok() => Ok(number),
        Some(_) => Err(bounds()),
        None if size::is_out_of_range(typed) => Err(bounds()),
        None => Err(UsageError::alone(format!("Invalid {what} specified: '{}'.", shown(typed)))),
    }
}

/// `--object` is accepted where it says what qemu-img would accept: a secret with a name and a value.
pub(super) fn check_object(definition: &OsStr) -> Result<(), UsageError> {
    let items: Vec<&[u8]> = definition.as_encoded_bytes().split(|&byte| byte == b',').collect();
    let kind = items.first().copied().unwrap_or_default();
    let kind = kind.strip_prefix(b"qom-type=").unwrap_or(kind);
    let has = |key: &[u8]| items.iter().any(|item| item.starts_with(key));
    if kind != b"secret" {
        let kind = shown(kind);
        return Err(UsageError::alone(format!("Parameter 'qom-type' does not accept value '{kind}'")));
    }
    if !has(b"id=") {
        return Err(UsageError::alone("Parameter 'id' is missing"));
    }
    if !has(b"data=") && !has(b"file=") {
        return Err(UsageError::alone("Either 'file' or 'data' must be provided"));
    }
    Ok(())
}

/// The user's image, from words to meaning.
pub(super) fn image_name(
    typed: &OsStr,
    reading: Reading,
    format: Option<&OsStr>,
    shared: bool,
) -> Result<ImageName, Failure> {
    let typed = typed.as_encoded_bytes();
    let failed = |error| Failure::Name { typed: typed.to_vec(), error };
    let format = format.map(|format| format_of(format.as_encoded_bytes())).transpose().map_err(failed)?;
    let mut name = ImageName::parse(typed, reading, format).map_err(failed)?;
    name.shared |= shared;
    Ok(name)
}

/// The policy for files that images name, by the user's configuration and `--allow-backing`.
pub(super) fn policy<'a>(parsed: &Parsed, setup: Setup<'a>) -> impl FnOnce() -> Result<Policy, PolicyError> + use<'a> {
    let allow: Vec<PathBuf> = parsed.all("allow-backing").map(PathBuf::from).collect();
    move || setup.config.policy(&allow)
}

/// One lane a core, as many as a guest can have.
pub(super) fn lanes() -> u8 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u8::try_from(cores).map_or(MOST_LANES, |cores| cores.min(MOST_LANES))
}

/// Most lanes of a guest.
#[expect(clippy::cast_possible_truncation, reason = "a few")]
pub(super) const MOST_LANES: u8 = LANES_MAX as u8;
