//! The log: changes of metadata that were under way, made in memory.
//!
//! ```text
//! entry    header, descriptors | a sector of data for each descriptor that has one
//! log      … entry n | entry n+1 | … | entry m        a ring; m names n as its tail: n to m are to be made, in this order
//! ```
//!
//! An entry that is torn ends the sequence before it. What a log changes is metadata: content that it would change is an error
//! where it is met.
//!
//! # Source
//! MS-VHDX, sections 2.3 and 2.3.3.

use super::checksum;
use super::wire::{self, Header, LogDescriptor, LogEntry};
use crate::align;
use crate::image::Layered;
use crate::store::{Budget, ReadAt};
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{BlockError, Error, Structure};
use instar_abi::request::{DiskId, HostExtent};
use zerocopy::FromBytes;

/// What entries and their parts are aligned to.
const SECTOR: u64 = 4 << 10;
/// The same, of bytes in memory.
const SECTOR_BYTES: usize = 4 << 10;
/// How often a log's length may be read to find out which entries are sound: each is looked at twice at most in a log that
/// nobody bent.
const PASSES: u64 = 4;
/// What a changed sector costs in memory, beside its bytes.
const PATCH_LEN: u64 = 32;

/// Changes. Having one proves: every entry that they come from was sound.
pub struct Log {
    patches: Vec<Patch>, // by offset, none twice
    /// Length that the file has with them.
    file_len: u64,
}

/// A sector that the log changes.
struct Patch {
    offset: u64,
    /// `None`: zeros.
    bytes: Option<Vec<u8>>,
}

/// An entry that is sound.
struct Entry {
    /// Where in the log.
    at: u64,
    sequence: u64,
    /// Where in the log the sequence begins that it ends.
    tail: u64,
    bytes: Vec<u8>,
    flushed_len: u64,
    last_len: u64,
}

impl Log {
    /// The changes that the log has; `None`: it is empty.
    ///
    /// # Errors
    /// [`BlockError::Checksum`]: there are entries, and none can be made. [`BlockError::Log`]: the file is shorter than they
    /// want it, or checking them takes too long. Those of the reads.
    pub fn read(
        io: &mut dyn ReadAt,
        layered: Layered,
        disk: DiskId,
        header: &Header,
        log: &Range<u64>,
    ) -> Result<Option<Self>, Error> {
        if header.log_id == [0; 16] {
            return Ok(None);
        }
        let mut reader = Reader::new(disk, header.log_id, log.clone());
        let mut best: Vec<Entry> = Vec::new();
        let mut at = 0;
        while at < reader.len {
            let sequence = reader.sequence(io, layered, at)?;
            // One that goes on at the start ends where this began.
            let is_last = sequence.iter().any(|entry| entry.at < at || entry.end() >= reader.len);
            let end = sequence.last().map_or(at.saturating_add(SECTOR), Entry::end);
            let head = |entries: &[Entry]| entries.last().map_or(0, |entry| entry.sequence);
            let from_tail = since_tail(io, sequence);
            let (kept, other) = if head(&from_tail) > head(&best) { (from_tail, best) } else { (best, from_tail) };
            give_back(io, &other);
            best = kept;
            at = if is_last { reader.len } else { end };
        }
        let Some(head) = best.last() else {
            let error = BlockError::Checksum { structure: Structure::Log };
            return if reader.has_broken { Err(layered.error(error)) } else { Ok(None) };
        };
        let (flushed_len, last_len) = (head.flushed_len, head.last_len);
        layered.check(flushed_len <= align::up(io.len(disk), SECTOR).unwrap_or(u64::MAX), BlockError::Log)?;
        let mut patches = Vec::new();
        for entry in &best {
            entry.add_patches(io, layered, &mut patches)?;
        }
        give_back(io, &best);
        // Of those at one place the last counts: the sort is stable.
        patches.sort_by_key(|patch: &Patch| patch.offset);
        patches.reverse();
        patches.dedup_by_key(|patch| patch.offset);
        patches.reverse();
        Ok(Some(Self { patches, file_len: last_len }))
    }

    /// The changes are of whole sectors, ascending, and none is there twice.
    ///
    /// # Panics
    /// They are not.
    #[cfg(any(test, feature = "invariants"))]
    pub fn check_log(&self) {
        assert!(
            self.patches.iter().all(|patch| align::within(patch.offset, SECTOR) == 0),
            "a part of a sector changed"
        );
        let mut pairs = self.patches.iter().zip(self.patches.iter().skip(1));
        assert!(pairs.all(|(before, after)| before.offset < after.offset), "a sector changed twice");
        let is_whole = |patch: &Patch| patch.bytes.as_ref().is_none_or(|bytes| bytes.len() == SECTOR_BYTES);
        assert!(self.patches.iter().all(is_whole), "a sector of another length");
    }

    /// Whether a range has a change.
    pub fn changes(&self, range: &Range<u64>) -> bool {
        let first = self.patches.partition_point(|patch| patch.offset.saturating_add(SECTOR) <= range.start);
        self.patches.get(first).is_some_and(|patch| patch.offset < range.end)
    }

    /// Puts the changes over bytes that were read at `offset`.
    fn patch(&self, offset: u64, buf: &mut [u8]) {
        let end = offset.saturating_add(buf.len() as u64);
        let first = self.patches.partition_point(|patch| patch.offset.saturating_add(SECTOR) <= offset);
        for patch in self.patches.iter().skip(first).take_while(|patch| patch.offset < end) {
            let start = patch.offset.max(offset);
            let len = patch.offset.saturating_add(SECTOR).min(end).saturating_sub(start);
            let index = |from: u64| usize::try_from(start.saturating_sub(from)).unwrap_or(usize::MAX);
            let len = usize::try_from(len).unwrap_or(0);
            let Some(target) = buf.get_mut(index(offset)..).and_then(|rest| rest.get_mut(..len)) else { continue };
            match &patch.bytes {
                None => target.fill(0),
                Some(bytes) => {
                    let source = bytes.get(index(patch.offset)..).and_then(|rest| rest.get(..len));
                    target.copy_from_slice(source.unwrap_or(&[0; SECTOR_BYTES]).get(..len).unwrap_or_default());
                }
            }
        }
    }
}

/// The entries of a sequence from its tail on; none where the tail is not among them.
fn since_tail(io: &mut dyn ReadAt, mut entries: Vec<Entry>) -> Vec<Entry> {
    let tail = entries.last().map(|head| head.tail);
    let first = entries.iter().position(|entry| Some(entry.at) == tail).unwrap_or(entries.len());
    give_back(io, entries.get(..first).unwrap_or_default());
    entries.drain(..first);
    entries
}

fn give_back(io: &mut dyn ReadAt, entries: &[Entry]) {
    let bytes = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.bytes.len() as u64));
    io.budget().give_heap(bytes);
}

/// Finds entries.
struct Reader {
    disk: DiskId,
    id: [u8; 16],
    start: u64,
    /// Bytes of the log.
    len: u64,
    /// Bytes that may still be looked at.
    room: u64,
    /// An entry of this log was met that is not sound.
    has_broken: bool,
}

impl Reader {
    fn new(disk: DiskId, id: [u8; 16], log: Range<u64>) -> Self {
        let len = log.end.saturating_sub(log.start);
        Self { disk, id, start: log.start, len, room: len.saturating_mul(PASSES), has_broken: false }
    }

    /// The entry at `at`, and those that follow with the numbers that follow.
    fn sequence(&mut self, io: &mut dyn ReadAt, layered: Layered, at: u64) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut next, mut total) = (at, 0u64);
        while let Some(entry) = self.entry(io, layered, next)? {
            let follows = entries.last().is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
            total = total.saturating_add(entry.bytes.len() as u64);
            if !follows || total > self.len {
                give_back(io, &[entry]);
                break;
            }
            next = align::within(entry.end(), self.len);
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The entry at `at`; `None`: there is none that is sound.
    fn entry(&mut self, io: &mut dyn ReadAt, layered: Layered, at: u64) -> Result<Option<Entry>, Error> {
        io.budget().take_steps(1)?;
        let header: LogEntry = io.read_wire(self.disk, self.start.saturating_add(at))?;
        if header.signature != wire::LOG_SIGNATURE || header.log_id != self.id {
            return Ok(None);
        }
        let (len, tail) = (u64::from(header.len.get()), u64::from(header.tail.get()));
        let is_len = align::within(len, SECTOR) == 0 && (SECTOR..=self.len).contains(&len);
        let is_tail = align::within(tail, SECTOR) == 0 && tail < self.len;
        if !is_len || !is_tail || header.sequence.get() == 0 {
            self.has_broken = true;
            return Ok(None);
        }
        self.room = self.room.checked_sub(len).ok_or(layered.error(BlockError::Log))?;
        let bytes = self.bytes(io, at, len)?;
        let entry = Entry {
            at,
            sequence: header.sequence.get(),
            tail,
            bytes,
            flushed_len: header.flushed_len.get(),
            last_len: header.last_len.get(),
        };
        if header.checksum.get() != checksum(&entry.bytes) || !entry.is_sound(header.count.get()) {
            self.has_broken = true;
            give_back(io, &[entry]);
            return Ok(None);
        }
        Ok(Some(entry))
    }

    /// Bytes of the ring.
    fn bytes(&self, io: &mut dyn ReadAt, at: u64, len: u64) -> Result<Vec<u8>, Error> {
        let offset = self.start.saturating_add(at);
        let mut bytes = io.read_vec(self.disk, offset, usize::try_from(len).unwrap_or(0))?;
        let inside = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        if let Some(wrapped) = bytes.get_mut(inside..) {
            io.read_padded(self.disk, self.start, wrapped)?;
        }
        Ok(bytes)
    }
}

impl Entry {
    /// Where the next entry would be, before the ring is closed.
    fn end(&self) -> u64 {
        self.at.saturating_add(self.bytes.len() as u64)
    }

    /// Its descriptors, each with its sector of data where it has one. `None` in place of one that is not sound.
    fn descriptors(&self, count: u32) -> impl Iterator<Item = Option<(LogDescriptor, Option<&[u8]>)>> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let table_len = size_of::<LogEntry>().saturating_add(count.saturating_mul(size_of::<LogDescriptor>()));
        let table_len = table_len.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(usize::MAX);
        let (table, data) = self.bytes.split_at_checked(table_len).unwrap_or_default();
        let table = table.get(size_of::<LogEntry>()..).unwrap_or_default();
        let mut sectors = data.chunks_exact(SECTOR_BYTES);
        let mut table = table.chunks_exact(size_of::<LogDescriptor>());
        (0..count.min(self.bytes.len())).map(move |_| {
            let descriptor = LogDescriptor::read_from_bytes(table.next()?).ok()?;
            let is_placed = align::within(descriptor.offset.get(), SECTOR) == 0;
            let is_sound = descriptor.sequence.get() == self.sequence && is_placed;
            let data = match descriptor.signature {
                wire::ZERO_SIGNATURE => align::within(descriptor.leading.get(), SECTOR) == 0,
                wire::DATA_SIGNATURE => {
                    let sector = sectors.next().filter(|sector| is_sound && self.is_of(sector))?;
                    return Some((descriptor, Some(sector)));
                }
                _ => false,
            };
            (data && is_sound).then_some((descriptor, None))
        })
    }

    /// Whether a sector of data was written with this entry: the halves of its number frame it.
    fn is_of(&self, sector: &[u8]) -> bool {
        let word =
            |at: usize| sector.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u32::from_le_bytes(*word));
        let number = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let framed = word(4).zip(word(SECTOR_BYTES.saturating_sub(4))).map(|(high, low)| number(high, low));
        sector.starts_with(&wire::SECTOR_SIGNATURE) && framed == Some(self.sequence)
    }

    fn is_sound(&self, count: u32) -> bool {
        self.descriptors(count).all(|descriptor| descriptor.is_some())
    }

    /// Adds what the entry changes. It is sound.
    fn add_patches(&self, io: &mut dyn ReadAt, layered: Layered, patches: &mut Vec<Patch>) -> Result<(), Error> {
        let count = LogEntry::read_from_prefix(&self.bytes).map_or(0, |(header, _)| header.count.get());
        for (descriptor, sector) in self.descriptors(count).flatten() {
            let offset = descriptor.offset.get();
            let Some(sector) = sector else {
                let end = offset.checked_add(descriptor.leading.get()).ok_or(layered.error(BlockError::Log))?;
                let mut at = offset;
                while at < end {
                    io.budget().take_steps(1)?;
                    io.budget().take_heap(PATCH_LEN)?;
                    patches.push(Patch { offset: at, bytes: None });
                    at = at.saturating_add(SECTOR);
                }
                continue;
            };
            io.budget().take_heap(PATCH_LEN.saturating_add(SECTOR))?;
            let mut bytes = sector.to_vec();
            // The descriptor has the bytes that the frame took the place of.
            let leading = descriptor.leading.get().to_le_bytes();
            let trailing = descriptor.trailing.get().to_le_bytes();
            if let Some(front) = bytes.first_chunk_mut() {
                *front = leading;
            }
            if let Some(back) = bytes.last_chunk_mut() {
                *back = trailing;
            }
            patches.push(Patch { offset, bytes: Some(bytes) });
        }
        Ok(())
    }
}

/// [`ReadAt`] with a log's changes made.
pub struct Replayed<'a> {
    io: &'a mut dyn ReadAt,
    disk: DiskId,
    log: Option<&'a Log>,
}

impl<'a> Replayed<'a> {
    /// `io`, with the changes of a log on `disk`, if there is one.
    pub fn new(io: &'a mut dyn ReadAt, disk: DiskId, log: Option<&'a Log>) -> Self {
        Self { io, disk, log }
    }
}

impl ReadAt for Replayed<'_> {
    fn len(&self, disk: DiskId) -> u64 {
        let len = self.io.len(disk);
        self.log.filter(|_| disk == self.disk).map_or(len, |log| len.max(log.file_len))
    }

    fn read_at(&mut self, disk: DiskId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let Some(log) = self.log.filter(|_| disk == self.disk) else { return self.io.read_at(disk, offset, buf) };
        crate::store::check_range(disk, offset, buf.len(), self.len(disk))?;
        self.io.read_padded(disk, offset, buf)?;
        log.patch(offset, buf);
        Ok(())
    }

    fn prefetch(&mut self, ranges: &[(DiskId, Range<u64>)]) -> Result<(), Error> {
        self.io.prefetch(ranges)
    }

    fn budget(&mut self) -> &mut Budget {
        self.io.budget()
    }

    fn host_data(&self, disk: DiskId) -> Option<&[HostExtent]> {
        self.io.host_data(disk)
    }

    fn host_allocated(&self, disk: DiskId) -> Option<u64> {
        self.io.host_allocated(disk)
    }
}
