//! Info: one image, described without opening what it names; or a chain, layer by layer.
#![forbid(unsafe_code)]

use super::extents::Host;
use super::failure::{Failure, GuestFailure, NamedError, NamedFailure, Names};
use super::name::{ImageName, NameError};
use super::open::{self, OpenError, Opened, path_of};
use super::{Job, Machine, Then, limits, recorded_format, request};
use crate::disk::lock::{self, Claim, LockError};
use crate::gate::policy::Policy;
use crate::gate::{Gate, Refusal};
use crate::render::image_file::{ImageFile, full_backing_name};
use crate::render::info::Described;
use crate::render::report::{Collector, Lie, Report};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Layer, LayerId, NeedKind, Op, RawGate};
use std::os::fd::AsFd as _;

/// An image that is open and not yet described.
struct Pending {
    name: ImageName,
    opened: Opened,
    conflict: Option<LockError>, // with others' use, should it turn out not to be raw
}

/// Describes one image.
///
/// # Errors
/// [`Failure`].
pub fn one(name: ImageName, raw_gate: RawGate, machine: &mut dyn Machine) -> Result<Described, Failure> {
    open_named_by_user(name)?.describe(raw_gate, Then::Finish, machine)
}

/// Describes a chain, top first. What could be described before a failure comes with it.
pub fn chain(
    name: ImageName,
    raw_gate: RawGate,
    policy: &Policy,
    machine: &mut dyn Machine,
) -> (Vec<Described>, Result<(), Failure>) {
    let mut described = Vec::new();
    let result = walk(name, raw_gate, policy, machine, &mut described);
    (described, result)
}

fn walk(
    name: ImageName,
    raw_gate: RawGate,
    policy: &Policy,
    machine: &mut dyn Machine,
    described: &mut Vec<Described>,
) -> Result<(), Failure> {
    let (top, shared) = (name.typed.clone(), name.shared);
    let mut next = open_named_by_user(name)?;
    let mut gate = Gate::new(policy, &[next.opened.id]);
    for depth in 0.. {
        let naming = next.opened.path.clone();
        let image = next.describe(raw_gate, Then::GoOn, machine)?;
        let backing = image.report.image.backing.clone();
        described.push(image);
        let Some(backing) = backing else { break };
        let full = full_backing_name(naming.as_os_str().as_encoded_bytes(), &backing.name).unwrap_or_default();
        let failed = |error| layer_failure(&top, depth, &backing.name, full.clone(), error);
        let format = chain_format(backing.format.as_deref(), raw_gate).map_err(failed)?;
        let claim = if shared { Claim::NONE } else { claim_for(format, false) };
        let opened = gate.open(&naming, &backing.name, depth + 2, claim).map_err(|r| failed(NamedError::Refused(r)))?;
        let mut name = ImageName::from_path(opened.path.as_os_str().as_encoded_bytes().to_vec());
        name.set_format(format);
        next = Pending { name, opened, conflict: None };
    }
    Ok(())
}

/// A layer that does not open: qemu-img opens each as if the user had named it.
fn layer_failure(top: &[u8], depth: u32, name: &[u8], full: Vec<u8>, error: NamedError) -> Failure {
    match error {
        NamedError::Refused(Refusal::Host(errno)) => {
            Failure::Open { typed: full.clone(), path: full, error: OpenError::Host(errno) }
        }
        NamedError::Refused(Refusal::Lock(error)) => {
            Failure::Open { typed: full.clone(), path: full, error: OpenError::Lock(error) }
        }
        NamedError::Format { found } => Failure::Name { typed: full, error: NameError::Driver { name: found } },
        error => Failure::Named(Box::new(NamedFailure {
            top: top.to_vec(),
            depth,
            kind: NeedKind::Backing,
            name: name.to_vec(),
            path: path_of(&full).to_owned(),
            error,
        })),
    }
}

/// The format of a layer that an image names. Content is guessed in compatibility mode only.
pub(super) fn chain_format(recorded: Option<&[u8]>, raw_gate: RawGate) -> Result<Option<Format>, NamedError> {
    match recorded {
        Some(name) => match recorded_format(name) {
            Some(format) => Ok(Some(format)),
            None => Err(NamedError::Format { found: name.to_vec() }),
        },
        None if raw_gate == RawGate::Open => Ok(None),
        None => Err(NamedError::NoFormat),
    }
}

/// What info claims, as qemu-img does: nothing for raw, whose content it does not read.
const fn claim_for(format: Option<Format>, is_window: bool) -> Claim {
    match (format, is_window) {
        (Some(Format::Raw), false) => Claim::NONE,
        (Some(Format::Raw), true) => Claim::DESCRIBE_WINDOW,
        _ => Claim::DESCRIBE,
    }
}

fn open_named_by_user(name: ImageName) -> Result<Pending, Failure> {
    let failed = |error| Failure::Open { typed: name.typed.clone(), path: name.path.clone(), error };
    let opened = open::source(path_of(&name.path), Claim::NONE).map_err(failed)?;
    let claim = if name.shared { Claim::NONE } else { claim_for(name.format(), name.is_window()) };
    let conflict = match lock::claim(opened.file.as_fd(), claim) {
        Ok(()) => None,
        // Nobody knows the format yet. Raw needs no claim, and anything else is refused afterwards.
        Err(error) if name.format().is_none() => Some(error),
        Err(error) => return Err(failed(OpenError::Lock(error))),
    };
    Ok(Pending { name, opened, conflict })
}

impl Pending {
    fn describe(self, raw_gate: RawGate, then: Then, machine: &mut dyn Machine) -> Result<Described, Failure> {
        let Self { name, opened, conflict } = self;
        let (len, protocol, actual_size) = (opened.len, opened.protocol, opened.actual_size);
        let window = name.window(len).map_err(|error| Failure::Name { typed: name.typed.clone(), error })?;
        let op = Op::Info { image: LayerId(0) };
        let request = request(op, limits::INFO_BUDGET, 1).map_err(|e| Failure::Random(e.raw_os_error()))?;
        let mut job = Job { op: "info", disks: Vec::new(), request, limits: limits::INFO };
        let disk = job.add_source(opened.file, len, Host::default());
        job.add_layer(Layer { disk, format: name.format(), raw_gate, window });
        let names =
            Names { top: name.typed.clone(), depths: vec![0], disks: vec![name.path.clone()], ..Names::default() };
        let report = run(&job, then, names, machine)?;
        let format = report.image.format;
        if let Some(error) = conflict.filter(|_| format != Format::Raw) {
            return Err(Failure::Open { typed: name.typed, path: name.path, error: OpenError::Lock(error) });
        }
        let file = ImageFile {
            name: name.shown(format),
            windows: name.windows(len),
            path: name.path,
            protocol,
            len,
            actual_size,
        };
        Ok(Described { report, file })
    }
}

fn run(job: &Job, then: Then, names: Names, machine: &mut dyn Machine) -> Result<Report, Failure> {
    let file_name = names.disks.first().cloned().unwrap_or_default();
    let mut collector = Collector::new(file_name);
    let mut lie = None;
    let mut on_frame = |frame: Frame| {
        if lie.is_none() {
            lie = collector.take(frame).err();
        }
    };
    let end = machine.run(job, then, &mut on_frame).map_err(Failure::NoEnd)?;
    match (end, lie) {
        (End::Failed(error), _) => {
            Err(Failure::Guest(Box::new(GuestFailure { names, error, errno: machine.host_errno() })))
        }
        (_, Some(lie)) => Err(Failure::Lie(lie)),
        (End::NeedsMore | End::NeedsFull, None) => Err(Failure::Lie(Lie::OutOfPlace)),
        (End::Done { .. }, None) => collector.finish().map_err(Failure::Lie),
    }
}
