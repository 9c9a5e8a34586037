//! Reading again what could not be read, in smaller and smaller parts.

use super::UNIT;
use crate::store::Queue;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{Error, ReadError};
use instar_abi::request::DiskId;
use instar_io::{Action, BlockRequest, Blocks, SECTOR_LEN};

/// A read that failed, as far as it goes.
pub struct Reread {
    /// Its segments.
    pub segments: Vec<Vec<u8>>,
    /// What could not be read of them, from the first byte on, ascending.
    pub lost: Vec<Range<u64>>,
}

/// The segments of a read that failed, with what can be read of them and zeros for the rest, and that rest.
///
/// Each round halves what failed in the round before, from units down to sectors: at most two reads a sector.
///
/// # Errors
/// Failures other than of the medium.
pub fn reread<B: Blocks>(queue: &mut Queue<'_, B>, request: BlockRequest) -> Result<Reread, Error> {
    let total = request.len();
    let BlockRequest { disk, offset, mut segments, .. } = request;
    segments.iter_mut().for_each(|segment| segment.fill(0));
    let mut len = UNIT;
    let mut left: Vec<Range<u64>> = Vec::new();
    let mut at = 0u64;
    while at < total {
        left.push(at..at.saturating_add(len).min(total));
        at = at.saturating_add(len);
    }
    let mut lost = Vec::new();
    while !left.is_empty() {
        let failed = round(queue, (disk, offset), left, &mut segments)?;
        if len <= SECTOR_LEN {
            lost = failed;
            break;
        }
        len = len.div_ceil(2);
        left = failed.into_iter().flat_map(|range| halves(range, len)).collect();
    }
    Ok(Reread { segments, lost })
}

fn halves(range: Range<u64>, len: u64) -> impl Iterator<Item = Range<u64>> {
    let middle = range.start.saturating_add(len).min(range.end);
    [range.start..middle, middle..range.end].into_iter().filter(|half| !half.is_empty())
}

/// Reads ranges into segments; those that failed.
fn round<B: Blocks>(
    queue: &mut Queue<'_, B>,
    (disk, offset): (u32, u64),
    ranges: Vec<Range<u64>>,
    segments: &mut [Vec<u8>],
) -> Result<Vec<Range<u64>>, Error> {
    let mut tokens = Vec::with_capacity(ranges.len());
    for range in ranges {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let offset = offset.saturating_add(range.start);
        let request = BlockRequest { disk, action: Action::Read, offset, segments: vec![vec![0; len]] };
        tokens.push((queue.submit(request)?, range));
    }
    queue.kick();
    let mut failed = Vec::new();
    for (token, range) in tokens {
        match queue.wait(token) {
            Ok(read) => copy(segments, range.start, read.first().map_or(&[], Vec::as_slice)),
            Err(Error::Read(ReadError::Io { disk: failing, .. })) if failing == DiskId(disk) => failed.push(range),
            Err(error) => return Err(error),
        }
    }
    Ok(failed)
}

/// Copies bytes to place `at` of all segments together.
fn copy(segments: &mut [Vec<u8>], at: u64, mut bytes: &[u8]) {
    let mut at = usize::try_from(at).unwrap_or(usize::MAX);
    for segment in segments {
        let Some(room) = segment.get_mut(at..).filter(|room| !room.is_empty()) else {
            at = at.saturating_sub(segment.len());
            continue;
        };
        let (head, tail) = bytes.split_at_checked(room.len()).unwrap_or((bytes, &[]));
        if let Some(room) = room.get_mut(..head.len()) {
            room.copy_from_slice(head);
        }
        bytes = tail;
        at = 0;
    }
}
