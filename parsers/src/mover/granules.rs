//! Stretches of granules: for targets that tell what belongs to the disk from what shows through it.
//!
//! ```text
//! source   | owned data      | zero            | nothing |data| nothing        | nothing      |
//! granule  |--------|--------|--------|--------|---------|----|---------|------|-------|------|
//! stretch   units             mark: Zero                   units, the rest of the granule from below
//! ```
//!
//! A granule is placed as a whole. Whole ones that need no bytes become marks, however long; one that the source owns
//! in part only is filled with what shows in the rest of it.

use super::stretch::{Mark, Piece, Source, Stretch, Zeros};
use crate::align;
use crate::image::{Extent, Kind};
use crate::store::Queue;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::Error;
use instar_abi::request::{Access, Disk, DiskId, LayerId};
use instar_io::{Blocks, SECTOR_LEN};

/// Most marks of a stretch.
const MARKS_MAX: usize = 64;
/// Most bytes of one range that the launcher copies: it can't be interrupted there.
pub const COPY_LEN_MAX: u64 = 64 << 20;

impl Source {
    /// Fills a stretch with whole granules from `next` on.
    pub(super) fn take_granules<B: Blocks>(
        &mut self,
        stretch: &mut Stretch,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        granule: u64,
        group: u64,
    ) -> Result<(), Error> {
        while stretch.room_end(self.next, group) > self.next && self.marks_room(stretch, self.next) > 0 {
            let Some((extent, layer)) = self.extent(queue, disks)? else { return Ok(()) };
            let whole = match extent.end() {
                end if end >= self.virtual_size => extent.len,
                end => align::down(end, granule).saturating_sub(extent.start),
            };
            if whole == 0 {
                self.pending = Some((extent, layer));
                self.add_mixed(stretch, queue, disks, granule, group)?;
                continue;
            }
            let (extent, mut rest) = extent.split(whole);
            let done = self.add_whole(stretch, extent, layer, disks, (granule, group));
            if done < extent.len {
                let (_, left) = extent.split(done);
                // The rest is of the same extent: it is found again where both are left.
                rest =
                    left.map(|left| Extent { len: left.len.saturating_add(rest.map_or(0, |rest| rest.len)), ..left });
            }
            self.next = extent.start.saturating_add(done);
            self.pending = rest.map(|rest| (rest, layer));
        }
        Ok(())
    }

    /// Bytes of marks that a stretch may still take from `at` on. What lies between marks counts, too: each part of the disk has a
    /// table of its own.
    fn marks_room(&self, stretch: &Stretch, at: u64) -> u64 {
        if stretch.marks.len() >= MARKS_MAX {
            return 0;
        }
        let start = stretch.marks.first().map_or(at, |(range, _)| range.start);
        self.wanted.marks_len_max.saturating_sub(at.saturating_sub(start))
    }

    /// Adds whole granules of one kind, as many as fit; bytes added or passed over.
    fn add_whole(
        &self,
        stretch: &mut Stretch,
        extent: Extent,
        layer: LayerId,
        disks: &[Disk],
        (granule, group): (u64, u64),
    ) -> u64 {
        let mark = match (extent.kind, self.wanted.zeros) {
            (Kind::Hole, _) if self.wanted.reserve => Some(Mark::Reserved),
            (Kind::Hole, _) | (Kind::Zero, Zeros::Skip) => return extent.len,
            (Kind::Zero, Zeros::Mark(mark)) => Some(mark),
            (Kind::Data { disk, offset }, _) if self.wanted.offload => {
                let len = copied_len(disks, &extent, disk, offset, granule);
                if len > 0 {
                    let len = len.min(self.marks_room(stretch, extent.start));
                    let mark = Mark::Copy { disk, offset };
                    stretch.marks.push((extent.start..extent.start.saturating_add(len), mark));
                    return len;
                }
                None
            }
            _ => None,
        };
        if let Some(mark) = mark {
            let len = extent.len.min(self.marks_room(stretch, extent.start));
            stretch.marks.push((extent.start..extent.start.saturating_add(len), mark));
            return len;
        }
        let end = stretch.room_end(extent.start, group).min(extent.end());
        let (piece, _) = extent.split(end.saturating_sub(extent.start));
        stretch.cover(extent.start..end, group, self.base_len);
        if extent.kind != Kind::Zero {
            stretch.pieces.push(Piece { extent: piece, layer });
        }
        piece.len
    }

    /// Adds the granule at `next`, which several extents share.
    fn add_mixed<B: Blocks>(
        &mut self,
        stretch: &mut Stretch,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        granule: u64,
        group: u64,
    ) -> Result<(), Error> {
        let start = self.next;
        let end = start.saturating_add(granule).min(self.virtual_size);
        let mut pieces = Vec::new();
        let mut nothing = Vec::new();
        let mut is_owned = false;
        while self.next < end {
            let Some((extent, layer)) = self.extent(queue, disks)? else { break };
            let (extent, rest) = extent.split(end.saturating_sub(extent.start));
            self.next = extent.end();
            self.pending = rest.map(|rest| (rest, layer));
            is_owned |= extent.kind != Kind::Hole;
            match extent.kind {
                Kind::Hole => nothing.push(extent),
                Kind::Zero | Kind::Reserved { .. } => {}
                Kind::Data { .. } | Kind::Encoded { .. } => pieces.push(Piece { extent, layer }),
            }
        }
        if is_owned {
            for hole in nothing {
                self.show(queue, disks, hole.start..hole.end(), &mut pieces)?;
            }
            pieces.sort_unstable_by_key(|piece| piece.extent.start);
        }
        if pieces.is_empty() {
            let kind = if is_owned { Kind::Zero } else { Kind::Hole };
            let extent = Extent { start, len: end.saturating_sub(start), kind };
            self.add_whole(stretch, extent, LayerId(0), disks, (granule, group));
        } else {
            stretch.cover(start..end, group, self.base_len);
            stretch.pieces.append(&mut pieces);
        }
        Ok(())
    }
}

impl Stretch {
    /// Adds a range of whole granules that fits, with its units. Runs of zeros end at `edge`.
    fn cover(&mut self, range: Range<u64>, group: u64, edge: u64) {
        self.add_units(range.clone(), group);
        match self.covered.last_mut() {
            Some(last) if last.end == range.start && range.start != edge => last.end = range.end,
            _ => self.covered.push(range),
        }
    }
}

/// How many bytes of data the launcher can copy: whole sectors and whole granules that lie within their disk, which
/// is only read.
fn copied_len(disks: &[Disk], extent: &Extent, disk: DiskId, offset: u64, granule: u64) -> u64 {
    if align::within(offset | extent.start, SECTOR_LEN) != 0 {
        return 0;
    }
    let Some(Disk { access: Access::ReadOnly, len: disk_len, .. }) =
        usize::try_from(disk.0).ok().and_then(|index| disks.get(index))
    else {
        return 0;
    };
    let inside = align::down(disk_len.saturating_sub(offset), SECTOR_LEN);
    match extent.len {
        len if len <= inside && len <= COPY_LEN_MAX => len,
        len => align::down(len.min(inside).min(COPY_LEN_MAX), granule),
    }
}
