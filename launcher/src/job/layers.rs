//! A job as it grows from run to run: what the user named, and what a guest asks for on the way.
//!
//! A guest that lacks something says so before it has written anything. The gate decides, the file joins the job, and a
//! fresh guest starts with the fuller one.
#![forbid(unsafe_code)]

use super::failure::{Failure, GuestFailure, NamedError, NamedFailure, Names};
use super::info::chain_format;
use super::name::{ImageName, NameBelow};
use super::open::{self, FileId, Opened, path_of};
use super::{CONVERT_FULL, Job, Machine, Then, extents, limits, op_image, request};
use crate::disk::Disk as DiskBytes;
use crate::disk::bytes::{CacheMode, FileBytes};
use crate::disk::lock::Claim;
use crate::gate::policy::{Policy, PolicyError};
use crate::gate::{Gate, Refusal};
use crate::render::image_file::full_backing_name;
use crate::render::report::Lie;
use instar_abi::format::Format;
use instar_abi::reply::{End, FinalLength, Frame, Need};
use instar_abi::request::{Answer, Below, Disk, DiskId, Given, Layer, LayerId, NeedKind, Op, RawGate};
use std::path::PathBuf;
use std::sync::Arc;

/// How everything that is only read is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// What is claimed of files that images name.
    pub claim: Claim,
    /// How files are read.
    pub cache: CacheMode,
    /// When unknown content is raw, and when an unrecorded format is guessed.
    pub raw_gate: RawGate,
}

/// Judges a frame of a guest; with it come the files behind the job's disks.
pub(super) type OnFrame<'a> = dyn FnMut(Frame, &[Vec<u8>]) -> Result<(), Lie> + 'a;

/// The job as it grows, and what is known of its layers beside the request.
pub(super) struct Layers {
    job: Job,
    names: Names,
    reading: Reading,
    paths: Vec<PathBuf>,              // of each layer's file
    roots: Vec<usize>,                // of each layer: which of the user's images it lies below
    users: Vec<FileId>,               // of each of the user's images
    below: Vec<(LayerId, ImageName)>, // what the user says is below, and is not yet in the job
    tables_len: u64,                  // bytes of the files that may hold tables
}

impl Layers {
    /// A job without disks; [`Layers::op_mut`] completes the operation when they are there.
    pub fn new(op: Op, limits: limits::Limits, lanes: u8, reading: Reading) -> Result<Self, Failure> {
        // What it may use up is known when its files are.
        let request = request(op, limits::walk_budget(0), lanes).map_err(|e| Failure::Random(e.raw_os_error()))?;
        let job = Job { op: op_image(&request.op), disks: Vec::new(), request, limits };
        let (names, paths, roots, users) = (Names::default(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { job, names, reading, paths, roots, users, below: Vec::new(), tables_len: 0 })
    }

    /// The operation.
    pub const fn op_mut(&mut self) -> &mut Op {
        &mut self.job.request.op
    }

    /// What messages call things.
    pub const fn names_mut(&mut self) -> &mut Names {
        &mut self.names
    }

    /// Adds an image that the user named. The first is the one that messages speak of.
    pub fn add_named(&mut self, name: &ImageName, opened: Opened) -> Result<LayerId, Failure> {
        let window = name.window(opened.len).map_err(|error| Failure::Name { typed: name.typed.clone(), error })?;
        if self.names.top.is_empty() {
            self.names.top.clone_from(&name.typed);
        }
        let layer = self.add_image((0, &name.typed), opened, name.format(), window)?;
        self.note_below(layer, name);
        Ok(layer)
    }

    fn note_below(&mut self, layer: LayerId, name: &ImageName) {
        match &name.below {
            NameBelow::AsNamed => {}
            NameBelow::Nothing => self.set_below(layer, Below::Nothing),
            NameBelow::Image(below) => self.below.push((layer, (**below).clone())),
        }
    }

    fn set_below(&mut self, layer: LayerId, below: Below) {
        let index = usize::try_from(layer.0).ok();
        if let Some(layer) = index.and_then(|index| self.job.request.layers.get_mut(index)) {
            layer.below = below;
        }
    }

    /// Opens what the user says is below the images, behind all that the operation names.
    fn open_below(&mut self) -> Result<(), Failure> {
        while let Some((above, name)) = self.below.pop() {
            let index = usize::try_from(above.0).unwrap_or(usize::MAX);
            let top = self.names.tops.get(index).cloned().unwrap_or_default();
            let depth = self.names.depths.get(index).copied().unwrap_or(0);
            let opened = open::source(path_of(&name.path), self.reading.claim).map_err(|error| {
                Failure::Named(Box::new(NamedFailure {
                    top: top.clone(),
                    depth,
                    kind: NeedKind::Backing,
                    name: name.path.clone(),
                    path: path_of(&name.path).to_owned(),
                    error: NamedError::Refused(error.into()),
                }))
            })?;
            let window = name.window(opened.len).map_err(|error| Failure::Name { typed: name.typed.clone(), error })?;
            let layer = self.add_image((depth + 1, &top), opened, name.format(), window)?;
            self.set_below(above, Below::Layer(layer));
            self.note_below(layer, &name);
        }
        Ok(())
    }

    /// What the host knows of a file, for an operation that asks what is in it: to tell takes a walk through the page cache
    /// on some file systems.
    fn host(&self, opened: &Opened, format: Option<Format>) -> extents::Host {
        let is_dense = format == Some(Format::Qcow2) && is_dense(opened);
        match self.job.request.op {
            Op::Check(_) => extents::Host::default(),
            Op::Map(_) | Op::Measure(_) if is_dense => {
                extents::Host { data: None, allocated: Some(opened.actual_size) }
            }
            _ => extents::Host::of(opened),
        }
    }

    /// Adds an image of the user's; `below`: how deep it lies below what the user calls so.
    pub fn add_image(
        &mut self,
        below: (u32, &[u8]),
        opened: Opened,
        format: Option<Format>,
        window: Option<instar_abi::request::Window>,
    ) -> Result<LayerId, Failure> {
        let (id, len) = (opened.id, opened.len);
        self.note_root(opened.path.clone(), below, id);
        self.names.disks.push(opened.path.as_os_str().as_encoded_bytes().to_vec());
        let host = self.host(&opened, format);
        let bytes = FileBytes::source(opened.file, self.reading.cache);
        let bytes = open::in_cache_mode(bytes).map_err(|error| Failure::Open {
            typed: below.1.to_vec(),
            path: opened.path.as_os_str().as_encoded_bytes().to_vec(),
            error,
        })?;
        let disk = self.job.add_source(bytes, len, host);
        if format != Some(Format::Raw) {
            self.note_tables(len);
        }
        Ok(self.job.add_layer(Layer { disk, format, raw_gate: self.reading.raw_gate, window, below: Below::AsNamed }))
    }

    /// Adds an image that a disk of the job holds already, with what it names below it.
    pub fn add_image_on(
        &mut self,
        disk: DiskId,
        format: Format,
        path: PathBuf,
        below: (u32, &[u8]),
        id: FileId,
    ) -> LayerId {
        self.note_root(path, below, id);
        let disks = &self.job.request.disks;
        let len = usize::try_from(disk.0).ok().and_then(|index| disks.get(index)).map_or(0, |disk| disk.len);
        self.note_tables(len);
        self.job.add_layer(Layer::new(disk, Some(format), self.reading.raw_gate))
    }

    const fn note_tables(&mut self, len: u64) {
        self.tables_len = self.tables_len.saturating_add(len);
    }

    /// Adds a disk that is written.
    pub fn add_output(&mut self, name: &[u8], disk: Disk, bytes: Arc<dyn DiskBytes>) -> DiskId {
        self.names.disks.push(name.to_vec());
        self.job.add_disk(disk, bytes)
    }

    /// Notes what belongs to a layer of the user's that is added next.
    fn note_root(&mut self, path: PathBuf, (depth, typed): (u32, &[u8]), id: FileId) {
        self.paths.push(path);
        self.roots.push(self.users.len());
        self.users.push(id);
        self.names.depths.push(depth);
        self.names.tops.push(typed.to_vec());
    }

    /// Runs until the guest needs nothing more. `policy` is asked for only when an image names other files;
    /// `on_frame` judges every frame but the needs.
    pub fn run(
        &mut self,
        policy: impl FnOnce() -> Result<Policy, PolicyError>,
        machine: &mut dyn Machine,
        on_frame: &mut OnFrame<'_>,
    ) -> Result<Vec<FinalLength>, Failure> {
        let result = self.run_before_others(policy, machine, on_frame);
        machine.rest();
        result
    }

    /// The same, with runs of other jobs to follow: who has them run lets the machine rest.
    pub fn run_before_others(
        &mut self,
        policy: impl FnOnce() -> Result<Policy, PolicyError>,
        machine: &mut dyn Machine,
        on_frame: &mut OnFrame<'_>,
    ) -> Result<Vec<FinalLength>, Failure> {
        self.open_below()?;
        let mut needs = match self.run_once(machine, on_frame)? {
            Ran::Done(lengths) => return Ok(lengths),
            Ran::Needs(needs) => needs,
        };
        let policy = policy().map_err(Failure::Policy)?;
        // Several images may well share what is below them; a cycle is one within a chain.
        let mut gates: Vec<Gate<'_>> = self.users.iter().map(|&user| Gate::new(&policy, &[user])).collect();
        for _ in 0..limits::RUNS_MAX {
            for need in &needs {
                self.answer(need, &mut gates)?;
            }
            match self.run_once(machine, on_frame)? {
                Ran::Done(lengths) => return Ok(lengths),
                Ran::Needs(more) => needs = more,
            }
        }
        Err(Failure::Lie(Lie::TooMany))
    }

    fn run_once(&mut self, machine: &mut dyn Machine, on_frame: &mut OnFrame<'_>) -> Result<Ran, Failure> {
        let mut needs = Vec::new();
        let mut lie = None;
        let request = &mut self.job.request;
        request.budget = match request.op {
            Op::Check(_) => limits::CHECK_BUDGET,
            _ => limits::walk_budget(self.tables_len),
        };
        let paths = &self.names.disks;
        let mut sort = |frame: Frame| {
            let taken = match frame {
                Frame::Needs(more) if needs.len() + more.len() <= limits::NEEDS_MAX => {
                    needs.extend(more);
                    Ok(())
                }
                Frame::Needs(_) => Err(Lie::TooMany),
                frame if lie.is_none() => on_frame(frame, paths),
                _ => Ok(()),
            };
            lie = lie.or(taken.err());
        };
        let end = machine.run(&self.job, Then::GoOn, &mut sort).map_err(Failure::NoEnd)?;
        match (end, lie) {
            (End::Failed(error), _) => {
                let (names, errno) = (self.names.clone(), machine.host_errno());
                Err(Failure::Guest(Box::new(GuestFailure { names, error, errno })))
            }
            (_, Some(lie)) => Err(Failure::Lie(lie)),
            (End::Done { lengths }, None) if needs.is_empty() => Ok(Ran::Done(lengths)),
            (End::NeedsMore, None) if !needs.is_empty() => Ok(Ran::Needs(needs)),
            (End::NeedsFull, None) if needs.is_empty() && self.job.op != CONVERT_FULL => {
                self.job.op = CONVERT_FULL;
                self.run_once(machine, on_frame)
            }
            _ => Err(Failure::Lie(Lie::OutOfPlace)),
        }
    }

    /// Opens what a layer names and adds it to the job.
    fn answer(&mut self, need: &Need, gates: &mut [Gate<'_>]) -> Result<(), Failure> {
        let Reading { claim, cache, raw_gate } = self.reading;
        let asked = usize::try_from(need.layer.0).ok();
        let layer = asked.and_then(|index| {
            let top = self.names.tops.get(index)?.clone();
            Some((self.paths.get(index)?.clone(), *self.names.depths.get(index)?, *self.roots.get(index)?, top))
        });
        let (naming, depth, root, top) = layer.ok_or(Failure::Lie(Lie::OutOfPlace))?;
        let gate = gates.get_mut(root).ok_or(Failure::Lie(Lie::OutOfPlace))?;
        // A name that was answered already would be asked for without end.
        if self.job.request.answers.iter().any(|answer| is_answered(need, answer)) {
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
            NeedKind::DataFile | NeedKind::Extent => None,
        };
        let deeper = depth + u32::from(need.kind == NeedKind::Backing);
        let opened = gate
            .open(&naming, &need.name, deeper + 1, claim)
            .map_err(|refusal| failed(NamedError::Refused(refusal)))?;
        let path = opened.path.clone();
        let host = self.host(&opened, format);
        let bytes = FileBytes::source(opened.file, cache)
            .map_err(|errno| failed(NamedError::Refused(Refusal::Host(errno.raw_os_error()))))?;
        let disk = self.job.add_source(bytes, opened.len, host);
        // A data file has none.
        if need.kind == NeedKind::Extent || (need.kind == NeedKind::Backing && format != Some(Format::Raw)) {
            self.note_tables(opened.len);
        }
        self.names.disks.push(path.as_os_str().as_encoded_bytes().to_vec());
        let given = match need.kind {
            NeedKind::Backing => {
                self.paths.push(path);
                self.roots.push(root);
                self.names.depths.push(deeper);
                self.names.tops.push(top);
                Given::Layer(self.job.add_layer(Layer::new(disk, format, raw_gate)))
            }
            NeedKind::DataFile | NeedKind::Extent => Given::Disk(disk),
        };
        self.job.add_answer(Answer { layer: need.layer, kind: need.kind, name: need.name.clone(), given });
        Ok(())
    }
}

/// Whether a qcow2 file has too few holes for its metadata to have been made in advance, whatever its cluster size. Then
/// the holes say nothing of the image, and whoever does not read its content need not know them.
///
/// # Source
/// `qcow2_detect_metadata_preallocation` of QEMU 10.0: ten clusters in use for nine that the host has set aside.
const fn is_dense(opened: &Opened) -> bool {
    /// What rounding to clusters of at most 2 MiB can make of both sides.
    const ROUNDING: u64 = 7 << 20;
    opened.actual_size.saturating_mul(10) / 9 > opened.len.saturating_add(ROUNDING)
}

/// Whether a need has its answer. A layer has several files with parts of its content, and one of everything else.
fn is_answered(need: &Need, answer: &Answer) -> bool {
    (answer.layer, answer.kind) == (need.layer, need.kind)
        && (need.kind != NeedKind::Extent || answer.name == need.name)
}

/// How a run ended well.
enum Ran {
    Done(Vec<FinalLength>),
    Needs(Vec<Need>),
}
