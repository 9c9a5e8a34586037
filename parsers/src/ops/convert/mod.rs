//! convert: copy the content of an image, its chain flattened, into a new image.

mod sources;
mod target;

use super::{Reply, ask};
use crate::align;
use crate::codec::Codecs;
use crate::mover::{self, Format, Target};
use crate::plan;
use crate::store::{Budget, Queue};
use alloc::vec::Vec;
use instar_abi::error::{Error, TargetError};
use instar_abi::reply::{End, FinalLength, Frame, Unreadable};
use instar_abi::request::{Before, Convert, Disk, DiskId, Op, Qcow2Options, Request, TargetFormat};
use instar_io::{Env, SECTOR_LEN};
use sources::{Found, open_images};
use target::{capacity, disks_of, make};

/// From this virtual size on, Zstandard is left to the full set of codecs: a second start costs some milliseconds.
const FULL_LEN_MIN: u64 = 8 << 20;
/// Ranges of one [`Frame::Unreadable`].
const UNREADABLE_MAX: usize = 256;

/// Copies an image; sends [`Frame::Needs`] and ends with [`End::NeedsMore`] before anything is written when an image
/// names something that the job has no answer for.
///
/// # Errors
/// [`Error::WrongOp`] for another operation or a target that is no output; what qemu-img refuses; those of reads,
/// writes and of the reply.
pub fn convert<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    convert_with(Codecs::SMALL, request, env)
}

/// [`convert`] with every codec: it writes compressed clusters, too, and reads those of Zstandard faster. It is an image
/// of its own, several times as large.
///
/// # Errors
/// Those of [`convert`].
pub fn convert_full<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    convert_with(Codecs::FULL, request, env)
}

fn convert_with<E: Env>(codecs: Codecs, request: &Request, env: &mut E) -> Result<End, Error> {
    let Op::Convert(convert) = &request.op else { return Err(Error::WrongOp) };
    let with_target = disks_of(&request.disks, convert);
    let disks = with_target.as_deref().unwrap_or(&request.disks);
    capacity(disks, convert.target).ok_or(Error::WrongOp)?;
    supported(convert, codecs)?;
    let mut budget = Budget::from(request.budget);
    let images = match open_images(request, disks, convert, env, &mut budget)? {
        Found::Complete(images) => images,
        Found::Incomplete(needs) => return ask(env, needs),
    };
    if !codecs.can_encode() && images.decode_zstd() && images.sources_len() >= FULL_LEN_MIN {
        return Ok(End::NeedsFull);
    }
    if convert.part.is_some_and(|part| part.start > images.sources_len()) {
        let mut reply = Reply::default();
        reply.push(env, &Frame::PastEnd)?;
        reply.flush(env)?;
    }
    let made = make(convert, codecs, disks, &images, env, &mut budget)?;
    let total = made.target.virtual_size;
    let source = images.into_source(convert, budget, made.wanted);
    let content_len = content_len(request, total);
    let moved = mover::run(env, source, &made.target, disks, content_len)?;
    let mut lengths = Vec::new();
    if let Some((disk, len)) = made.data_file {
        // Its content must be there before anything leads to it.
        plan::flush(&mut Queue::new(env.lane()), disk)?;
        lengths.push(FinalLength { disk, len });
    }
    lengths.insert(0, FinalLength { disk: convert.target, len: finish(made.target, env)? });
    tell(env, moved.lost, total)?;
    Ok(End::Done { lengths })
}

/// Tells what was lost, and that all is done.
fn tell<E: Env>(env: &mut E, lost: Vec<Unreadable>, total: u64) -> Result<(), Error> {
    let mut reply = Reply::default();
    for lost in lost.chunks(UNREADABLE_MAX) {
        reply.push(env, &Frame::Unreadable(lost.to_vec()))?;
    }
    reply.push(env, &Frame::Progress { done: total, total })?;
    reply.flush(env)
}

/// Refuses what this op can't do.
fn supported(convert: &Convert, codecs: Codecs) -> Result<(), Error> {
    let format = match &convert.target_format {
        TargetFormat::Raw => true,
        // Concatenated sources have no layer below.
        TargetFormat::Qcow2(Qcow2Options { compress, backing, .. }) => {
            let is_layered = backing.is_none() || convert.sources.len() == 1;
            is_layered && (codecs.can_encode() || !compress) && convert.before == Before::Empty
        }
        TargetFormat::Existing { compress, .. } => {
            (codecs.can_encode() || !compress) && convert.before != Before::Empty
        }
    };
    let is_one = convert.sources.len() == 1;
    let snapshot = convert.snapshot.is_none() || is_one;
    let is_new = match &convert.target_format {
        TargetFormat::Raw => true,
        TargetFormat::Qcow2(options) => options.backing.is_none(),
        TargetFormat::Existing { .. } => false,
    };
    let part = convert.part.is_none() || (is_one && is_new && !convert.top_only);
    let top_only = !convert.top_only || (is_one && convert.before != Before::Empty);
    if format && snapshot && part && top_only { Ok(()) } else { Err(Error::Target(TargetError::Unsupported)) }
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
    let disk: DiskId = target.disk;
    match target.format {
        Format::Raw => {
            plan::flush(&mut queue, disk)?;
            // A target that exists keeps what it has beyond.
            Ok(align::up(target.virtual_size, SECTOR_LEN).unwrap_or(target.virtual_size).max(target.old_len))
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
