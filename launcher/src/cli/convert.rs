//! `convert`: copy an image into a new one.
#![forbid(unsafe_code)]

use super::Setup;
use super::convert_typed::{Typed, target_format};
use super::create_options;
use super::grammar::Parsed;
use super::image_options::image_name;
use super::progress::{Shows, Told};
use super::terminal::Terminal;
use crate::disk::existing::Content;
use crate::job::Machine;
use crate::job::convert::{self, News};
use crate::job::failure::Failure;
use crate::job::name::{ImageName, NameError, Reading};
use crate::job::open::path_of;
use crate::job::pipe::is_stdout;
use instar_abi::format::Format;
use std::ffi::OsString;
use std::process::ExitCode;

/// `-o help`, where it was typed: what it ends with.
pub(super) fn options_help(parsed: &Parsed, terminal: &mut Terminal) -> Option<ExitCode> {
    parsed.all("options").any(create_options::wants_help).then(|| match target_format(parsed.last("output-format")) {
        Ok(format) => terminal.print(&create_options::help(format, !parsed.names().is_empty())),
        Err(error) => terminal.usage("convert", &error),
    })
}

pub(super) fn run(setup: Setup<'_>, parsed: &Parsed, machine: &mut dyn Machine, terminal: &mut Terminal) -> ExitCode {
    let mode = setup.mode;
    let typed = match Typed::new(parsed, setup.ours()) {
        Ok(typed) => typed,
        Err(error) => return terminal.usage("convert", &error),
    };
    let shows = match Shows::by(mode, terminal, typed.shows_progress) {
        // Standard output has the content.
        Shows::Lines if is_stdout(path_of(typed.target.as_encoded_bytes())) => Shows::LinesOnStderr,
        shows => shows,
    };
    let told = Told::new(mode, terminal, shows);
    let mut told = if typed.warns { told.warning() } else { told };
    let result = told.around(|on_news| copy(setup, &typed, machine, on_news));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => terminal.fail(&failure),
    }
}

/// From words to meaning, and on to the job.
fn copy(
    setup: Setup<'_>,
    typed: &Typed,
    machine: &mut dyn Machine,
    on_news: &mut dyn FnMut(News),
) -> Result<(), Failure> {
    let source = |name: &OsString| image_name(name, typed.reading, typed.format.as_deref(), typed.shared);
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
        part: None,
        rate: typed.rate,
        cache: typed.cache,
        source_cache: typed.source_cache,
        raw_gate: setup.raw_gate(),
        lanes: typed.lanes,
        asked: typed.asked.clone(),
    };
    convert::run(&meant, || setup.config.policy(&typed.allow), machine, on_news)
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
