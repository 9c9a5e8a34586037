//! compare: tell whether two disks have the same content.
//!
//! Lanes take stretches of the disk in its order, read what either side has there, and hold it together. What both
//! sides have as zeros is never read. The first difference wins: whoever finds one stops the taking, and what was taken
//! before is still looked at.

mod lane;
mod pair;

use super::{Reply, ask, open_chain};
use crate::codec::Codecs;
use crate::image::{Chain, Resolved};
use crate::store::Budget;
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_abi::reply::{Compared, Difference, End, Frame};
use instar_abi::request::{Op, Request};
use instar_io::Env;
use lane::Lane;
use pair::{Pair, Shared};

/// Below this length one lane is enough: another core costs more than it brings.
const LANES_LEN_MIN: u64 = 8 << 20;

/// Sends [`Frame::Compared`].
///
/// # Errors
/// [`Error::WrongOp`] for another operation; what qemu-img refuses to open; [`Error::Compare`] for what could be opened
/// and not be read; those of the reply.
pub fn compare<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    let Op::Compare(compare) = &request.op else { return Err(Error::WrongOp) };
    let mut budget = Budget::from(request.budget);
    let mut needs = Vec::new();
    let mut chains: Vec<Chain> = Vec::new();
    for id in [compare.left, compare.right] {
        match open_chain(request, env, &mut budget, id)? {
            Resolved::Complete(chain) => chains.push(chain),
            Resolved::Incomplete(more) => needs.extend(more),
        }
    }
    if !needs.is_empty() {
        return ask(env, needs);
    }
    let (Some(right), Some(left)) = (chains.pop(), chains.pop()) else { return Err(Error::WrongOp) };
    let lens = [left.virtual_size(), right.virtual_size()];
    let [shorter, longer] = [lens[0].min(lens[1]), lens[0].max(lens[1])];
    let compared = if compare.is_strict && shorter != longer {
        Compared { difference: Some(Difference::Size), past_common: false }
    } else {
        let ids = [compare.left, compare.right];
        let pair = Pair::new([left, right], ids, budget, compare.is_strict);
        let difference = run(env, pair, request, longer)?;
        let is_common = difference.is_some_and(|difference| match difference {
            Difference::Size => true,
            Difference::Allocation(at) | Difference::Content(at) => at < shorter,
        });
        Compared { difference, past_common: shorter != longer && !is_common }
    };
    let mut reply = Reply::default();
    reply.push(env, &Frame::Compared(compared))?;
    reply.flush(env)?;
    Ok(End::Done { lengths: Vec::new() })
}

/// Compares on all lanes that are worth it; the first difference.
fn run<E: Env>(env: &mut E, pair: Pair, request: &Request, len: u64) -> Result<Option<Difference>, Error> {
    let shared = Shared::new(pair, len);
    let disks = &request.disks;
    if len < LANES_LEN_MIN || env.lanes() <= 1 {
        Lane::new(&shared, 0, env.lane(), disks, Codecs::SMALL).run();
    } else {
        env.run_lanes(&|index, blocks| Lane::new(&shared, index, blocks, disks, Codecs::SMALL).run());
    }
    shared.into_outcome()
}

#[cfg(test)]
mod tests;
