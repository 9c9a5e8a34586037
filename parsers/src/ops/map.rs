//! map: tell where the content of a disk is.

use super::{Reply, ask, open_chain};
use crate::image::Resolved;
use crate::store::{Budget, Cache, Queue, Store};
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame, MapExtent};
use instar_abi::request::{Op, Request};
use instar_io::Env;

/// Extents of one frame.
const EXTENTS_MAX: usize = 4096;

/// Sends [`Frame::Extents`] of the disk, in memory that does not grow with their number. A range without a byte is one
/// extent without length, as in qemu-img.
///
/// # Errors
/// [`Error::WrongOp`] for another operation; what qemu-img refuses; those of the reads and of the reply.
pub fn map<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    let Op::Map(map) = &request.op else { return Err(Error::WrongOp) };
    let mut budget = Budget::from(request.budget);
    let mut cache = Cache::new();
    let mut reply = Reply::default();
    let mut chain = match open_chain(request, env, &mut budget, map.image)? {
        Resolved::Complete(chain) => chain,
        Resolved::Incomplete(needs) => return ask(env, needs),
    };
    let is_opaque = map.as_qemu_img && chain.format() == Some(Format::Vhdx);
    let end = map.len.and_then(|len| map.start.checked_add(len)).unwrap_or(u64::MAX).min(chain.virtual_size());
    let mut at = map.start;
    let mut current = MapExtent {
        start: at,
        len: 0,
        depth: 0,
        is_present: false,
        is_zero: false,
        is_data: false,
        is_compressed: false,
        at: None,
    };
    let mut extents = Vec::new();
    while at < end {
        let mut queue = Queue::new(env.lane());
        let disks = &request.disks;
        let mut store = Store { queue: &mut queue, cache: &mut cache, budget: &mut budget, disks };
        while at < end && extents.len() < EXTENTS_MAX {
            let next = if is_opaque {
                MapExtent { start: at, len: end.saturating_sub(at), is_present: true, is_data: true, ..current }
            } else {
                chain.status(&mut store, at..end)?
            };
            at = next.start.saturating_add(next.len);
            if !merge(&mut current, &next) {
                if current.len > 0 {
                    extents.push(current);
                }
                current = next;
            }
        }
        if extents.len() >= EXTENTS_MAX {
            reply.push(env, &Frame::Extents(core::mem::take(&mut extents)))?;
        }
    }
    extents.push(current);
    reply.push(env, &Frame::Extents(extents))?;
    reply.flush(env)?;
    Ok(End::Done { lengths: Vec::new() })
}

/// Takes `next` in when it continues `current`; whether it did.
fn merge(current: &mut MapExtent, next: &MapExtent) -> bool {
    let as_before = MapExtent { start: current.start, len: current.len, at: current.at, ..*next };
    let continues = match (current.at, next.at) {
        (None, None) => true,
        (Some(at), Some(next)) => at.disk == next.disk && at.offset.checked_add(current.len) == Some(next.offset),
        _ => false,
    };
    let joined = current.len > 0 && continues && as_before == *current;
    if joined {
        current.len = current.len.saturating_add(next.len);
    }
    joined
}
