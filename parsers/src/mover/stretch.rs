//! What lanes take: the next units of the disk that hold data.

use super::{STRETCH_UNITS, UNIT};
use crate::align;
use crate::image::{Chain, Extent, Kind, Mapped};
use crate::store::{Budget, Cache, Queue, ReadAt, Store};
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_abi::request::{Disk, LayerId};
use instar_io::Blocks;

/// A part of a stretch: data or encoded, from one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where its bytes are.
    pub extent: Extent,
    /// The layer it is of.
    pub layer: LayerId,
}

/// Units of the disk with what is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Counts from 0 in the order of the disk.
    pub number: u64,
    /// Where each unit starts, ascending.
    pub units: Vec<u64>,
    /// Ascending; each lies within consecutive units. What no piece covers is zero.
    pub pieces: Vec<Piece>,
}

/// The disk, as far as it has not been taken.
pub struct Source {
    /// The chains, one behind the other: where each starts.
    chains: Vec<(u64, Chain)>,
    cache: Cache,
    budget: Budget,
    virtual_size: u64,
    /// Whether zeros are moved like data.
    zeros_too: bool,
    next: u64,
    number: u64,
    /// An extent that starts at `next`.
    pending: Option<(Extent, LayerId)>,
}

impl Source {
    /// The whole disks of chains, one behind the other.
    #[must_use]
    pub fn new(chains: Vec<Chain>, budget: Budget, zeros_too: bool) -> Self {
        let mut virtual_size = 0u64;
        let mut placed = Vec::with_capacity(chains.len());
        for chain in chains {
            let start = virtual_size;
            virtual_size = virtual_size.saturating_add(chain.virtual_size());
            placed.push((start, chain));
        }
        Self { chains: placed, cache: Cache::new(), budget, virtual_size, zeros_too, next: 0, number: 0, pending: None }
    }

    /// Bytes of the disk that have been taken or passed over.
    #[must_use]
    pub const fn passed(&self) -> u64 {
        self.next
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
        let mut stretch = Stretch { number: self.number, units: Vec::new(), pieces: Vec::new() };
        while let Some((extent, layer)) = self.extent(queue, disks)? {
            if !self.add(&mut stretch, extent, layer, group) {
                break;
            }
        }
        if stretch.units.is_empty() {
            return Ok(None);
        }
        self.number = self.number.saturating_add(1);
        Ok(Some(stretch))
    }

    /// The extent at `next`; `None` at the end of the disk.
    fn extent<B: Blocks>(
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
        let io: &mut dyn ReadAt = &mut store;
        // Empty chains start where the next one does: the last one of them has the bytes.
        let after = self.chains.partition_point(|(start, _)| *start <= self.next);
        let Some((start, chain)) = after.checked_sub(1).and_then(|index| self.chains.get_mut(index)) else {
            return Ok(None);
        };
        let end = chain.virtual_size();
        let Mapped { extent, layer, .. } = chain.map(io, self.next.saturating_sub(*start)..end)?;
        Ok(Some((Extent { start: self.next, ..extent }, layer)))
    }

    /// Adds as much of an extent as fits, and keeps the rest; whether more may fit.
    fn add(&mut self, stretch: &mut Stretch, extent: Extent, layer: LayerId, group: u64) -> bool {
        let is_zero = matches!(extent.kind, Kind::Zero | Kind::Hole);
        if is_zero && !self.zeros_too {
            self.next = extent.end();
            return true;
        }
        // A group that the stretch already has may take more; then as many as are left.
        let taken = stretch.units.last().map_or(0, |last| last.saturating_add(UNIT));
        let mut unit = align::down(extent.start, group).max(taken);
        let room = (STRETCH_UNITS as u64).saturating_mul(UNIT).max(group);
        let room = room.saturating_sub((stretch.units.len() as u64).saturating_mul(UNIT));
        let end = unit.saturating_add(align::down(room, group));
        if extent.start >= end {
            self.pending = Some((extent, layer));
            return false;
        }
        let (piece, rest) = extent.split(end.saturating_sub(extent.start));
        let piece_end = align::up(piece.end(), group).unwrap_or(u64::MAX);
        while unit < piece_end {
            stretch.units.push(unit);
            unit = unit.saturating_add(UNIT);
        }
        if !is_zero {
            stretch.pieces.push(Piece { extent: piece, layer });
        }
        self.next = piece.end();
        self.pending = rest.map(|rest| (rest, layer));
        rest.is_none()
    }
}
