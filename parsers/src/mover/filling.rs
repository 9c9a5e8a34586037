//! A stretch being read: requests out, bytes into units.

use super::UNIT;
use super::buffers::Buffers;
use super::stretch::{Piece, Stretch};
use crate::align;
use crate::codec::Decoder;
use crate::image::{Codec, Kind};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{CodecError, Error, Qcow2Error};
use instar_abi::request::{Disk, DiskId};
use instar_io::{Action, BlockRequest, SECTOR_LEN};

/// Compressed clusters this close to each other are read together.
const STREAM_GAP_MAX: u64 = 8 << 10;
/// Most bytes of one read of compressed clusters.
const STREAM_LEN_MAX: u64 = 1 << 20;

/// What becomes of a segment of a finished read.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    /// It is a whole unit.
    Unit(usize),
    /// A part of it belongs into units.
    Part {
        /// Bytes before the part, from rounding to sectors.
        skip: usize,
        /// Where the part belongs on the disk.
        virtual_offset: u64,
        /// Bytes of the part.
        len: usize,
    },
    /// It is compressed.
    Stream(usize),
}

/// A read and what becomes of it.
pub struct Read {
    /// The request.
    pub request: BlockRequest,
    /// One a segment.
    pub slots: Vec<Slot>,
}

/// Sectors of a disk that hold compressed clusters.
struct Stream {
    disk: DiskId,
    start: u64,
    end: u64,
    bytes: Vec<u8>,
    /// What could not be read of it.
    lost: Vec<Range<u64>>,
}

/// A stretch with the bytes that have come so far.
pub struct Filling {
    /// What is being read.
    pub stretch: Stretch,
    /// One buffer a unit; empty while it is in flight.
    pub units: Vec<Vec<u8>>,
    streams: Vec<Stream>,
    /// Reads that have not finished.
    pub reads_left: usize,
    /// Parts of the disk that are zero because they could not be read.
    pub lost: Vec<Range<u64>>,
}

impl Filling {
    /// Prepares a stretch: its buffers, and the reads that fill them.
    ///
    /// # Errors
    /// No heap for the buffers.
    pub fn start(stretch: Stretch, buffers: &mut Buffers, disks: &[Disk]) -> Result<(Self, Vec<Read>), Error> {
        let mut units = Vec::with_capacity(stretch.units.len());
        for _ in &stretch.units {
            units.push(buffers.take()?);
        }
        let mut filling = Self { stretch, units, streams: Vec::new(), reads_left: 0, lost: Vec::new() };
        filling.zero_gaps();
        let mut reads = Vec::new();
        // Pieces are copied out: reading them changes the units.
        for index in 0..filling.stretch.pieces.len() {
            let Some(Piece { extent, .. }) = filling.stretch.pieces.get(index).copied() else { break };
            match extent.kind {
                Kind::Data { disk, offset } => reads.push(filling.read_data(disk, offset, extent.start, extent.len)),
                Kind::Encoded { disk, offset, len, .. } => {
                    let disk_len = usize::try_from(disk.0).ok().and_then(|index| disks.get(index)).map_or(0, |d| d.len);
                    filling.add_stream(disk, offset, len.into(), disk_len);
                }
                Kind::Zero | Kind::Hole | Kind::Reserved { .. } => {}
            }
        }
        for (index, stream) in filling.streams.iter().enumerate() {
            let len = usize::try_from(stream.end.saturating_sub(stream.start)).unwrap_or(0);
            if len > 0 {
                reads.push(read(stream.disk, stream.start, vec![(vec![0; len], Slot::Stream(index))]));
            }
        }
        filling.reads_left = reads.len();
        Ok((filling, reads))
    }

    /// Takes the segments of a finished read in.
    pub fn absorb(&mut self, slots: &[Slot], segments: Vec<Vec<u8>>) {
        for (slot, bytes) in slots.iter().zip(segments) {
            match *slot {
                Slot::Unit(index) => {
                    if let Some(unit) = self.units.get_mut(index) {
                        *unit = bytes;
                    }
                }
                Slot::Part { skip, virtual_offset, len } => {
                    let end = skip.saturating_add(len);
                    self.copy_in(virtual_offset, bytes.get(skip..end).unwrap_or_default());
                }
                Slot::Stream(index) => {
                    if let Some(stream) = self.streams.get_mut(index) {
                        stream.bytes = bytes;
                    }
                }
            }
        }
        self.reads_left = self.reads_left.saturating_sub(1);
    }

    /// Notes what is lost of a read: `lost` counts from its first byte on. To be called before it is absorbed.
    pub fn lose(&mut self, slots: &[Slot], segments: &[Vec<u8>], lost: &[Range<u64>]) {
        let mut start = 0u64;
        for (slot, segment) in slots.iter().zip(segments) {
            let end = start.saturating_add(segment.len() as u64);
            for range in lost.iter().filter(|range| range.start < end && start < range.end) {
                let (from, to) =
                    (range.start.max(start).saturating_sub(start), range.end.min(end).saturating_sub(start));
                let shifted = |by: u64| by.saturating_add(from)..by.saturating_add(to);
                match *slot {
                    Slot::Unit(index) => {
                        self.lost.extend(self.stretch.units.get(index).map(|unit| shifted(*unit)));
                    }
                    Slot::Part { skip, virtual_offset, len } => {
                        let (skip, len) = (skip as u64, len as u64);
                        let (from, to) = (from.saturating_sub(skip), to.saturating_sub(skip).min(len));
                        if from < to {
                            self.lost.push(virtual_offset.saturating_add(from)..virtual_offset.saturating_add(to));
                        }
                    }
                    Slot::Stream(index) => {
                        if let Some(stream) = self.streams.get_mut(index) {
                            stream.lost.push(shifted(stream.start));
                        }
                    }
                }
            }
            start = end;
        }
    }

    /// Decodes the compressed pieces, once all reads have finished. `cluster` is scratch memory. To salvage is to
    /// lose what does not decode.
    ///
    /// # Errors
    /// [`Qcow2Error::Compressed`].
    pub fn decode(&mut self, decoder: &mut Decoder, cluster: &mut Vec<u8>, salvage: bool) -> Result<(), Error> {
        for index in 0..self.stretch.pieces.len() {
            let Some(Piece { extent, layer }) = self.stretch.pieces.get(index).copied() else { break };
            let Kind::Encoded { disk, offset, len, padding, codec, cluster_size, skip } = extent.kind else { continue };
            cluster.resize(usize::try_from(cluster_size).unwrap_or(0), 0);
            let result = self.decode_cluster(decoder, codec, (disk, offset, len, padding), cluster);
            if result.is_err() && salvage {
                cluster.fill(0);
                self.lost.push(extent.start..extent.end());
            } else if let Err(error) = result {
                let virtual_offset = extent.start.saturating_sub(skip.into());
                return Err(Error::Qcow2 { layer, error: Qcow2Error::Compressed { virtual_offset, offset, error } });
            }
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            let end = skip.saturating_add(usize::try_from(extent.len).unwrap_or(usize::MAX));
            self.copy_in(extent.start, cluster.get(skip..end).unwrap_or_default());
        }
        self.streams.clear();
        Ok(())
    }

    fn decode_cluster(
        &self,
        decoder: &mut Decoder,
        codec: Codec,
        (disk, offset, len, padding): (DiskId, u64, u32, u32),
        cluster: &mut [u8],
    ) -> Result<(), CodecError> {
        let stream = self
            .streams
            .iter()
            .filter(|stream| stream.disk == disk && stream.start <= offset && offset < stream.end)
            // Two streams may share a sector; the one that goes on has the whole cluster.
            .max_by_key(|stream| stream.end)
            .ok_or(CodecError::Stream)?;
        // What is read as zeros in its place might decode to anything.
        let end = offset.saturating_add(len.into());
        if stream.lost.iter().any(|lost| lost.start < end && offset < lost.end) {
            return Err(CodecError::Stream);
        }
        let from = usize::try_from(offset.saturating_sub(stream.start)).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(0);
        let to = from.saturating_add(len);
        match stream.bytes.get(from..to) {
            Some(bytes) if padding == 0 => decoder.decode(codec, bytes, cluster),
            // What lies past the end of the disk or of its window reads as zeros, as in QEMU: a stream that is cut may end in them.
            bytes => {
                let mut padded = bytes.or(stream.bytes.get(from..)).unwrap_or_default().to_vec();
                padded.resize(len.saturating_add(usize::try_from(padding).unwrap_or(0)), 0);
                decoder.decode(codec, &padded, cluster)
            }
        }
    }

    /// Makes the units zero that pieces do not cover whole.
    fn zero_gaps(&mut self) {
        let mut pieces = self.stretch.pieces.iter().peekable();
        for (start, unit) in self.stretch.units.iter().zip(&mut self.units) {
            let end = start.saturating_add(UNIT);
            let mut covered = *start;
            while let Some(piece) = pieces.peek().filter(|piece| piece.extent.start < end) {
                if piece.extent.start > covered {
                    break;
                }
                covered = covered.max(piece.extent.end().min(end));
                if piece.extent.end() > end {
                    break;
                }
                pieces.next();
            }
            if covered < end {
                unit.fill(0);
                // The rest of this unit's pieces are not of interest any more.
                while pieces.next_if(|piece| piece.extent.end() <= end).is_some() {}
            }
        }
    }

    /// The read of a piece of data: whole units straight into their buffers, what is left and right of them through
    /// buffers of its own.
    fn read_data(&mut self, disk: DiskId, offset: u64, start: u64, len: u64) -> Read {
        let end = start.saturating_add(len);
        let first = align::up(start, UNIT).unwrap_or(end);
        let last = align::down(end, UNIT);
        let aligned = align::within(offset, SECTOR_LEN) == align::within(start, SECTOR_LEN);
        if first >= last || !aligned {
            return read(disk, align::down(offset, SECTOR_LEN), vec![part(offset, start, len)]);
        }
        let mut segments = Vec::new();
        if start < first {
            segments.push(part(offset, start, first.saturating_sub(start)));
        }
        let mut at = first;
        let mut index = self.stretch.units.partition_point(|unit| *unit < first);
        while at < last {
            let unit = self.units.get_mut(index).map(core::mem::take).unwrap_or_default();
            segments.push((unit, Slot::Unit(index)));
            index = index.saturating_add(1);
            at = at.saturating_add(UNIT);
        }
        if last < end {
            segments.push(part(offset.saturating_add(last.saturating_sub(start)), last, end.saturating_sub(last)));
        }
        read(disk, align::down(offset, SECTOR_LEN), segments)
    }

    fn add_stream(&mut self, disk: DiskId, offset: u64, len: u64, disk_len: u64) {
        let disk_end = align::up(disk_len, SECTOR_LEN).unwrap_or(disk_len);
        let start = align::down(offset, SECTOR_LEN);
        let end = align::up(offset.saturating_add(len), SECTOR_LEN).unwrap_or(disk_end).min(disk_end);
        if let Some(last) = self.streams.last_mut() {
            let near = last.disk == disk && last.start <= start && start <= last.end.saturating_add(STREAM_GAP_MAX);
            if near && end.saturating_sub(last.start) <= STREAM_LEN_MAX {
                last.end = last.end.max(end);
                return;
            }
        }
        self.streams.push(Stream { disk, start, end: end.max(start), bytes: Vec::new(), lost: Vec::new() });
    }

    /// Copies bytes of the disk into the units they belong to.
    fn copy_in(&mut self, mut virtual_offset: u64, mut bytes: &[u8]) {
        let mut index = self.stretch.units.partition_point(|unit| unit.saturating_add(UNIT) <= virtual_offset);
        while let (Some(start), Some(unit)) = (self.stretch.units.get(index), self.units.get_mut(index)) {
            let within = usize::try_from(virtual_offset.saturating_sub(*start)).unwrap_or(usize::MAX);
            let room = unit.get_mut(within..).unwrap_or_default();
            let len = room.len().min(bytes.len());
            let Some((head, tail)) = bytes.split_at_checked(len).filter(|_| len > 0) else { return };
            if let Some(room) = room.get_mut(..len) {
                room.copy_from_slice(head);
            }
            bytes = tail;
            virtual_offset = virtual_offset.saturating_add(len as u64);
            index = index.saturating_add(1);
        }
    }
}

/// A segment for `len` bytes at `offset` of a disk, rounded to sectors, and where they belong.
fn part(offset: u64, virtual_offset: u64, len: u64) -> (Vec<u8>, Slot) {
    let skip = align::within(offset, SECTOR_LEN);
    let rounded = align::up(skip.saturating_add(len), SECTOR_LEN).unwrap_or(len);
    let size = |len: u64| usize::try_from(len).unwrap_or(0);
    (vec![0; size(rounded)], Slot::Part { skip: size(skip), virtual_offset, len: size(len) })
}

fn read(disk: DiskId, offset: u64, parts: Vec<(Vec<u8>, Slot)>) -> Read {
    let (segments, slots) = parts.into_iter().unzip();
    Read { request: BlockRequest { disk: disk.0, action: Action::Read, offset, segments }, slots }
}
