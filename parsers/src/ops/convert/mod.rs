//! convert: copy the content of an image, its chain flattened, into a new image.

use super::Reply;
use crate::align;
use crate::image::{Chain, Resolved};
use crate::mover::{self, Format, Ledger, Source, Target};
use crate::plan;
use crate::qcow2::create::{Layout, Writer};
use crate::store::{Budget, Cache, Queue, Store};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use instar_abi::error::{Error, TargetError, WriteError};
use instar_abi::reply::{End, FinalLength, Frame, Need};
use instar_abi::request::{Access, Before, Compression, Convert, Disk, Op, Qcow2Options, Request, TargetFormat};
use instar_io::Env;
use spin::Mutex;

/// Copies an image; sends [`Frame::Needs`] and ends with [`End::NeedsMore`] before anything is written when the source
/// names something that the job has no answer for.
///
/// # Errors
/// [`Error::WrongOp`] for another operation or a target that is no output; what qemu-img refuses; those of reads,
/// writes and of the reply.
pub fn convert<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    let Op::Convert(convert) = &request.op else { return Err(Error::WrongOp) };
    let target_disk = usize::try_from(convert.target.0).ok().and_then(|index| request.disks.get(index));
    let Some(Disk { access: Access::Output { capacity }, .. }) = target_disk else { return Err(Error::WrongOp) };
    supported(convert)?;
    let mut budget = Budget::from(request.budget);
    let chains = match open_sources(request, convert, env, &mut budget)? {
        Sources::Complete(chains) => chains,
        Sources::Incomplete(needs) => return ask(env, needs),
    };
    let virtual_size = chains.iter().fold(0u64, |sum, chain| sum.saturating_add(chain.virtual_size()));
    let target = target(convert, *capacity, virtual_size, &mut budget)?;
    let source = Source::new(chains, budget, target.sparse_len == 0);
    let content_len = content_len(request, virtual_size);
    mover::run(env, source, &target, &request.disks, content_len)?;
    let len = finish(target, env)?;
    let mut reply = Reply::default();
    reply.push(env, &Frame::Progress { done: virtual_size, total: virtual_size })?;
    reply.flush(env)?;
    Ok(End::Done { lengths: vec![FinalLength { disk: convert.target, len }] })
}

/// Refuses what this op can't do.
fn supported(convert: &Convert) -> Result<(), Error> {
    let format = match &convert.target_format {
        TargetFormat::Raw => true,
        // There is no encoder for zstd, and only raw targets may exist.
        TargetFormat::Qcow2(Qcow2Options { compress, compression, backing, .. }) => {
            backing.is_none() && !(*compress && *compression == Compression::Zstd) && convert.before == Before::Empty
        }
        TargetFormat::Existing { .. } => false,
    };
    let snapshot = convert.snapshot.is_none() || convert.sources.len() == 1;
    if format && snapshot && !convert.salvage { Ok(()) } else { Err(Error::Target(TargetError::Unsupported)) }
}

/// The chains of all sources, or what is missing to build them.
enum Sources {
    Complete(Vec<Chain>),
    Incomplete(Vec<Need>),
}

fn open_sources<E: Env>(
    request: &Request,
    convert: &Convert,
    env: &mut E,
    budget: &mut Budget,
) -> Result<Sources, Error> {
    let mut queue = Queue::new(env.lane());
    let mut cache = Cache::new();
    let mut store = Store { queue: &mut queue, cache: &mut cache, budget, disks: &request.disks };
    let mut chains = Vec::new();
    let mut needs = Vec::new();
    for &source in &convert.sources {
        match Chain::open(&mut store, request, source)? {
            Resolved::Complete(chain) => chains.push(chain),
            // A source that is given twice asks once.
            Resolved::Incomplete(more) => more.into_iter().for_each(|need| {
                if !needs.contains(&need) {
                    needs.push(need);
                }
            }),
        }
    }
    if !needs.is_empty() {
        return Ok(Sources::Incomplete(needs));
    }
    if let (Some(name), Some(chain)) = (&convert.snapshot, chains.first_mut()) {
        chain.select_snapshot(&mut store, name)?;
    }
    Ok(Sources::Complete(chains))
}

fn ask<E: Env>(env: &mut E, needs: Vec<Need>) -> Result<End, Error> {
    let mut reply = Reply::default();
    reply.push(env, &Frame::Needs(needs))?;
    reply.flush(env)?;
    Ok(End::NeedsMore)
}

fn target(convert: &Convert, capacity: u64, virtual_size: u64, budget: &mut Budget) -> Result<Target, Error> {
    let disk = convert.target;
    let format = match &convert.target_format {
        TargetFormat::Raw if virtual_size > capacity => {
            return Err(Error::Write(WriteError::Capacity { disk, end: virtual_size }));
        }
        TargetFormat::Raw => Format::Raw,
        TargetFormat::Existing { .. } => return Err(Error::Target(TargetError::Unsupported)),
        TargetFormat::Qcow2(options) => {
            let layout = Layout::try_from(options).map_err(Error::Target)?;
            let writer = Writer::new(budget, layout, virtual_size, disk, capacity)?;
            let compress = options.compress.then(|| layout.cluster_size());
            Format::Qcow2 { granule: layout.granule(), compress, ledger: Box::new(Mutex::new(Ledger::new(writer))) }
        }
    };
    let (sparse_len, old_len) = match convert.before {
        Before::Empty => (convert.sparse_len, None),
        // Whatever is there is written over, by zeros too.
        Before::Unknown { len } => (0, Some(len)),
        Before::Zeros { len } => (convert.sparse_len, Some(len)),
    };
    // Both are counted in sectors, as in QEMU.
    if let Some(len) = old_len.filter(|len| align::up(*len, 512).is_some_and(|len| len < virtual_size)) {
        return Err(Error::Target(TargetError::TooSmall { len, needed: virtual_size }));
    }
    Ok(Target { disk, capacity, virtual_size, old_len: old_len.unwrap_or(0), sparse_len, format })
}

/// Most bytes of content that there can be, compression aside.
fn content_len(request: &Request, virtual_size: u64) -> u64 {
    let data_len = |disk: &Disk| match &disk.data {
        Some(data) => data.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.len)),
        None => disk.len,
    };
    request.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(data_len(disk))).min(virtual_size)
}

/// Writes what is still missing, in order, and makes it durable; the exact length of the file.
fn finish<E: Env>(target: Target, env: &mut E) -> Result<u64, Error> {
    let mut queue = Queue::new(env.lane());
    let disk = target.disk;
    match target.format {
        Format::Raw => {
            plan::flush(&mut queue, disk)?;
            // A target that exists keeps what it has beyond.
            Ok(align::up(target.virtual_size, 512).unwrap_or(target.virtual_size).max(target.old_len))
        }
        Format::Qcow2 { ledger, .. } => {
            let mut finish = ledger.into_inner().into_writer().finish()?;
            let len = finish.file_len();
            while let Some(plan) = finish.next_plan() {
                plan::apply(plan, &mut queue, disk)?;
            }
            Ok(len)
        }
    }
}

#[cfg(test)]
mod tests;
