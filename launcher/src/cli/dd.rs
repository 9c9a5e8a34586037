//! `dd`: copy a part of an image into a new one.
#![forbid(unsafe_code)]

use super::Setup;
use super::convert_typed::new_format;
use super::grammar::{Grammar, Opt, Parsed, Support, UsageError};
use super::image_options::{
    ALLOW_BACKING, FORCE_SHARE, FORMAT, IMAGE_OPTS, OBJECT, check_object, image_name, lanes, number, policy, reading,
};
use super::progress::{Shows, Told};
use super::terminal::Terminal;
use crate::disk::bytes::CacheMode;
use crate::job::Machine;
use crate::job::convert::{self, Meant};
use crate::job::failure::Failure;
use crate::job::limits::SPARSE_LEN;
use crate::job::name::{ImageName, Reading};
use crate::job::reserve::Preallocation;
use crate::render::escape::shown;
use instar_abi::request::{Part, TargetFormat};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

pub(super) const GRAMMAR: Grammar = Grammar {
    about: "Copy a part of an image into a new one.",
    arguments: "[bs=BYTES] [count=BLOCKS] [skip=BLOCKS] if=SOURCE of=TARGET",
    options: &[
        FORMAT,
        IMAGE_OPTS,
        Opt {
            id: "output-format",
            short: Some('O'),
            long: &["output-format"],
            value: Some("FMT"),
            help: "format of the target: raw (default) or qcow2",
            support: Support::Full,
        },
        FORCE_SHARE,
        OBJECT,
        ALLOW_BACKING,
    ],
};

/// Most bytes of a block, as qemu-img has it.
const BLOCK_LEN_MAX: u64 = i32::MAX as u64;

/// The operands.
struct Operands {
    source: OsString,
    target: OsString,
    block_len: u64,
    count: Option<u64>,
    skip: u64,
}

pub(super) fn run(setup: Setup<'_>, parsed: &Parsed, machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let mode = setup.mode;
    let (operands, reading, format) = match typed(parsed) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("dd", &error),
    };
    let source = match image_name(&operands.source, reading, parsed.last("format"), parsed.flag("force-share")) {
        Ok(source) => source,
        Err(failure) => return terminal.fail(&failure),
    };
    let target = operands.target.as_encoded_bytes().to_vec();
    let target_path = match ImageName::parse(&target, Reading::Name, None) {
        Ok(name) => name.path,
        Err(error) => return terminal.fail(&Failure::Name { typed: target, error }),
    };
    let meant = Meant {
        sources: vec![source],
        snapshot: None,
        target,
        target_path,
        existing: None,
        format,
        backing: None,
        data_file: None,
        preallocation: Preallocation::Off,
        sparse_len: SPARSE_LEN,
        any_order: false,
        salvage: false,
        offload: false,
        part: Some(operands.part()),
        top_only: false,
        rate: None,
        cache: CacheMode::Writeback,
        source_cache: CacheMode::Writeback,
        raw_gate: setup.raw_gate(),
        lanes: lanes(),
        asked: vec!["dd"],
    };
    let mut told = Told::new(mode, terminal, Shows::Asked).of(operands.source.as_bytes());
    let result = told.around(|on_news| convert::run(&meant, policy(parsed, setup), machine, on_news));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => terminal.fail(&failure),
    }
}

fn typed(parsed: &Parsed) -> Result<(Operands, Reading, TargetFormat), UsageError> {
    let mut operands =
        Operands { source: OsString::new(), target: OsString::new(), block_len: 512, count: None, skip: 0 };
    parsed.all("object").try_for_each(check_object)?;
    parsed.names().into_iter().try_for_each(|name| operands.take(name))?;
    if operands.source.is_empty() || operands.target.is_empty() {
        return Err(UsageError::alone("Must specify both input and output files"));
    }
    let reading = reading(parsed, &["format"])?;
    Ok((operands, reading, new_format(parsed.last("output-format"))?))
}

impl Operands {
    fn take(&mut self, operand: &OsStr) -> Result<(), UsageError> {
        let bytes = operand.as_bytes();
        let at = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
        let value = bytes.get(at + 1..).map(OsStr::from_bytes);
        match (&bytes[..at], value) {
            (b"if", Some(name)) => self.source = name.to_owned(),
            (b"of", Some(name)) => self.target = name.to_owned(),
            (b"count", Some(typed)) => self.count = Some(number(typed, "count")?),
            (b"skip", Some(typed)) => self.skip = number(typed, "skip")?,
            (b"bs", Some(typed)) => self.block_len = block_len(typed)?,
            (key, _) => return Err(UsageError::alone(format!("unrecognized operand {}", shown(key)))),
        }
        Ok(())
    }

    /// What of the source is copied: up to the `count`-th block, and from the `skip`-th one on.
    fn part(&self) -> Part {
        let start = self.skip.saturating_mul(self.block_len);
        let end = self.count.map_or(u64::MAX, |count| count.saturating_mul(self.block_len));
        Part { start, len: end.saturating_sub(start) }
    }
}

fn block_len(typed: &OsStr) -> Result<u64, UsageError> {
    let bounds = || UsageError::alone(format!("Invalid bs specified. Must be between 1 and {BLOCK_LEN_MAX}."));
    match number(typed, "bs") {
        Ok(len @ 1..=BLOCK_LEN_MAX) => Ok(len),
        Ok(_) => Err(bounds()),
        Err(_) if crate::job::size::is_out_of_range(typed.as_bytes()) => Err(bounds()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(operands: &[&str]) -> Option<Part> {
        let mut all =
            Operands { source: OsString::new(), target: OsString::new(), block_len: 512, count: None, skip: 0 };
        operands.iter().try_for_each(|operand| all.take(OsStr::new(operand))).ok()?;
        Some(all.part())
    }

    #[test]
    fn a_window_never_overflows() {
        assert_eq!(part(&["bs=1M", "count=3", "skip=1"]), Some(Part { start: 1 << 20, len: 2 << 20 }));
        assert_eq!(part(&["skip=2", "bs=10"]), Some(Part { start: 20, len: u64::MAX - 20 }));
        assert_eq!(part(&["count=1", "skip=2"]), Some(Part { start: 1024, len: 0 }));
        let most = i64::MAX;
        let past = part(&["bs=2147483647", &format!("count={most}"), &format!("skip={most}")]);
        assert_eq!(past, Some(Part { start: u64::MAX, len: 0 }));
        for wrong in ["bs=0", "bs=2147483648", "bs=-1", "bs=5x", "count=x", "count=-1", "foo=1", "if", "iseek=1"] {
            assert_eq!(part(&[wrong]), None, "{wrong}");
        }
    }
}
