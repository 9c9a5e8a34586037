//! info: describe one image without opening what is below it.

mod details;

use super::Reply;
use crate::image::{Driver, Image, Opened, attach_files, open};
use crate::qcow2::{self, Qcow2, Snapshots};
use crate::store::{Budget, Cache, Part, Queue, ReadAt, Store};
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_abi::facts;
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame, Need};
use instar_abi::request::{LayerId, Op, Request};
use instar_io::Env;

/// A frame of snapshots or nodes is sent when it has about this many bytes.
const FRAME_LEN: usize = 128 << 10;

/// Sends [`Frame::Image`], [`Frame::Specific`] and [`Frame::Snapshots`] of the image; [`Frame::Needs`] for the files that its
/// content is in.
///
/// # Errors
/// [`Error::WrongOp`] for another operation, or where details are asked for; what qemu-img refuses; those of the reads and
/// of the reply.
pub fn info<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    info_with(None, request, env)
}

/// [`info`], and [`Frame::Details`] where they are asked for. It is an image of its own: details are in the content, which
/// takes the decoders.
///
/// # Errors
/// Those of [`info`].
pub fn info_full<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    info_with(Some(details::details), request, env)
}

type Details = fn(&mut dyn ReadAt, &Request, LayerId, Opened) -> Result<Vec<facts::Node>, Error>;

fn info_with<E: Env>(details: Option<Details>, request: &Request, env: &mut E) -> Result<End, Error> {
    let Op::Info { image: id, details: wanted } = request.op else { return Err(Error::WrongOp) };
    let details = match (wanted, details) {
        (false, _) => None,
        (true, Some(details)) => Some(details),
        (true, None) => return Err(Error::WrongOp),
    };
    let mut parts =
        Parts { request, cache: Cache::new(), budget: Budget::from(request.budget), reply: Reply::default() };
    let mut needs = Vec::new();
    let opened = parts.with_store(env, |store| open_layer(store, request, id, &mut needs))?;
    if !needs.is_empty() {
        return super::ask(env, needs);
    }
    match &opened.driver {
        Driver::Raw(image) => parts.reply.push(env, &Frame::Image(raw_facts(image)))?,
        Driver::Qcow2(image) => qcow2_info(&mut parts, env, image, opened.part)?,
        Driver::Blocks(image) => {
            parts.reply.push(env, &Frame::Image(image.facts().clone()))?;
            push_nodes(&mut parts, env, image.specific(), Frame::Specific)?;
        }
    }
    if let Some(details) = details {
        let nodes = parts.with_store(env, |store| details(store, request, id, opened))?;
        push_nodes(&mut parts, env, nodes, Frame::Details)?;
    }
    parts.reply.flush(env)?;
    Ok(End::Done { lengths: Vec::new() })
}

struct Parts<'a> {
    request: &'a Request,
    cache: Cache,
    budget: Budget,
    reply: Reply,
}

impl Parts<'_> {
    /// Runs `work` over the job's disks; between two such runs the environment is free for replies.
    fn with_store<E: Env, T>(
        &mut self,
        env: &mut E,
        work: impl FnOnce(&mut dyn ReadAt) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut queue = Queue::new(env.lane());
        let disks = &self.request.disks;
        work(&mut Store { queue: &mut queue, cache: &mut self.cache, budget: &mut self.budget, disks })
    }
}

/// The layer, with the files that hold its content: their sizes are what there is to tell.
fn open_layer(io: &mut dyn ReadAt, request: &Request, id: LayerId, needs: &mut Vec<Need>) -> Result<Opened, Error> {
    let mut opened = open(io, id, request.layer(id).ok_or(Error::WrongOp)?)?;
    if let Driver::Blocks(image) = &mut opened.driver {
        *needs = attach_files(&mut opened.part.view(io), request, id, &mut **image)?;
    }
    Ok(opened)
}

fn raw_facts(image: &impl Image) -> facts::Image {
    facts::Image {
        format: Format::Raw,
        virtual_size: image.virtual_size(),
        cluster_size: None,
        encrypted: false,
        compressed: false,
        dirty: Some(false),
        backing: None,
        child_len: None,
        specific: None,
    }
}

fn qcow2_info<E: Env>(parts: &mut Parts<'_>, env: &mut E, image: &Qcow2, part: Part) -> Result<(), Error> {
    let (facts, nodes) = qcow2::facts(image);
    parts.reply.push(env, &Frame::Image(facts))?;
    push_nodes(parts, env, nodes, Frame::Specific)?;
    push_snapshots(parts, env, image, part)
}

/// Sends a tree, in as many frames as it takes.
fn push_nodes<E: Env>(
    parts: &mut Parts<'_>,
    env: &mut E,
    nodes: Vec<facts::Node>,
    frame: fn(Vec<facts::Node>) -> Frame,
) -> Result<(), Error> {
    let mut chunk = Vec::new();
    let mut len = 0usize;
    for node in nodes {
        len = len.saturating_add(node_len(&node));
        chunk.push(node);
        if len >= FRAME_LEN {
            parts.reply.push(env, &frame(core::mem::take(&mut chunk)))?;
            len = 0;
        }
    }
    if !chunk.is_empty() {
        parts.reply.push(env, &frame(chunk))?;
    }
    Ok(())
}

fn push_snapshots<E: Env>(parts: &mut Parts<'_>, env: &mut E, image: &Qcow2, part: Part) -> Result<(), Error> {
    // The table may have 64 MiB: a frame's worth at a time is read, and then sent.
    let mut snapshots = Snapshots::new(image.layer(), image.disk(), image.header());
    loop {
        let chunk = parts.with_store(env, |io| snapshots_chunk(&mut part.view(io), &mut snapshots))?;
        if chunk.is_empty() {
            return Ok(());
        }
        parts.reply.push(env, &Frame::Snapshots(chunk))?;
    }
}

fn snapshots_chunk(io: &mut dyn ReadAt, snapshots: &mut Snapshots) -> Result<Vec<facts::Snapshot>, Error> {
    let mut chunk: Vec<facts::Snapshot> = Vec::new();
    let mut len = 0usize;
    while len < FRAME_LEN {
        let Some(snapshot) = snapshots.next(io)? else { break };
        let snapshot = facts::Snapshot::from(snapshot);
        len = len.saturating_add(64).saturating_add(snapshot.id.len()).saturating_add(snapshot.name.len());
        chunk.push(snapshot);
    }
    Ok(chunk)
}

fn node_len(node: &facts::Node) -> usize {
    let value = match &node.value {
        facts::Value::Text(text) => text.len(),
        _ => 0,
    };
    value.saturating_add(node.key.len()).saturating_add(16)
}

#[cfg(test)]
mod tests;
