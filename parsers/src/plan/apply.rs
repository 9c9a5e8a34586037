//! Applying a plan: dumb and ordered, and without knowing a format.

use super::{Patch, Plan};
use crate::align;
use crate::store::Queue;
use alloc::vec;
use alloc::vec::Vec;
use instar_abi::error::{Error, WriteError};
use instar_abi::request::DiskId;
use instar_io::{Action, BlockRequest, Blocks, SECTOR_LEN};

/// Bytes of one request of a fill: 1 MiB.
const FILL_LEN: u64 = 1 << 20;

/// Applies a plan whose writes, fills and appends are whole sectors, and flushes after every epoch. Shortening a
/// file is the launcher's, by the final length.
///
/// # Errors
/// The device's; [`WriteError::Device`] for a patch that is not whole sectors.
pub fn apply<B: Blocks>(plan: Plan, queue: &mut Queue<'_, B>, disk: DiskId) -> Result<(), Error> {
    let mut len = plan.old_len;
    for epoch in plan.epochs {
        let mut tokens = Vec::new();
        for patch in epoch.patches {
            match patch {
                Patch::Write { at, bytes } => {
                    len = len.max(at.saturating_add(bytes.len() as u64));
                    tokens.push(queue.submit(write(disk, at, vec![bytes])?)?);
                }
                Patch::Append { bytes } => {
                    let at = len;
                    len = len.saturating_add(bytes.len() as u64);
                    tokens.push(queue.submit(write(disk, at, vec![bytes])?)?);
                }
                Patch::ZeroFill { at, len: count } => {
                    let end = at.saturating_add(count);
                    len = len.max(end);
                    let mut at = at;
                    while at < end {
                        let count = end.saturating_sub(at).min(FILL_LEN);
                        let zeros = vec![0; usize::try_from(count).unwrap_or(0)];
                        tokens.push(queue.submit(write(disk, at, vec![zeros])?)?);
                        at = at.saturating_add(count);
                    }
                }
                Patch::SetLen { len: new } => len = new,
            }
        }
        queue.kick();
        for token in tokens {
            queue.wait(token)?;
        }
        flush(queue, disk)?;
    }
    Ok(())
}

/// Makes all completed writes of a disk durable.
///
/// # Errors
/// The device's.
pub fn flush<B: Blocks>(queue: &mut Queue<'_, B>, disk: DiskId) -> Result<(), Error> {
    let request = BlockRequest { disk: disk.0, action: Action::Flush, offset: 0, segments: Vec::new() };
    let token = queue.submit(request)?;
    queue.kick();
    queue.wait(token)?;
    Ok(())
}

fn write(disk: DiskId, offset: u64, segments: Vec<Vec<u8>>) -> Result<BlockRequest, Error> {
    let request = BlockRequest { disk: disk.0, action: Action::Write, offset, segments };
    if align::within(offset | request.len(), SECTOR_LEN) == 0 {
        Ok(request)
    } else {
        Err(Error::Write(WriteError::Device { disk, offset }))
    }
}
