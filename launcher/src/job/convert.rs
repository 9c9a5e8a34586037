//! Convert: sources and what they name are opened, the target is made, and only a run that went well
//! leaves one.
#![forbid(unsafe_code)]

use super::failure::{Failure, GuestFailure, NamedError, NamedFailure, Names};
use super::info::chain_format;
use super::name::ImageName;
use super::open::{self, FileId, OpenError, path_of};
use super::target::Target;
use super::{Job, Machine, NoEnd, Then, extents, limits, request};
use crate::disk::Disk as _;
use crate::disk::lock::Claim;
use crate::disk::output::OutputFile;
use crate::gate::Gate;
use crate::gate::policy::{Policy, PolicyError};
use crate::render::image_file::full_backing_name;
use crate::render::report::Lie;
use instar_abi::reply::{End, FinalLength, Frame, Need};
use instar_abi::request::{
    Access, Answer, Before, Convert, Disk, DiskId, Given, Layer, LayerId, NeedKind, Op, RawGate, TargetFormat,
};
use std::path::PathBuf;
use std::sync::Arc;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// The image to read.
    pub source: ImageName,
    /// The user's words for the target.
    pub target: Vec<u8>,
    /// Its path.
    pub target_path: Vec<u8>,
    /// What to make.
    pub format: TargetFormat,
    /// Zero runs of this many bytes become holes; 0: none do.
    pub sparse_len: u32,
    /// The target is to be on the disk, not only in the page cache, when the run ends.
    pub durable: bool,
    /// When unknown content is raw, and when an unrecorded format is guessed.
    pub raw_gate: RawGate,
    /// Lanes for the mover.
    pub lanes: u8,
}

impl Meant {
    /// qemu-img's name of the target's format.
    #[must_use]
    pub const fn format_name(&self) -> &'static str {
        match self.format {
            TargetFormat::Raw => "raw",
            TargetFormat::Qcow2(_) => "qcow2",
        }
    }
}

/// Converts. `policy` is asked for only when the source names other files; `on_progress` gets work
/// done and its total, a guest's numbers.
///
/// # Errors
/// [`Failure`]; a target that this call made is gone again.
pub fn run(
    meant: &Meant,
    policy: impl FnOnce() -> Result<Policy, PolicyError>,
    machine: &mut dyn Machine,
    on_progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Failure> {
    let mut chain = Chain::open(meant)?;
    // Before there is anything to clean up.
    machine.catch_signals().map_err(Failure::NoEnd)?;
    let failed = |error| Failure::Create { typed: meant.target.clone(), format: meant.format_name(), error };
    let host = |error: std::io::Error| OpenError::Host(error.raw_os_error().unwrap_or(0));
    let target = Target::create(path_of(&meant.target_path), &[chain.source]).map_err(failed)?;
    let file = target.file().try_clone().map_err(|error| failed(host(error)))?;
    chain.finish(meant, OutputFile::new(file, limits::OUTPUT_CAPACITY), policy, machine, on_progress)?;
    if let Some(signal) = machine.stop_signal() {
        return Err(Failure::NoEnd(NoEnd::Stopped(signal)));
    }
    target
        .keep(meant.durable)
        .map_err(|error| Failure::Keep { typed: meant.target.clone(), errno: error.raw_os_error().unwrap_or(0) })
}

/// The job as it grows, and what is known of its layers beside the request.
struct Chain {
    job: Job,
    names: Names,
    paths: Vec<PathBuf>, // of each layer's file
    source: FileId,
    claim: Claim,
}

impl Chain {
    fn open(meant: &Meant) -> Result<Self, Failure> {
        let name = &meant.source;
        let claim = if name.shared { Claim::NONE } else { Claim::READ };
        let opened = open::source(path_of(&name.path), claim).map_err(|error| Failure::Open {
            typed: name.typed.clone(),
            path: name.path.clone(),
            error,
        })?;
        let window = name.window(opened.len).map_err(|error| Failure::Name { typed: name.typed.clone(), error })?;
        let op = Op::Convert(Convert {
            sources: vec![LayerId(0)],
            snapshot: None,
            target: DiskId(1),
            target_format: meant.format.clone(),
            before: Before::Empty,
            sparse_len: meant.sparse_len,
            any_order: false,
            salvage: false,
        });
        let request =
            request(op, limits::CONVERT_BUDGET, meant.lanes).map_err(|e| Failure::Random(e.raw_os_error()))?;
        let mut job = Job { op: "convert", disks: Vec::new(), request, limits: limits::CONVERT };
        let (source, path) = (opened.id, opened.path.clone());
        let data = extents::of(&opened.file, opened.len);
        let disk = job.add_source(opened, data);
        job.add_layer(Layer { disk, format: name.format(), raw_gate: meant.raw_gate, window });
        let names = Names {
            top: name.typed.clone(),
            depths: vec![0],
            disks: vec![name.path.clone()],
            target_format: Some(meant.format_name()),
        };
        Ok(Self { job, names, paths: vec![path], source, claim })
    }

    /// Runs until the guest needs nothing more.
    fn finish(
        &mut self,
        meant: &Meant,
        output: OutputFile,
        policy: impl FnOnce() -> Result<Policy, PolicyError>,
        machine: &mut dyn Machine,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Failure> {
        let output = Arc::new(output);
        let access = Access::Output { capacity: limits::OUTPUT_CAPACITY };
        let target = self.job.add_disk(Disk { len: 0, access, data: None }, Arc::<OutputFile>::clone(&output));
        self.names.disks.push(meant.target.clone());
        let mut needs = match self.run_once(machine, on_progress)? {
            Ran::Done(lengths) => return finish_output(&output, target, &lengths, meant),
            Ran::Needs(needs) => needs,
        };
        let policy = policy().map_err(Failure::Policy)?;
        let mut gate = Gate::new(&policy, &[self.source]);
        for _ in 0..limits::RUNS_MAX {
            for need in &needs {
                self.answer(need, &mut gate, meant.raw_gate)?;
            }
            match self.run_once(machine, on_progress)? {
                Ran::Done(lengths) => return finish_output(&output, target, &lengths, meant),
                Ran::Needs(more) => needs = more,
            }
        }
        Err(Failure::Lie(Lie::TooMany))
    }

    fn run_once(&self, machine: &mut dyn Machine, on_progress: &mut dyn FnMut(u64, u64)) -> Result<Ran, Failure> {
        let mut needs = Vec::new();
        let mut lie = None;
        let mut on_frame = |frame: Frame| match frame {
            Frame::Progress { done, total } => on_progress(done, total),
            Frame::Needs(more) if needs.len() + more.len() <= limits::FILES_MAX => needs.extend(more),
            Frame::Needs(_) => lie = Some(Lie::TooMany),
            Frame::Image(_) | Frame::Snapshots(_) | Frame::Specific(_) | Frame::End(_) => lie = Some(Lie::OutOfPlace),
        };
        let end = machine.run(&self.job, Then::GoOn, &mut on_frame).map_err(Failure::NoEnd)?;
        match (end, lie) {
            (End::Failed(error), _) => Err(Failure::Guest(Box::new(GuestFailure { names: self.names.clone(), error }))),
            (_, Some(lie)) => Err(Failure::Lie(lie)),
            (End::Done { lengths }, None) if needs.is_empty() => Ok(Ran::Done(lengths)),
            (End::NeedsMore, None) if !needs.is_empty() => Ok(Ran::Needs(needs)),
            _ => Err(Failure::Lie(Lie::OutOfPlace)),
        }
    }

    /// Opens what a layer names and adds it to the job.
    fn answer(&mut self, need: &Need, gate: &mut Gate<'_>, raw_gate: RawGate) -> Result<(), Failure> {
        let asked = usize::try_from(need.layer.0).ok();
        let layer = asked.and_then(|index| Some((self.paths.get(index)?.clone(), *self.names.depths.get(index)?)));
        let (naming, depth) = layer.ok_or(Failure::Lie(Lie::OutOfPlace))?;
        // A name that was answered already would be asked for without end.
        if self.job.request.answers.iter().any(|answer| (answer.layer, answer.kind) == (need.layer, need.kind)) {
            return Err(Failure::Lie(Lie::OutOfPlace));
        }
        let full = full_backing_name(naming.as_os_str().as_encoded_bytes(), &need.name).unwrap_or_default();
        let failed = |error| {
            Failure::Named(Box::new(NamedFailure {
                top: self.names.top.clone(),
                depth,
                kind: need.kind,
                name: need.name.clone(),
                path: path_of(&full).to_owned(),
                error,
            }))
        };
        let format = match need.kind {
            NeedKind::Backing => chain_format(need.format.as_deref(), raw_gate).map_err(failed)?,
            NeedKind::DataFile => None,
        };
        let deeper = depth + u32::from(need.kind == NeedKind::Backing);
        let opened = gate
            .open(&naming, &need.name, deeper + 1, self.claim)
            .map_err(|refusal| failed(NamedError::Refused(refusal)))?;
        let path = opened.path.clone();
        let data = extents::of(&opened.file, opened.len);
        let disk = self.job.add_source(opened, data);
        self.names.disks.push(path.as_os_str().as_encoded_bytes().to_vec());
        let given = match need.kind {
            NeedKind::Backing => {
                self.paths.push(path);
                self.names.depths.push(deeper);
                Given::Layer(self.job.add_layer(Layer { disk, format, raw_gate, window: None }))
            }
            NeedKind::DataFile => Given::Disk(disk),
        };
        self.job.add_answer(Answer { layer: need.layer, kind: need.kind, name: need.name.clone(), given });
        Ok(())
    }
}

/// How a run ended well.
enum Ran {
    Done(Vec<FinalLength>),
    Needs(Vec<Need>),
}

fn finish_output(output: &OutputFile, target: DiskId, lengths: &[FinalLength], meant: &Meant) -> Result<(), Failure> {
    let [FinalLength { disk, len }] = lengths else { return Err(Failure::Lie(Lie::OutOfPlace)) };
    if *disk != target || *len > limits::OUTPUT_CAPACITY {
        return Err(Failure::Lie(Lie::OutOfPlace));
    }
    output
        .finish(*len)
        .map_err(|error| Failure::Finish { typed: meant.target.clone(), errno: error.raw_os_error().unwrap_or(0) })
}
