//! The job as it grows from run to run.
#![forbid(unsafe_code)]

use super::inputs::Inputs;
use super::outputs::{DATA_FILE, Output, Outputs, TARGET};
use super::{Meant, News};
use crate::disk::bytes::{CacheMode, FileBytes};
use crate::disk::lock::Claim;
use crate::gate::policy::{Policy, PolicyError};
use crate::gate::{Gate, Refusal};
use crate::job::failure::{Failure, GuestFailure, NamedError, NamedFailure, Names};
use crate::job::info::chain_format;
use crate::job::open::{self, FileId, Opened, path_of};
use crate::job::{CONVERT_FULL, Job, Machine, Then, extents, limits, op_image, request};
use crate::render::image_file::full_backing_name;
use crate::render::report::Lie;
use instar_abi::format::Format;
use instar_abi::reply::{End, FinalLength, Frame, Need};
use instar_abi::request::{
    Access, Answer, Convert, Disk, DiskId, Given, Layer, LayerId, NeedKind, NewBacking, NewDataFile, Op, RawGate,
    TargetFormat,
};
use std::path::PathBuf;
use std::sync::Arc;

/// The job as it grows, and what is known of its layers beside the request.
pub(super) struct Chain {
    job: Job,
    names: Names,
    paths: Vec<PathBuf>, // of each layer's file
    roots: Vec<usize>,   // of each layer: which of the user's images it lies below
    users: Vec<FileId>,  // of each of the user's images
    claim: Claim,
    cache: CacheMode, // of all that is read
}

impl Chain {
    /// A job of the user's images and of what is written: [`TARGET`] and [`DATA_FILE`].
    pub fn new(meant: &Meant, inputs: Inputs, outputs: &Outputs) -> Result<Self, Failure> {
        let op = Op::Convert(Convert {
            sources: Vec::new(),
            snapshot: meant.snapshot.clone(),
            target: TARGET,
            target_format: meant.format.clone(),
            before: outputs.target.before,
            sparse_len: meant.sparse_len,
            any_order: meant.any_order,
            salvage: meant.salvage,
            // What goes down a pipe goes in order, past no other way.
            offload: meant.offload && !outputs.target.is_pipe(),
        });
        // One lane writes in order.
        let lanes = if outputs.target.is_pipe() { 1 } else { meant.lanes };
        let request = request(op, limits::CONVERT_BUDGET, lanes).map_err(|e| Failure::Random(e.raw_os_error()))?;
        let job = Job { op: op_image(&request.op), disks: Vec::new(), request, limits: limits::CONVERT };
        let mut names = Names { target_format: Some(meant.format_name()), ..Names::default() };
        names.asked.clone_from(&meant.asked);
        let (users, claim) = (inputs.ids(), inputs.claim);
        let mut chain =
            Self { job, names, paths: Vec::new(), roots: Vec::new(), users, claim, cache: meant.source_cache };
        let mut sources = Vec::new();
        for (index, (name, opened)) in meant.sources.iter().zip(inputs.sources).enumerate() {
            let window = name.window(opened.len).map_err(|error| Failure::Name { typed: name.typed.clone(), error })?;
            let layer = Layer { disk: DiskId(0), format: name.format(), raw_gate: meant.raw_gate, window };
            sources.push(chain.add_image(index, (0, &name.typed), opened, layer)?);
            if index == 0 {
                chain.names.top.clone_from(&name.typed);
                chain.add_output(&outputs.target);
                outputs.data.iter().for_each(|data| chain.add_output(data));
            }
        }
        let new_backing = meant.backing.as_ref().zip(inputs.backing).map(|(backing, opened)| {
            let format = Some(backing.format);
            let layer = Layer { disk: DiskId(0), format, raw_gate: meant.raw_gate, window: None };
            // To the user it is what the target names.
            let layer = chain.add_image(meant.sources.len(), (1, &meant.target), opened, layer)?;
            Ok(NewBacking { name: backing.name.clone(), format: backing.format.name().into(), layer })
        });
        let new_backing = new_backing.transpose()?;
        let new_data_file = meant.data_file.as_ref().map(|file| NewDataFile {
            name: file.name.clone(),
            disk: DATA_FILE,
            raw: file.raw,
        });
        let there = outputs.target.there.as_ref().map(|(path, id)| chain.add_target_image(meant, path.clone(), *id));
        if let Op::Convert(convert) = &mut chain.job.request.op {
            convert.sources = sources;
            match (&mut convert.target_format, there) {
                (TargetFormat::Qcow2(options), _) => {
                    options.backing = new_backing;
                    options.data_file = new_data_file;
                }
                (TargetFormat::Existing { image, .. }, Some(there)) => *image = there,
                (TargetFormat::Raw | TargetFormat::Existing { .. }, _) => {}
            }
        }
        Ok(chain)
    }

    fn add_output(&mut self, output: &Output) {
        let access = Access::Output { capacity: output.capacity };
        self.job.add_disk(Disk { len: output.len, access, data: None }, Arc::clone(&output.bytes));
        self.names.disks.push(output.name.clone());
    }

    /// The image that the target holds already, with what it names below it.
    fn add_target_image(&mut self, meant: &Meant, path: PathBuf, id: FileId) -> LayerId {
        self.add_layer_of(self.users.len(), path, (0, &meant.target));
        self.users.push(id);
        let format = Some(Format::Qcow2);
        self.job.add_layer(Layer { disk: TARGET, format, raw_gate: meant.raw_gate, window: None })
    }

    /// Notes what belongs to a layer of the user's that is added next.
    fn add_layer_of(&mut self, root: usize, path: PathBuf, (depth, typed): (u32, &[u8])) {
        self.paths.push(path);
        self.roots.push(root);
        self.names.depths.push(depth);
        self.names.tops.push(typed.to_vec());
    }

    /// Adds an image of the user's, the `root`-th; `below`: how deep it lies below what the user calls so.
    fn add_image(
        &mut self,
        root: usize,
        below: (u32, &[u8]),
        opened: Opened,
        layer: Layer,
    ) -> Result<LayerId, Failure> {
        self.add_layer_of(root, opened.path.clone(), below);
        self.names.disks.push(opened.path.as_os_str().as_encoded_bytes().to_vec());
        let data = extents::of(&opened.file, opened.len);
        let bytes = open::in_cache_mode(FileBytes::source(opened.file, self.cache)).map_err(|error| Failure::Open {
            typed: below.1.to_vec(),
            path: opened.path.as_os_str().as_encoded_bytes().to_vec(),
            error,
        })?;
        let disk = self.job.add_source(bytes, opened.len, data);
        Ok(self.job.add_layer(Layer { disk, ..layer }))
    }

    /// Runs until the guest needs nothing more.
    pub fn run(
        &mut self,
        meant: &Meant,
        policy: impl FnOnce() -> Result<Policy, PolicyError>,
        machine: &mut dyn Machine,
        on_news: &mut dyn FnMut(News),
    ) -> Result<Vec<FinalLength>, Failure> {
        let mut needs = match self.run_once(machine, on_news)? {
            Ran::Done(lengths) => return Ok(lengths),
            Ran::Needs(needs) => needs,
        };
        let policy = policy().map_err(Failure::Policy)?;
        // Several images may well share what is below them; a cycle is one within a chain.
        let mut gates: Vec<Gate<'_>> = self.users.iter().map(|&user| Gate::new(&policy, &[user])).collect();
        for _ in 0..limits::RUNS_MAX {
            for need in &needs {
                self.answer(need, &mut gates, meant.raw_gate)?;
            }
            match self.run_once(machine, on_news)? {
                Ran::Done(lengths) => return Ok(lengths),
                Ran::Needs(more) => needs = more,
            }
        }
        Err(Failure::Lie(Lie::TooMany))
    }

    fn run_once(&mut self, machine: &mut dyn Machine, on_news: &mut dyn FnMut(News)) -> Result<Ran, Failure> {
        let mut needs = Vec::new();
        let mut lie = None;
        let salvage = matches!(&self.job.request.op, Op::Convert(convert) if convert.salvage);
        let mut on_frame = |frame: Frame| match frame {
            Frame::Progress { done, total } => on_news(News::Progress { done, total }),
            Frame::Unreadable(parts) if salvage => {
                parts.iter().for_each(|part| on_news(News::Unreadable { offset: part.offset, len: part.len }));
            }
            Frame::Needs(more) if needs.len() + more.len() <= limits::FILES_MAX => needs.extend(more),
            Frame::Needs(_) => lie = Some(Lie::TooMany),
            _ => lie = Some(Lie::OutOfPlace),
        };
        let end = machine.run(&self.job, Then::GoOn, &mut on_frame).map_err(Failure::NoEnd)?;
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
                self.run_once(machine, on_news)
            }
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
        let bytes = FileBytes::source(opened.file, self.cache)
            .map_err(|errno| failed(NamedError::Refused(Refusal::Host(errno.raw_os_error()))))?;
        let disk = self.job.add_source(bytes, opened.len, data);
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
}

/// How a run ended well.
enum Ran {
    Done(Vec<FinalLength>),
    Needs(Vec<Need>),
}
