//! One queue of one virtio-blk device.
//!
//! A request becomes one virtio request, or several where it has more segments than a descriptor
//! chain may have. Buffers belong to the queue while they are in flight. The device is not trusted
//! to answer well: an answer to nothing, a second one, a short one or a late one breaks the queue, and what
//! was in flight comes back as [`BlockError::Device`] without its buffers, which the device may
//! still write to.

use crate::bus::Notify;
use crate::mem::Identity;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{Ordering, fence};
use instar_abi::table::QUEUE_SIZE;
use instar_io::{Action, BlockError, BlockRequest, SECTOR_LEN};
use virtio_drivers::queue::VirtQueue;

/// The ring itself.
pub type Ring = VirtQueue<Identity, { QUEUE_SIZE as usize }>;

/// Most segments of one virtio request; longer requests are split.
const CHAIN_SEGMENTS_MAX: usize = 16;
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
/// No device writes this: a status that stays was never answered.
const STATUS_UNANSWERED: u8 = 0xff;

/// A virtio request in flight: its header and status byte, and the request it is a part of.
struct Part {
    /// `virtio_blk_req`: type, reserved, sector; little-endian.
    header: [u8; 16],
    status: [u8; 1],
    pending: usize,
    segments: Range<usize>,
}

/// A request in flight, until its last part is done.
struct Pending {
    id: u64,
    request: BlockRequest,
    parts_left: usize,
    result: Result<(), BlockError>,
}

/// A finished request with the number it was submitted under.
#[derive(Debug)]
pub struct Finished {
    /// As given to [`Queue::submit`].
    pub id: u64,
    /// The request.
    pub request: BlockRequest,
    /// How it went.
    pub result: Result<(), BlockError>,
}

/// One queue.
pub struct Queue {
    ring: Ring,
    notify: Notify,
    sectors: u64,
    chains: Chains,
    unannounced: bool,
    broken: bool,
    /// By the head descriptor's index.
    parts: [Option<Box<Part>>; QUEUE_SIZE as usize],
    pending: Vec<Option<Pending>>,
    finished: VecDeque<Finished>,
}

/// How a virtio request lies in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chains {
    /// As one descriptor, which points to a table of the others.
    Indirect,
    /// As a chain of descriptors.
    Long,
    /// As a chain with one descriptor of data: some devices take no other.
    OneSegment,
}

/// Why a request was not taken; it comes back.
#[derive(Debug)]
pub enum Refused {
    /// No room now.
    Full(BlockRequest),
    /// Never.
    Malformed(BlockRequest),
}

impl Queue {
    /// A queue over a ring of a device with `sectors` sectors.
    #[must_use]
    pub fn new(ring: Ring, notify: Notify, sectors: u64, chains: Chains) -> Self {
        Self {
            ring,
            notify,
            sectors,
            chains,
            unannounced: false,
            broken: false,
            parts: [const { None }; QUEUE_SIZE as usize],
            pending: Vec::new(),
            finished: VecDeque::new(),
        }
    }

    /// How to announce what was submitted, if anything was.
    pub fn take_notification(&mut self) -> Option<Notify> {
        if !core::mem::take(&mut self.unannounced) {
            return None;
        }
        // A device that is about to rest says so and then looks once more: either it sees what is new or we see that it rests.
        fence(Ordering::SeqCst);
        self.ring.should_notify().then_some(self.notify)
    }

    /// Takes a request.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn submit(&mut self, id: u64, request: BlockRequest) -> Result<(), Refused> {
        if !self.well_formed(&request) {
            return Err(Refused::Malformed(request));
        }
        let chain_segments = if self.chains == Chains::OneSegment { 1 } else { CHAIN_SEGMENTS_MAX };
        let parts = request.segments.len().div_ceil(chain_segments).max(1);
        // Each part has a header and a status.
        let descriptors = if self.chains == Chains::Indirect { parts } else { request.segments.len() + 2 * parts };
        if self.broken || self.free_descriptors() < descriptors {
            return Err(Refused::Full(request));
        }
        let index = self.pending.iter().position(Option::is_none).unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        let pending = self.pending[index].insert(Pending { id, request, parts_left: parts, result: Ok(()) });
        let mut offset = pending.request.offset;
        for part in 0..parts {
            let first = part * chain_segments;
            let segments = first..pending.request.segments.len().min(first + chain_segments);
            let part = Part::new(pending.request.action, offset, index, segments.clone());
            offset += pending.request.segments[segments].iter().map(|s| s.len() as u64).sum::<u64>();
            let mut part = Box::new(part);
            // SAFETY: header and status live in a box that stays in `parts`, the segments in a request that
            // stays in `pending`, both unmoved and untouched until `pop_used` succeeds for this
            // head (`poll`), or for ever when the queue breaks (`break_down`).
            let added =
                part.with_chain(&mut pending.request, |inputs, outputs| unsafe { self.ring.add(inputs, outputs) });
            match added {
                Ok(head) => self.parts[usize::from(head)] = Some(part),
                // Room was made sure of; a ring that refuses all the same is a device's doing or our bug.
                Err(_) => {
                    self.break_down();
                    return Ok(());
                }
            }
        }
        self.unannounced = true;
        Ok(())
    }

    /// The next finished request.
    pub fn poll(&mut self) -> Option<Finished> {
        while self.finished.is_empty() && !self.broken {
            let head = self.ring.peek_used()?;
            self.complete(head);
        }
        self.finished.pop_front()
    }

    fn complete(&mut self, head: u16) {
        let Some(mut part) = self.parts.get_mut(usize::from(head)).and_then(Option::take) else {
            return self.break_down();
        };
        let Some(pending) = self.pending.get_mut(part.pending).and_then(Option::as_mut) else {
            return self.break_down();
        };
        // SAFETY: the same buffers, in the same order, as `submit` gave for this head.
        let popped = part
            .with_chain(&mut pending.request, |inputs, outputs| unsafe { self.ring.pop_used(head, inputs, outputs) });
        let expected = 1 + match pending.request.action {
            Action::Read => pending.request.segments[part.segments.clone()].iter().map(Vec::len).sum(),
            Action::Write | Action::Flush => 0,
        };
        let result = match (popped, part.status) {
            (Ok(len), [STATUS_OK]) if len as usize == expected => Ok(()),
            (Ok(_), [STATUS_UNSUPPORTED]) => Err(BlockError::Unsupported),
            (Ok(_), [STATUS_OK | STATUS_UNANSWERED]) | (Err(_), _) => {
                self.parts[usize::from(head)] = Some(part);
                return self.break_down();
            }
            (Ok(_), _) => Err(BlockError::Io),
        };
        pending.result = pending.result.and(result);
        pending.parts_left -= 1;
        if pending.parts_left == 0
            && let Some(Pending { id, request, result, .. }) = self.pending[part.pending].take()
        {
            self.finished.push_back(Finished { id, request, result });
        }
    }

    /// The device broke the contract: nothing more is sent, and everything in flight has failed.
    /// Its buffers are given up, not freed: the device may still write to them.
    fn break_down(&mut self) {
        self.broken = true;
        for part in &mut self.parts {
            core::mem::forget(part.take());
        }
        for Pending { id, mut request, .. } in self.pending.drain(..).flatten() {
            core::mem::forget(core::mem::take(&mut request.segments));
            self.finished.push_back(Finished { id, request, result: Err(BlockError::Device) });
        }
    }

    fn free_descriptors(&self) -> usize {
        if self.chains == Chains::Indirect {
            self.parts.iter().filter(|part| part.is_none()).count()
        } else {
            self.ring.available_desc()
        }
    }

    fn well_formed(&self, request: &BlockRequest) -> bool {
        let aligned = |len: u64| len.is_multiple_of(SECTOR_LEN);
        let data = !matches!(request.action, Action::Flush);
        let end = request.offset.checked_add(request.len());
        data != request.segments.is_empty()
            && aligned(request.offset)
            && request.segments.iter().all(|s| !s.is_empty() && aligned(s.len() as u64))
            && end.is_some_and(|end| end.div_ceil(SECTOR_LEN) <= self.sectors)
    }
}

impl Part {
    fn new(action: Action, offset: u64, pending: usize, segments: Range<usize>) -> Self {
        let kind: u32 = match action {
            Action::Read => 0,
            Action::Write => 1,
            Action::Flush => 4,
        };
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&(offset / SECTOR_LEN).to_le_bytes());
        Self { header, status: [STATUS_UNANSWERED], pending, segments }
    }

    /// Hands the part's descriptor chain to `f`: what the device reads, and what it writes.
    fn with_chain<R>(
        &mut self,
        request: &mut BlockRequest,
        f: impl for<'a> FnOnce(&'a [&'a [u8]], &'a mut [&'a mut [u8]]) -> R,
    ) -> R {
        let segments = &mut request.segments[self.segments.clone()];
        match request.action {
            Action::Read => {
                let mut outputs: [&mut [u8]; CHAIN_SEGMENTS_MAX + 1] = core::array::from_fn(|_| &mut [][..]);
                let count = segments.len();
                for (output, segment) in outputs.iter_mut().zip(segments) {
                    *output = segment;
                }
                outputs[count] = &mut self.status;
                f(&[&self.header], &mut outputs[..=count])
            }
            Action::Write | Action::Flush => {
                let mut inputs: [&[u8]; CHAIN_SEGMENTS_MAX + 1] = [&[]; CHAIN_SEGMENTS_MAX + 1];
                inputs[0] = &self.header;
                for (input, segment) in inputs[1..].iter_mut().zip(segments.iter()) {
                    *input = segment;
                }
                f(&inputs[..=segments.len()], &mut [&mut self.status])
            }
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
