//! Two disks side by side: the next stretch of them that has to be read, and what was found so far.

use crate::align;
use crate::image::{Chain, Kind};
use crate::mover::{Piece, Progress, STRETCH_UNITS, Stretch, UNIT};
use crate::store::{Budget, Cache, Queue, Store};
use core::ops::Range;
use instar_abi::error::Error;
use instar_abi::reply::{Difference, MapExtent};
use instar_abi::request::{Disk, LayerId};
use instar_io::Blocks;
use spin::Mutex;

/// Bytes of a stretch.
const STRETCH_LEN: u64 = STRETCH_UNITS as u64 * UNIT;
/// Two disks, as far as they have not been taken.
pub struct Pair {
    sides: [Side; 2],
    budget: Budget,
    is_strict: bool,
    next: u64,
}

struct Side {
    chain: Chain,
    id: LayerId,
    cache: Cache,
    /// The extent last mapped, which ends behind `next`.
    last: Option<(Range<u64>, Option<Piece>)>,
    /// The same for its status.
    status: Option<MapExtent>,
}

/// What a lane takes: a range, and what either side has there.
pub type Taken = (Range<u64>, [Stretch; 2]);

impl Pair {
    /// Two disks of `ids`.
    pub fn new([left, right]: [Chain; 2], [left_id, right_id]: [LayerId; 2], budget: Budget, is_strict: bool) -> Self {
        let side = |chain, id| Side { chain, id, cache: Cache::new(), last: None, status: None };
        Self { sides: [side(left, left_id), side(right, right_id)], budget, is_strict, next: 0 }
    }

    fn len(&self) -> u64 {
        self.sides.iter().map(|side| side.chain.virtual_size()).max().unwrap_or(0)
    }

    /// Takes the next stretch that holds content on either side; a difference in allocation that comes before it;
    /// `None` at the end.
    fn take<B: Blocks>(
        &mut self,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
    ) -> Result<Option<Result<Taken, Difference>>, Error> {
        let len = self.len();
        while self.next < len {
            if let Some(end) = self.common_zeros(queue, disks, len)? {
                self.next = end;
                continue;
            }
            let range = self.next..align::down(self.next, UNIT).saturating_add(STRETCH_LEN).min(len);
            let mut stretches = [Stretch::default(), Stretch::default()];
            let mut end = range.end;
            if self.is_strict {
                // Allocation goes first: what is before a difference is still to be read.
                match self.first_difference(queue, disks, &range)? {
                    Some(at) if at == range.start => return Ok(Some(Err(Difference::Allocation(at)))),
                    Some(at) => end = at,
                    None => {}
                }
            }
            for (side, stretch) in self.sides.iter_mut().zip(&mut stretches) {
                side.collect(stretch, range.start..end, queue, disks, &mut self.budget)?;
            }
            self.next = end;
            return Ok(Some(Ok((range.start..end, stretches))));
        }
        Ok(None)
    }

    /// Where both sides stop to be zeros, if they are at `next`.
    fn common_zeros<B: Blocks>(
        &mut self,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        len: u64,
    ) -> Result<Option<u64>, Error> {
        let mut end = len;
        for side in &mut self.sides {
            match side.extent(self.next, queue, disks, &mut self.budget)? {
                (range, None) => end = end.min(range.end),
                (_, Some(_)) => return Ok(None),
            }
        }
        if self.is_strict {
            let range = self.next..end;
            match self.first_difference(queue, disks, &range)? {
                // The caller finds it again.
                Some(at) if at == self.next => return Ok(None),
                Some(at) => end = at,
                None => {}
            }
        }
        Ok(Some(end))
    }

    /// Where in `range` allocation differs first.
    fn first_difference<B: Blocks>(
        &mut self,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        range: &Range<u64>,
    ) -> Result<Option<u64>, Error> {
        let mut at = range.start;
        while at < range.end {
            let mut end = range.end;
            let mut words = [None; 2];
            for (side, word) in self.sides.iter_mut().zip(&mut words) {
                let status = side.status(at, queue, disks, &mut self.budget)?;
                end = end.min(status.start.saturating_add(status.len));
                *word = Some((
                    status.is_present,
                    status.is_zero,
                    status.is_data,
                    status.is_compressed,
                    status.at.is_some(),
                ));
            }
            if words[0] != words[1] {
                return Ok(Some(at));
            }
            at = end;
        }
        Ok(None)
    }
}

impl Side {
    fn failed(&self, offset: u64) -> impl FnOnce(Error) -> Error {
        let image = self.id;
        move |error| Error::Compare { image, offset, is_content: false, error: error.into() }
    }

    /// The extent at `at`: a piece, or nothing where it is zero or the disk has ended.
    fn extent<B: Blocks>(
        &mut self,
        at: u64,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        budget: &mut Budget,
    ) -> Result<(Range<u64>, Option<Piece>), Error> {
        if let Some((range, piece)) = &self.last
            && range.contains(&at)
        {
            let cut = |piece: &Piece| {
                let rest = piece.extent.split(at.saturating_sub(range.start)).1;
                Piece { extent: rest.unwrap_or(piece.extent), layer: piece.layer }
            };
            let found = if at == range.start { *piece } else { piece.as_ref().map(cut) };
            return Ok((at..range.end, found));
        }
        let end = self.chain.virtual_size();
        if at >= end {
            return Ok((at..u64::MAX, None));
        }
        let mut store = Store { queue, cache: &mut self.cache, budget, disks };
        let mapped = self.chain.map(&mut store, at..end);
        let mapped = mapped.map_err(self.failed(at))?;
        let is_content = matches!(mapped.extent.kind, Kind::Data { .. } | Kind::Encoded { .. });
        let piece = is_content.then_some(Piece { extent: mapped.extent, layer: mapped.layer });
        let found = (at..mapped.extent.end(), piece);
        self.last = Some(found.clone());
        Ok(found)
    }

    fn status<B: Blocks>(
        &mut self,
        at: u64,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        budget: &mut Budget,
    ) -> Result<MapExtent, Error> {
        let holds = |status: &MapExtent| status.start <= at && at < status.start.saturating_add(status.len);
        if let Some(status) = self.status.filter(holds) {
            return Ok(status);
        }
        let mut store = Store { queue, cache: &mut self.cache, budget, disks };
        let range = at..self.chain.virtual_size();
        let status = self.chain.status(&mut store, range);
        let status = status.map_err(self.failed(at))?;
        self.status = Some(status);
        Ok(status)
    }

    /// What is to be read of `range`: no unit where there is nothing.
    fn collect<B: Blocks>(
        &mut self,
        stretch: &mut Stretch,
        range: Range<u64>,
        queue: &mut Queue<'_, B>,
        disks: &[Disk],
        budget: &mut Budget,
    ) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let (found, piece) = self.extent(at, queue, disks, budget)?;
            if let Some(piece) = piece {
                let extent = piece.extent.split(range.end.saturating_sub(at)).0;
                stretch.pieces.push(Piece { extent, ..piece });
            }
            at = found.end;
        }
        if !stretch.pieces.is_empty() {
            let mut unit = align::down(range.start, UNIT);
            while unit < range.end {
                stretch.units.push(unit);
                unit = unit.saturating_add(UNIT);
            }
        }
        Ok(())
    }
}

/// What lanes share.
pub struct Shared {
    pair: Mutex<Pair>,
    /// How far all lanes have come.
    pub progress: Progress,
    found: Mutex<Found>,
}

/// The first of what was found, by its place on the disk.
#[derive(Default)]
struct Found {
    at: Option<u64>,
    difference: Option<Difference>,
    error: Option<Error>,
}

impl Shared {
    /// Nothing found yet.
    pub fn new(pair: Pair, len: u64) -> Self {
        Self { pair: Mutex::new(pair), progress: Progress::new(len), found: Mutex::default() }
    }

    /// The next stretch; none is left when something has been found.
    pub fn take<B: Blocks>(&self, queue: &mut Queue<'_, B>, disks: &[Disk]) -> Option<Taken> {
        let mut pair = queue.lock(&self.pair);
        if self.found.lock().at.is_some() {
            return None;
        }
        let taken = pair.take(queue, disks);
        self.progress.pass(pair.next);
        match taken {
            Ok(Some(Ok(taken))) => return Some(taken),
            Ok(Some(Err(difference))) => self.differ(pair.next, difference),
            Ok(None) => {}
            Err(error) => self.fail(pair.next, error),
        }
        None
    }

    /// Notes a difference at `at`.
    pub fn differ(&self, at: u64, difference: Difference) {
        let mut found = self.found.lock();
        if found.at.is_none_or(|first| at < first) {
            *found = Found { at: Some(at), difference: Some(difference), error: None };
        }
    }

    /// Notes that `at` could not be looked at.
    pub fn fail(&self, at: u64, error: Error) {
        let mut found = self.found.lock();
        if found.at.is_none_or(|first| at < first) {
            *found = Found { at: Some(at), difference: None, error: Some(error) };
        }
    }

    /// Which image a side is.
    pub fn id(&self, side: usize) -> LayerId {
        self.pair.lock().sides.get(side).map_or(LayerId(0), |side| side.id)
    }

    /// What was found first.
    pub fn into_outcome(self) -> Result<Option<Difference>, Error> {
        let Found { difference, error, .. } = self.found.into_inner();
        error.map_or(Ok(difference), Err)
    }
}
