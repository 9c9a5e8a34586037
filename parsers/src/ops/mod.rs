//! The operations: `fn op<E: Env>(request: &Request, env: &mut E) -> Result<End, Error>`.
//!
//! An operation sends the frames of its result itself and returns how it ended; the caller sends that as
//! the last frame.

mod check;
mod compare;
mod convert;
mod info;
mod map;
mod measure;
mod reply;

pub use check::check;
pub use compare::compare;
pub use convert::{convert, convert_full};
pub use info::{info, info_full};
pub use map::map;
pub use measure::measure;
pub use reply::Reply;

use crate::image::{Chain, Resolved};
use crate::store::{Budget, Cache, Queue, Store};
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_abi::reply::{End, Frame, Need};
use instar_abi::request::{LayerId, Request};
use instar_io::Env;

/// Opens an image and everything below it, as far as the job's answers go.
fn open_chain<E: Env>(request: &Request, env: &mut E, budget: &mut Budget, image: LayerId) -> Result<Resolved, Error> {
    with_store(request, env, budget, |store| Chain::open(store, request, image))
}

/// Runs `work` over the job's disks, with a cache of its own.
fn with_store<E: Env, T>(
    request: &Request,
    env: &mut E,
    budget: &mut Budget,
    work: impl FnOnce(&mut Store<'_, '_, E::Lane>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut queue = Queue::new(env.lane());
    work(&mut Store { queue: &mut queue, cache: &mut Cache::new(), budget, disks: &request.disks })
}

/// Asks for what is missing; nothing has been written.
fn ask<E: Env>(env: &mut E, needs: Vec<Need>) -> Result<End, Error> {
    let mut reply = Reply::default();
    reply.push(env, &Frame::Needs(needs))?;
    reply.flush(env)?;
    Ok(End::NeedsMore)
}
