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
use instar_abi::request::{
    Access, Before, Compression, Convert, Disk, LayerId, Op, Qcow2Options, Request, TargetFormat,
};
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
    let source = supported(convert)?;
    let mut budget = Budget::from(request.budget);
    let chain = match open_source(request, source, env, &mut budget)? {
        Resolved::Complete(chain) => chain,
        Resolved::Incomplete(needs) => return ask(env, needs),
    };
    let virtual_size = chain.virtual_size();
    let target = target(convert, *capacity, virtual_size, &mut budget)?;
    let source = Source::new(chain, budget, convert.sparse_len == 0);
    let content_len = content_len(request, virtual_size);
    mover::run(env, source, &target, &request.disks, content_len)?;
    let len = finish(target, env)?;
    let mut reply = Reply::default();
    reply.push(env, &Frame::Progress { done: virtual_size, total: virtual_size })?;
    reply.flush(env)?;
    Ok(End::Done { lengths: vec![FinalLength { disk: convert.target, len }] })
}

/// The only source of a job of which nothing is asked that this op can't do.
fn supported(convert: &Convert) -> Result<LayerId, Error> {
    let default = match &convert.target_format {
        TargetFormat::Raw => true,
        // There is no encoder for zstd.
        TargetFormat::Qcow2(Qcow2Options { compress, compression, backing, .. }) => {
            backing.is_none() && !(*compress && *compression == Compression::Zstd)
        }
    };
    let plain = convert.snapshot.is_none() && convert.before == Before::Empty && !convert.any_order && !convert.salvage;
    match convert.sources[..] {
        [source] if default && plain => Ok(source),
        _ => Err(Error::Target(TargetError::Unsupported)),
    }
}

fn open_source<E: Env>(
    request: &Request,
    source: LayerId,
    env: &mut E,
    budget: &mut Budget,
) -> Result<Resolved, Error> {
    let mut queue = Queue::new(env.lane());
    let mut cache = Cache::new();
    let mut store = Store { queue: &mut queue, cache: &mut cache, budget, disks: &request.disks };
    Chain::open(&mut store, request, source)
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
        TargetFormat::Qcow2(options) => {
            let layout = Layout::try_from(options).map_err(Error::Target)?;
            let writer = Writer::new(budget, layout, virtual_size, disk, capacity)?;
            let compress = options.compress.then(|| layout.cluster_size());
            Format::Qcow2 { granule: layout.granule(), compress, ledger: Box::new(Mutex::new(Ledger::new(writer))) }
        }
    };
    Ok(Target { disk, capacity, virtual_size, sparse_len: convert.sparse_len, format })
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
            Ok(align::up(target.virtual_size, 512).unwrap_or(target.virtual_size))
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
