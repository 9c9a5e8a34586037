//! Convert: sources and what they name are opened, the target is made, and only a run that went well
//! leaves one.
#![forbid(unsafe_code)]

use super::failure::{Failure, GuestFailure, NamedError, NamedFailure, Names};
use super::info::chain_format;
use super::name::ImageName;
use super::open::{self, FileId, OpenError, Opened, path_of};
use super::target::Target;
use super::{Job, Machine, NoEnd, Then, extents, limits, request};
use crate::disk::Disk as DiskBytes;
use crate::disk::existing::{Content, ExistingFile};
use crate::disk::lock::Claim;
use crate::disk::output::OutputFile;
use crate::disk::throttle::Throttled;
use crate::gate::policy::{Policy, PolicyError};
use crate::gate::{Gate, Refusal};
use crate::render::image_file::full_backing_name;
use crate::render::report::Lie;
use instar_abi::reply::{End, FinalLength, Frame, Need};
use instar_abi::request::{
    Access, Answer, Before, Convert, Disk, DiskId, Given, Layer, LayerId, NeedKind, NewBacking, Op, RawGate,
    SnapshotName, TargetFormat,
};
use std::fs::File;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// The images to read, one behind the other; at least one.
    pub sources: Vec<ImageName>,
    /// The internal snapshot of the only source to read.
    pub snapshot: Option<SnapshotName>,
    /// The user's words for the target.
    pub target: Vec<u8>,
    /// Its path.
    pub target_path: Vec<u8>,
    /// The target is there (`-n`) and holds this.
    pub existing: Option<Content>,
    /// What to make; without its backing file.
    pub format: TargetFormat,
    /// The layer below the target.
    pub backing: Option<Backing>,
    /// Zero runs of this many bytes become holes; 0: none do.
    pub sparse_len: u32,
    /// Clusters may come in any order.
    pub any_order: bool,
    /// What can't be read becomes zeros.
    pub salvage: bool,
    /// Most bytes a second that are written.
    pub rate: Option<NonZeroU64>,
    /// The target is to be on the disk, not only in the page cache, when the run ends.
    pub durable: bool,
    /// When unknown content is raw, and when an unrecorded format is guessed.
    pub raw_gate: RawGate,
    /// Lanes for the mover.
    pub lanes: u8,
    /// What of this is not plain, by the options' names: an op image may lack some of it.
    pub asked: Vec<&'static str>,
}

/// The layer below a new image, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Name, read beside the target.
    pub name: Vec<u8>,
    /// Format.
    pub format: instar_abi::format::Format,
}

impl Meant {
    /// qemu-img's name of the target's format.
    #[must_use]
    pub const fn format_name(&self) -> &'static str {
        match self.format {
            TargetFormat::Raw => "raw",
            TargetFormat::Qcow2(_) | TargetFormat::Existing { .. } => "qcow2",
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
    let inputs = Inputs::open(meant)?;
    // Before there is anything to clean up.
    machine.catch_signals().map_err(Failure::NoEnd)?;
    let failed = |error| Failure::Create { typed: meant.target.clone(), format: meant.format_name(), error };
    let host = |error: std::io::Error| OpenError::Host(error.raw_os_error().unwrap_or(0));
    let path = path_of(&meant.target_path);
    if let Some(content) = meant.existing {
        let there = open::existing(path, &inputs.ids()).map_err(|error| Failure::Open {
            typed: meant.target.clone(),
            path: meant.target_path.clone(),
            error,
        })?;
        let file = there.file.try_clone().map_err(|error| failed(host(error)))?;
        let output = Output::existing(meant, there, content);
        Chain::new(meant, inputs, output)?.finish(meant, policy, machine, on_progress)?;
        return if meant.durable { file.sync_all().map_err(|error| keep_failed(meant, &error)) } else { Ok(()) };
    }
    let target = Target::create(path, &inputs.ids()).map_err(failed)?;
    let file = target.file().try_clone().map_err(|error| failed(host(error)))?;
    Chain::new(meant, inputs, Output::new(meant, file))?.finish(meant, policy, machine, on_progress)?;
    if let Some(signal) = machine.stop_signal() {
        return Err(Failure::NoEnd(NoEnd::Stopped(signal)));
    }
    target.keep(meant.durable).map_err(|error| keep_failed(meant, &error))
}

fn keep_failed(meant: &Meant, error: &std::io::Error) -> Failure {
    Failure::Keep { typed: meant.target.clone(), errno: error.raw_os_error().unwrap_or(0) }
}

/// The files that the user named, open.
struct Inputs {
    sources: Vec<Opened>,
    backing: Option<Opened>,
    claim: Claim,
}

impl Inputs {
    fn open(meant: &Meant) -> Result<Self, Failure> {
        let shared = meant.sources.iter().all(|name| name.shared);
        let claim = if shared { Claim::NONE } else { Claim::READ };
        let source = |name: &ImageName| {
            let claim = if name.shared { Claim::NONE } else { Claim::READ };
            open::source(path_of(&name.path), claim).map_err(|error| Failure::Open {
                typed: name.typed.clone(),
                path: name.path.clone(),
                error,
            })
        };
        let sources = meant.sources.iter().map(source).collect::<Result<_, _>>()?;
        let backing = meant.backing.as_ref().map(|backing| {
            let path = full_backing_name(&meant.target_path, &backing.name).unwrap_or_default();
            open::source(path_of(&path), claim).map_err(|error| {
                let refusal = match error {
                    OpenError::Host(errno) => Refusal::Host(errno),
                    OpenError::Lock(error) => Refusal::Lock(error),
                    OpenError::Kind | OpenError::SameFile => Refusal::Kind,
                };
                Failure::Named(Box::new(NamedFailure {
                    top: meant.target.clone(),
                    depth: 0,
                    kind: NeedKind::Backing,
                    name: backing.name.clone(),
                    path: path_of(&path).to_owned(),
                    error: NamedError::Refused(refusal),
                }))
            })
        });
        Ok(Self { sources, backing: backing.transpose()?, claim })
    }

    fn ids(&self) -> Vec<FileId> {
        self.sources.iter().chain(&self.backing).map(|opened| opened.id).collect()
    }
}

/// The target as a disk of the job.
struct Output {
    bytes: Arc<dyn DiskBytes>,
    capacity: u64,
    before: Before,
}

impl Output {
    fn new(meant: &Meant, file: File) -> Self {
        let bytes = Arc::new(OutputFile::new(file, limits::OUTPUT_CAPACITY));
        Self::throttled(meant, bytes, limits::OUTPUT_CAPACITY, Before::Empty)
    }

    fn existing(meant: &Meant, there: Opened, content: Content) -> Self {
        let len = there.len / 512 * 512;
        let before = match content {
            Content::Unknown => Before::Unknown { len },
            Content::Zeros => Before::Zeros { len },
        };
        Self::throttled(meant, Arc::new(ExistingFile::new(there.file, len)), len, before)
    }

    fn throttled(meant: &Meant, bytes: Arc<dyn DiskBytes>, capacity: u64, before: Before) -> Self {
        let bytes = match meant.rate {
            Some(rate) => Arc::new(Throttled::new(bytes, rate)),
            None => bytes,
        };
        Self { bytes, capacity, before }
    }
}

/// The job as it grows, and what is known of its layers beside the request.
struct Chain {
    job: Job,
    names: Names,
    paths: Vec<PathBuf>, // of each layer's file
    roots: Vec<usize>,   // of each layer: which of the user's images it lies below
    users: Vec<FileId>,  // of each of the user's images
    output: Arc<dyn DiskBytes>,
    capacity: u64,
    claim: Claim,
}

impl Chain {
    /// A job of the user's images and the target, which is disk 1.
    fn new(meant: &Meant, inputs: Inputs, output: Output) -> Result<Self, Failure> {
        let op = Op::Convert(Convert {
            sources: Vec::new(),
            snapshot: meant.snapshot.clone(),
            target: DiskId(1),
            target_format: meant.format.clone(),
            before: output.before,
            sparse_len: meant.sparse_len,
            any_order: meant.any_order,
            salvage: meant.salvage,
            offload: false,
        });
        let request =
            request(op, limits::CONVERT_BUDGET, meant.lanes).map_err(|e| Failure::Random(e.raw_os_error()))?;
        let job = Job { op: "convert", disks: Vec::new(), request, limits: limits::CONVERT };
        let mut names = Names { target_format: Some(meant.format_name()), ..Names::default() };
        names.asked.clone_from(&meant.asked);
        let (users, claim) = (inputs.ids(), inputs.claim);
        let (bytes, capacity) = (output.bytes, output.capacity);
        let (paths, roots) = (Vec::new(), Vec::new());
        let mut chain = Self { job, names, paths, roots, users, output: Arc::clone(&bytes), capacity, claim };
        let mut sources = Vec::new();
        for (index, (name, opened)) in meant.sources.iter().zip(inputs.sources).enumerate() {
            let window = name.window(opened.len).map_err(|error| Failure::Name { typed: name.typed.clone(), error })?;
            let layer = Layer { disk: DiskId(0), format: name.format(), raw_gate: meant.raw_gate, window };
            sources.push(chain.add_image(index, &name.typed, opened, layer));
            if index == 0 {
                chain.names.top.clone_from(&name.typed);
                let access = Access::Output { capacity };
                let len = if output.before == Before::Empty { 0 } else { capacity };
                chain.job.add_disk(Disk { len, access, data: None }, Arc::clone(&bytes));
                chain.names.disks.push(meant.target.clone());
            }
        }
        let new_backing = meant.backing.as_ref().zip(inputs.backing).map(|(backing, opened)| {
            let format = Some(backing.format);
            let layer = Layer { disk: DiskId(0), format, raw_gate: meant.raw_gate, window: None };
            let layer = chain.add_image(meant.sources.len(), &backing.name, opened, layer);
            NewBacking { name: backing.name.clone(), format: backing.format.name().into(), layer }
        });
        if let Op::Convert(convert) = &mut chain.job.request.op {
            convert.sources = sources;
            if let TargetFormat::Qcow2(options) = &mut convert.target_format {
                options.backing = new_backing;
            }
        }
        Ok(chain)
    }

    /// Adds an image of the user's, the `root`-th.
    fn add_image(&mut self, root: usize, typed: &[u8], opened: Opened, layer: Layer) -> LayerId {
        self.paths.push(opened.path.clone());
        self.roots.push(root);
        self.names.depths.push(0);
        self.names.tops.push(typed.to_vec());
        self.names.disks.push(opened.path.as_os_str().as_encoded_bytes().to_vec());
        let data = extents::of(&opened.file, opened.len);
        let disk = self.job.add_source(opened, data);
        self.job.add_layer(Layer { disk, ..layer })
    }

    /// Runs until the guest needs nothing more.
    fn finish(
        &mut self,
        meant: &Meant,
        policy: impl FnOnce() -> Result<Policy, PolicyError>,
        machine: &mut dyn Machine,
        on_progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Failure> {
        let mut needs = match self.run_once(machine, on_progress)? {
            Ran::Done(lengths) => return self.finish_output(&lengths, meant),
            Ran::Needs(needs) => needs,
        };
        let policy = policy().map_err(Failure::Policy)?;
        // Several images may well share what is below them; a cycle is one within a chain.
        let mut gates: Vec<Gate<'_>> = self.users.iter().map(|&user| Gate::new(&policy, &[user])).collect();
        for _ in 0..limits::RUNS_MAX {
            for need in &needs {
                self.answer(need, &mut gates, meant.raw_gate)?;
            }
            match self.run_once(machine, on_progress)? {
                Ran::Done(lengths) => return self.finish_output(&lengths, meant),
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
            _ => lie = Some(Lie::OutOfPlace),
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
    fn answer(&mut self, need: &Need, gates: &mut [Gate<'_>], raw_gate: RawGate) -> Result<(), Failure> {
        let asked = usize::try_from(need.layer.0).ok();
        let layer = asked.and_then(|index| {
            let top = self.names.tops.get(index)?.clone();
            Some((self.paths.get(index)?.clone(), *self.names.depths.get(index)?, *self.roots.get(index)?, top))
        });
        let (naming, depth, root, top) = layer.ok_or(Failure::Lie(Lie::OutOfPlace))?;
        let gate = gates.get_mut(root).ok_or(Failure::Lie(Lie::OutOfPlace))?;
        // A name that was answered already would be asked for without end.
        if self.job.request.answers.iter().any(|answer| (answer.layer, answer.kind) == (need.layer, need.kind)) {
            return Err(Failure::Lie(Lie::OutOfPlace));
        }
        let full = full_backing_name(naming.as_os_str().as_encoded_bytes(), &need.name).unwrap_or_default();
        let failed = |error| {
            Failure::Named(Box::new(NamedFailure {
                top: top.clone(),
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
                self.roots.push(root);
                self.names.depths.push(deeper);
                self.names.tops.push(top);
                Given::Layer(self.job.add_layer(Layer { disk, format, raw_gate, window: None }))
            }
            NeedKind::DataFile => Given::Disk(disk),
        };
        self.job.add_answer(Answer { layer: need.layer, kind: need.kind, name: need.name.clone(), given });
        Ok(())
    }

    fn finish_output(&self, lengths: &[FinalLength], meant: &Meant) -> Result<(), Failure> {
        let [FinalLength { disk: DiskId(1), len }] = lengths else { return Err(Failure::Lie(Lie::OutOfPlace)) };
        if *len > self.capacity {
            return Err(Failure::Lie(Lie::OutOfPlace));
        }
        self.output
            .finish(*len)
            .map_err(|error| Failure::Finish { typed: meant.target.clone(), errno: error.raw_os_error().unwrap_or(0) })
    }
}

/// How a run ended well.
enum Ran {
    Done(Vec<FinalLength>),
    Needs(Vec<Need>),
}
