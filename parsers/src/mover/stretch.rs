//! What lanes take: the next units of the disk that hold data.

use super::loss::{Losses, Patient};
use super::{STRETCH_UNITS, UNIT};
use crate::align;
use crate::image::{Chain, Extent, Kind, Mapped};
use crate::store::{Budget, Cache, Queue, ReadAt, Store};
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::Error;
use instar_abi::reply::Unreadable;
use instar_abi::request::{Disk, DiskId, LayerId};
use instar_io::{Blocks, SECTOR_LEN};

/// A part of a stretch: data or encoded, from one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where its bytes are.
    pub extent: Extent,
    /// The layer it is of.
    pub layer: LayerId,
}

/// What a target makes of a range without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It reads as zeros, whatever is below.
    Zero,
    /// It is given clusters, and nothing is written.
    Reserved,
    /// It is given clusters, and the launcher copies it.
    Copy {
        /// From this disk.
        disk: DiskId,
        /// First byte there, a whole sector.
        offset: u64,
    },
}

/// Units of the disk with what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// Counts from 0 in the order of the disk.
    pub number: u64,
    /// Where each unit starts, ascending.
    pub units: Vec<u64>,
    /// Ascending; each lies within consecutive units. What no piece covers is zero.
    pub pieces: Vec<Piece>,
    /// The parts of the units that belong to the stretch, ascending; none: all of them do.
    pub covered: Vec<Range<u64>>,
    /// Ranges beside the covered ones, ascending.
    pub marks: Vec<(Range<u64>, Mark)>,
}

/// What becomes of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// Nothing: the target reads as zeros where nothing is.
    Skip,
    /// They are moved like data.
    Move,
    /// They are marked.
    Mark(Mark),
}

/// What a target wants to know of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What becomes of zeros.
    pub zeros: Zeros,
    /// What is placed as a whole, in bytes, where it matters what belongs to the disk and what does not.
    pub granule: Option<u64>,
    /// Most bytes of marks in a stretch, whole granules.
    pub marks_len_max: u64,
    /// Whether what no layer of the source owns is given clusters.
    pub reserve: bool,
    /// Whether the launcher copies what lies on a disk as it is.
    pub offload: bool,
    /// Whether content that can't be read is zero.
    pub salvage: bool,
}

impl Wanted {
    /// For a target that reads as zeros where nothing is written.
    #[must_use]
    pub const fn flat(zeros: Zeros) -> Self {
        Self { zeros, granule: None, marks_len_max: u64::MAX, reserve: false, offload: false, salvage: false }
    }
}

/// A part of the disk: all of a chain, or the rest of one.
struct Placed {
    /// First byte in the disk.
    start: u64,
    /// What that byte is in the chain.
    from: u64,
    /// Where the part of the chain ends.
    end: u64,
    chain: Chain,
    /// Only what the top layer owns counts.
    is_top_only: bool,
}

/// The disk, as far as it has not been taken.
pub struct Source {
    /// Ascending.
    chains: Vec<Placed>,
    /// Where what comes first owns nothing, the last chain does, or nothing.
    is_over_last: bool,
    /// What shows where the source owns nothing.
    base: Option<Chain>,
    /// From here on what shows there is zero.
    pub(super) base_len: u64,
    cache: Cache,
    budget: Budget,
    pub(super) virtual_size: u64,
    pub(super) wanted: Wanted,
    pub(super) next: u64,
    pub(super) number: u64,
    /// An extent that starts at `next`.
    pub(super) pending: Option<(Extent, LayerId)>,
    /// What could not be read.
    pub losses: Losses,
}

impl Source {
    /// A disk of no length.
    #[must_use]
    pub fn new(budget: Budget, wanted: Wanted) -> Self {
        Self {
            chains: Vec::new(),
            is_over_last: false,
            base: None,
            base_len: u64::MAX,
            cache: Cache::new(),
            budget,
            virtual_size: 0,
            wanted,
            next: 0,
            number: 0,
            pending: None,
            losses: Losses::default(),
        }
    }

    /// With the whole disk of a chain behind what there is.
    #[must_use]
    pub fn then(mut self, chain: Chain) -> Self {
        let (start, end) = (self.virtual_size, chain.virtual_size());
        self.virtual_size = start.saturating_add(end);
        self.chains.push(Placed { start, from: 0, end, chain, is_top_only: false });
        self
    }

    /// With a part of a chain's disk behind what there is, and zeros to the end of its last sector.
    #[must_use]
    pub fn then_part_of(mut self, chain: Chain, part: Range<u64>) -> Self {
        let start = self.virtual_size;
        let len = part.end.saturating_sub(part.start);
        self.virtual_size = start.saturating_add(align::up(len, SECTOR_LEN).unwrap_or(len));
        self.chains.push(Placed { start, from: part.start, end: part.end, chain, is_top_only: false });
        self
    }

    /// With what the top layer of a chain owns behind what there is.
    #[must_use]
    pub fn then_top_of(mut self, chain: Chain) -> Self {
        let start = self.virtual_size;
        self.virtual_size = start.saturating_add(chain.virtual_size());
        let end = chain.virtual_size();
        self.chains.push(Placed { start, from: 0, end, chain, is_top_only: true });
        self
    }

    /// With what the top layer of a longer chain owns, from the end of what there is on.
    #[must_use]
    pub fn then_rest_of(mut self, chain: Chain) -> Self {
        let start = self.virtual_size;
        self.virtual_size = start.max(chain.virtual_size());
        let end = chain.virtual_size();
        self.chains.push(Placed { start, from: start, end, chain, is_top_only: true });
        self
    }

    /// With what the last chain owns also where those before it own nothing.
    #[must_use]
    pub fn over_the_rest(mut self) -> Self {
        self.is_over_last = true;
        self
    }

    /// With `base` below: it shows where the source owns nothing, and from `base_len` on that is zero.
    #[must_use]
    pub fn above(mut self, base: Option<Chain>, base_len: u64) -> Self {
        (self.base, self.base_len) = (base, base_len);
        self
    }

    /// Bytes of the disk that have been taken or passed over.
    #[must_use]
    pub const fn passed(&self) -> u64 {
        self.next
    }

    /// What could not be read, as it counts in the source that it is of.
    #[must_use]
    pub fn into_lost(self) -> Vec<Unreadable> {
        let mut lost = Vec::new();
        for Unreadable { offset: mut at, len } in self.losses.into_ranges() {
            let end = at.saturating_add(len);
            while at < end {
                let after = self.chains.partition_point(|placed| placed.start <= at);
                let placed = after.checked_sub(1).and_then(|index| self.chains.get(index));
                let (start, from) = placed.map_or((0, 0), |placed| (placed.start, placed.from));
                let next = self.chains.get(after).map_or(end, |next| next.start.min(end));
                let offset = at.saturating_sub(start).saturating_add(from);
                lost.push(Unreadable { offset, len: next.saturating_sub(at) });
                at = next;
            }
        }
        lost
    }

    /// Whether the end has been reached.
    pub const fn is_empty(&self) -> bool {
        self.next >= self.virtual_size
    }

    /// Takes the next units, whole groups of `group` bytes, a power of two; `None` at the end of the disk.
    ///
    /// # Errors
    /// The chain's.
    pub fn take<B: Blocks>(
        &mut self,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        group: u64,
    ) -> Result<Option<Stretch>, Error> {
        let mut stretch = Stretch { number: self.number, ..Stretch::default() };
        match self.wanted.granule {
            Some(granule) => self.take_granules(&mut stretch, queue, disks, granule, group)?,
            None => {
                while let Some((extent, layer)) = self.extent(queue, disks)? {
                    if !self.add(&mut stretch, extent, layer, group) {
                        break;
                    }
                }
            }
        }
        if stretch.units.is_empty() && stretch.marks.is_empty() {
            return Ok(None);
        }
        self.number = self.number.saturating_add(1);
        Ok(Some(stretch))
    }

    /// The extent at `next`, a hole where the source owns nothing; `None` at the end of the disk.
    pub(super) fn extent<B: Blocks>(
        &mut self,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
    ) -> Result<Option<(Extent, LayerId)>, Error> {
        if self.next >= self.virtual_size {
            return Ok(None);
        }
        if let Some(pending) = self.pending.take() {
            return Ok(Some(pending));
        }
        let mut store = Store { queue, cache: &mut self.cache, budget: &mut self.budget, disks };
        let mut patient = Patient(&mut store);
        let io: &mut dyn ReadAt = if self.wanted.salvage { &mut patient } else { patient.0 };
        // Empty chains start where the next one does: the last one of them has the bytes.
        let after = self.chains.partition_point(|placed| placed.start <= self.next);
        let Some(placed) = after.checked_sub(1).and_then(|index| self.chains.get_mut(index)) else {
            return Ok(None);
        };
        let at = self.next.saturating_sub(placed.start).saturating_add(placed.from);
        if at >= placed.end {
            // A part may end within a sector.
            let len = self.virtual_size.saturating_sub(self.next);
            return Ok(Some((Extent { start: self.next, len, kind: Kind::Zero }, LayerId(0))));
        }
        let range = at..placed.end;
        let is_top_only = placed.is_top_only;
        let mapped = if is_top_only { placed.chain.map_top(io, range) } else { placed.chain.map(io, range) };
        let (mut extent, layer) = match mapped {
            Ok(Mapped { extent, .. }) if extent.kind == Kind::Hole && self.is_over_last => {
                let Some(last) = self.chains.last_mut() else { return Ok(None) };
                let Mapped { extent, layer, .. } =
                    last.chain.map_top(io, self.next..self.next.saturating_add(extent.len))?;
                (extent, layer)
            }
            Ok(Mapped { extent, layer, .. }) => (extent, layer),
            Err(error) => match placed.chain.broken().filter(|_| self.wanted.salvage) {
                Some(range) => {
                    let start = self.next;
                    let len = range.end.saturating_sub(range.start);
                    self.losses.add(start..start.saturating_add(len));
                    (Extent { start, len, kind: Kind::Zero }, LayerId(0))
                }
                None => return Err(error),
            },
        };
        extent.start = self.next;
        if !is_top_only && extent.kind == Kind::Hole {
            extent.kind = Kind::Zero;
        }
        match self.base_len.checked_sub(extent.start).filter(|len| *len > 0) {
            // Runs of zeros end there, as in QEMU.
            Some(len) if len < extent.len => (extent, _) = extent.split(len),
            Some(_) => {}
            // What shows there is zero anyway.
            None if extent.kind == Kind::Zero => extent.kind = Kind::Hole,
            None => {}
        }
        Ok(Some((extent, layer)))
    }

    /// What shows in `range`, where the source owns nothing: pieces of data, nothing where it is zero.
    pub(super) fn show<B: Blocks>(
        &mut self,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        range: Range<u64>,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Error> {
        let Some(base) = &mut self.base else { return Ok(()) };
        let mut store = Store { queue, cache: &mut self.cache, budget: &mut self.budget, disks };
        let mut patient = Patient(&mut store);
        let io: &mut dyn ReadAt = if self.wanted.salvage { &mut patient } else { patient.0 };
        let end = range.end.min(base.virtual_size());
        let mut at = range.start;
        while at < end {
            let (extent, layer) = match base.map(io, at..end) {
                Ok(Mapped { extent, layer, .. }) => (extent, layer),
                Err(error) => match base.broken().filter(|_| self.wanted.salvage) {
                    Some(range) => {
                        self.losses.add(range.clone());
                        let len = range.end.saturating_sub(range.start);
                        (Extent { start: at, len, kind: Kind::Zero }, LayerId(0))
                    }
                    None => return Err(error),
                },
            };
            at = extent.end();
            if matches!(extent.kind, Kind::Data { .. } | Kind::Encoded { .. }) {
                pieces.push(Piece { extent, layer });
            }
        }
        Ok(())
    }

    /// Adds as much of an extent as fits, and keeps the rest; whether more may fit.
    fn add(&mut self, stretch: &mut Stretch, extent: Extent, layer: LayerId, group: u64) -> bool {
        let is_zero = matches!(extent.kind, Kind::Zero | Kind::Hole);
        if is_zero && self.wanted.zeros != Zeros::Move {
            self.next = extent.end();
            return true;
        }
        let end = stretch.room_end(extent.start, group);
        if extent.start >= end {
            self.pending = Some((extent, layer));
            return false;
        }
        let (piece, rest) = extent.split(end.saturating_sub(extent.start));
        stretch.add_units(piece.start..piece.end(), group);
        if !is_zero {
            stretch.pieces.push(Piece { extent: piece, layer });
        }
        self.next = piece.end();
        self.pending = rest.map(|rest| (rest, layer));
        rest.is_none()
    }
}

impl Stretch {
    /// The first unit that `at` may add: a group that the stretch already has may take more.
    fn first_unit(&self, at: u64, group: u64) -> u64 {
        let taken = self.units.last().map_or(0, |last| last.saturating_add(UNIT));
        align::down(at, group).max(taken)
    }

    /// Where content that starts at `at` must end to fit; at most `at` where none fits.
    pub(super) fn room_end(&self, at: u64, group: u64) -> u64 {
        let room = (STRETCH_UNITS as u64).saturating_mul(UNIT).max(group);
        let room = room.saturating_sub((self.units.len() as u64).saturating_mul(UNIT));
        self.first_unit(at, group).saturating_add(align::down(room, group))
    }

    /// Adds the units of a range that fits.
    pub(super) fn add_units(&mut self, range: Range<u64>, group: u64) {
        let mut unit = self.first_unit(range.start, group);
        let end = align::up(range.end, group).unwrap_or(u64::MAX);
        while unit < end {
            self.units.push(unit);
            unit = unit.saturating_add(UNIT);
        }
    }
}
