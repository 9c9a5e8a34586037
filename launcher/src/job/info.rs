//! Info: one image, described without opening what is below it; or a chain, layer by layer.
//!
//! Content in files that the image names is part of the image: they are opened where the gate allows, and only listed
//! where it does not.
#![forbid(unsafe_code)]

use super::extents::Host;
use super::failure::{Failure, GuestFailure, NamedError, NamedFailure, Names};
use super::name::{ImageName, NameError};
use super::open::{self, OpenError, Opened, path_of};
use super::{Job, Machine, Then, limits, op_image, recorded_format, request};
use crate::disk::lock::{self, Claim, LockError};
use crate::gate::policy::{Policy, PolicyError};
use crate::gate::{Gate, Refusal};
use crate::render::image_file::{ImageFile, PartFile, full_backing_name};
use crate::render::info::Described;
use crate::render::report::{Collector, Lie, Report};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame, Need};
use instar_abi::request::{Answer, Below, Given, Layer, LayerId, NeedKind, Op, RawGate};
use std::os::fd::AsFd as _;

/// What is asked of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What it may be taken for.
    pub raw_gate: RawGate,
    /// Tell more than qemu-img does.
    pub details: bool,
}

/// An image that is open and not yet described.
struct Pending {
    name: ImageName,
    opened: Opened,
    conflict: Option<LockError>, // with others' use, should it turn out not to be raw
    answers: Vec<Part>,          // files that hold parts of its content, in its order
}

/// A file that an image names and that holds a part of its content.
struct Part {
    name: Vec<u8>,
    opened: Option<Opened>, // `None`: the gate refused
}

/// How a run ended well.
enum Ran {
    Told(Report),
    Needs(Vec<Need>),
}

/// A text that names files is short. A process that looks at something longer locks itself down without a child, which is
/// faster, and can open nothing more.
const TEXT_LEN_MAX: u64 = 64 << 10;

/// Describes one image.
///
/// # Errors
/// [`Failure`].
pub fn one(
    name: ImageName,
    asked: Asked,
    policy: impl FnOnce() -> Result<Policy, PolicyError>,
    machine: &mut dyn Machine,
) -> Result<Described, Failure> {
    let described = open_and_describe(name, asked, policy, machine);
    machine.rest();
    described
}

fn open_and_describe(
    name: ImageName,
    asked: Asked,
    policy: impl FnOnce() -> Result<Policy, PolicyError>,
    machine: &mut dyn Machine,
) -> Result<Described, Failure> {
    let pending = open_named_by_user(name)?;
    let then = if pending.may_name_parts() { Then::GoOn } else { Then::Finish };
    let needs = match pending.run(asked, then, machine)? {
        Ran::Told(report) => return pending.described(report),
        Ran::Needs(_) if then == Then::Finish => return Err(Failure::Parts { typed: pending.name.typed }),
        Ran::Needs(needs) => needs,
    };
    let policy = policy().map_err(Failure::Policy)?;
    let mut gate = Gate::new(&policy, &[pending.opened.id]);
    pending.describe_with(&needs, 1, asked, &mut gate, machine)
}

/// Describes a chain, top first. What could be described before a failure comes with it.
pub fn chain(
    name: ImageName,
    asked: Asked,
    policy: &Policy,
    machine: &mut dyn Machine,
) -> (Vec<Described>, Result<(), Failure>) {
    let (levels, result) = walk(name, asked, policy, machine);
    (levels.into_iter().map(|level| level.image).collect(), result)
}

/// A layer of a chain.
pub(super) struct Level {
    /// What it is.
    pub image: Described,
    /// What it is called, and what it is to be.
    pub name: ImageName,
    /// Its file.
    pub opened: Opened,
}

/// Goes down a chain, top first. What was reached before a failure comes with it.
pub(super) fn walk(
    name: ImageName,
    asked: Asked,
    policy: &Policy,
    machine: &mut dyn Machine,
) -> (Vec<Level>, Result<(), Failure>) {
    let mut levels = Vec::new();
    let result = go_down(name, asked, policy, machine, &mut levels);
    machine.rest();
    (levels, result)
}

fn go_down(
    name: ImageName,
    asked: Asked,
    policy: &Policy,
    machine: &mut dyn Machine,
    levels: &mut Vec<Level>,
) -> Result<(), Failure> {
    let (top, shared) = (name.typed.clone(), name.shared);
    let mut next = open_named_by_user(name)?;
    let mut gate = Gate::new(policy, &[next.opened.id]);
    for depth in 0.. {
        let naming = next.opened.path.clone();
        let name = next.name.clone();
        let opened = next.opened.again().map_err(|errno| {
            let (typed, path) = (name.typed.clone(), name.path.clone());
            Failure::Open { typed, path, error: OpenError::Host(errno) }
        })?;
        let image = match next.run(asked, Then::GoOn, machine)? {
            Ran::Told(report) => next.described(report)?,
            Ran::Needs(needs) => next.describe_with(&needs, depth + 1, asked, &mut gate, machine)?,
        };
        let backing = image.report.image.backing.clone();
        levels.push(Level { image, name, opened });
        let Some(backing) = backing else { break };
        let full = full_backing_name(naming.as_os_str().as_encoded_bytes(), &backing.name).unwrap_or_default();
        let failed = |error| layer_failure(&top, depth, &backing.name, full.clone(), error);
        let format = chain_format(backing.format.as_deref(), asked.raw_gate).map_err(failed)?;
        let claim = if shared { Claim::NONE } else { claim_for(format, false) };
        let opened = gate.open(&naming, &backing.name, depth + 2, claim).map_err(|r| failed(NamedError::Refused(r)))?;
        let mut name = ImageName::from_path(opened.path.as_os_str().as_encoded_bytes().to_vec());
        name.set_format(format);
        next = Pending { name, opened, conflict: None, answers: Vec::new() };
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
    Ok(Pending { name, opened, conflict, answers: Vec::new() })
}

impl Pending {
    /// Whether the image may turn out to name files that hold its content.
    fn may_name_parts(&self) -> bool {
        match self.name.format() {
            None => self.opened.len <= TEXT_LEN_MAX,
            format => format == Some(Format::Vmdk),
        }
    }

    fn run(&self, asked: Asked, then: Then, machine: &mut dyn Machine) -> Result<Ran, Failure> {
        let Self { name, opened, answers, .. } = self;
        let window = name.window(opened.len).map_err(|error| Failure::Name { typed: name.typed.clone(), error })?;
        let failed = |error: std::io::Error| Failure::Open {
            typed: name.typed.clone(),
            path: name.path.clone(),
            error: OpenError::Host(error.raw_os_error().unwrap_or(0)),
        };
        let op = Op::Info { image: LayerId(0), details: asked.details };
        let request = request(op, limits::INFO_BUDGET, 1).map_err(|e| Failure::Random(e.raw_os_error()))?;
        let mut job = Job { op: op_image(&request.op), disks: Vec::new(), request, limits: limits::INFO };
        let disk = job.add_source(opened.file.try_clone().map_err(failed)?, opened.len, Host::default());
        let layer = job.add_layer(Layer {
            disk,
            format: name.format(),
            raw_gate: asked.raw_gate,
            window,
            below: Below::AsNamed,
        });
        let mut disks = vec![name.path.clone()];
        for Part { name, opened } in answers {
            // A name that stands there again has its answer.
            if job.request.answers.iter().any(|answer| answer.name == *name) {
                continue;
            }
            let given = match opened {
                None => Given::Refused,
                Some(opened) => {
                    disks.push(opened.path.as_os_str().as_encoded_bytes().to_vec());
                    Given::Disk(job.add_source(opened.file.try_clone().map_err(failed)?, opened.len, Host::default()))
                }
            };
            job.add_answer(Answer { layer, kind: NeedKind::Extent, name: name.clone(), given });
        }
        let names = Names { top: name.typed.clone(), depths: vec![0], disks, ..Names::default() };
        run(&job, then, names, machine)
    }

    /// Opens the files that hold the content, as far as the gate allows, and describes the image with them. `depth`: of the
    /// layer; the user's image is 1.
    fn describe_with(
        mut self,
        needs: &[Need],
        depth: u32,
        asked: Asked,
        gate: &mut Gate<'_>,
        machine: &mut dyn Machine,
    ) -> Result<Described, Failure> {
        let claim = if self.name.shared { Claim::NONE } else { claim_for(Some(Format::Vmdk), false) };
        for need in needs {
            if (need.layer, need.kind) != (LayerId(0), NeedKind::Extent) {
                return Err(Failure::Lie(Lie::OutOfPlace));
            }
            let part = match self.answers.iter().find(|part| part.name == need.name) {
                Some(known) => known.again().map_err(|error| self.extent_failed(need, error))?,
                None => match gate.open(&self.opened.path, &need.name, depth, claim) {
                    Ok(opened) => Some(opened),
                    Err(error @ (Refusal::Host(_) | Refusal::Lock(_))) => return Err(self.extent_failed(need, error)),
                    Err(_) => None,
                },
            };
            self.answers.push(Part { name: need.name.clone(), opened: part });
        }
        match self.run(asked, Then::GoOn, machine)? {
            Ran::Told(report) => self.described(report),
            Ran::Needs(_) => Err(Failure::Lie(Lie::OutOfPlace)),
        }
    }

    fn extent_failed(&self, need: &Need, error: Refusal) -> Failure {
        let full = full_backing_name(self.opened.path.as_os_str().as_encoded_bytes(), &need.name).unwrap_or_default();
        Failure::Named(Box::new(NamedFailure {
            top: self.name.typed.clone(),
            depth: 0,
            kind: NeedKind::Extent,
            name: need.name.clone(),
            path: path_of(&full).to_owned(),
            error: NamedError::Refused(error),
        }))
    }

    fn described(self, report: Report) -> Result<Described, Failure> {
        let Self { name, opened, conflict, answers } = self;
        let format = report.image.format;
        if let Some(error) = conflict.filter(|_| format != Format::Raw) {
            return Err(Failure::Open { typed: name.typed, path: name.path, error: OpenError::Lock(error) });
        }
        let parts = answers.into_iter().enumerate().filter_map(|(index, part)| {
            let Opened { path, len, actual_size, .. } = part.opened?;
            Some(PartFile { index, path: path.into_os_string().into_encoded_bytes(), len, actual_size })
        });
        let file = ImageFile {
            name: name.shown(format),
            windows: name.windows(opened.len),
            path: name.path,
            protocol: opened.protocol,
            len: opened.len,
            actual_size: opened.actual_size,
            parts: parts.collect(),
        };
        Ok(Described { report, file })
    }
}

impl Part {
    /// The same file once more.
    fn again(&self) -> Result<Option<Opened>, Refusal> {
        self.opened.as_ref().map(Opened::again).transpose().map_err(Refusal::Host)
    }
}

fn run(job: &Job, then: Then, names: Names, machine: &mut dyn Machine) -> Result<Ran, Failure> {
    let file_name = names.disks.first().cloned().unwrap_or_default();
    let mut collector = Collector::new(file_name);
    let mut lie = None;
    let mut needs = Vec::new();
    let mut on_frame = |frame: Frame| match frame {
        Frame::Needs(more) if needs.len() + more.len() <= limits::NEEDS_MAX => needs.extend(more),
        frame if lie.is_none() => lie = collector.take(frame).err(),
        _ => {}
    };
    let end = machine.run(job, then, &mut on_frame).map_err(Failure::NoEnd)?;
    match (end, lie) {
        (End::Failed(error), _) => {
            Err(Failure::Guest(Box::new(GuestFailure { names, error, errno: machine.host_errno() })))
        }
        (_, Some(lie)) => Err(Failure::Lie(lie)),
        (End::NeedsMore, None) if !needs.is_empty() => Ok(Ran::Needs(needs)),
        (End::Done { .. }, None) if needs.is_empty() => collector.finish().map(Ran::Told).map_err(Failure::Lie),
        (End::NeedsMore | End::NeedsFull | End::Done { .. }, None) => Err(Failure::Lie(Lie::OutOfPlace)),
    }
}
