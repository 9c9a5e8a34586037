//! An open image: from a place in the disk to a place in a file.

use super::extensions::Extensions;
use super::header::{Crypt, Header, check_table};
use super::l2::{L2Entry, L2Mapping, Subcluster};
use super::snapshot::Snapshots;
use super::wire::entry;
use super::{bitmap, limits};
use crate::align;
use crate::image::{Extent, Image, Kind};
use crate::luks;
use crate::store::{ReadAt, WINDOW_LEN};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{Error, Qcow2Error, ReadError, Table};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId, SnapshotName};

/// Bytes of a table that are looked at in one go.
const CHUNK_LEN: usize = 4096;

/// Bytes of L2 tables that are fetched together.
const AHEAD_LEN: u64 = 64 << 10;
/// Most L2 tables that are fetched together: with clusters of 4 KiB they map 32 MiB.
const AHEAD_TABLES_MAX: usize = 16;

/// An open image: what QEMU opens without its data file and backing file.
#[derive(Clone, Debug)]
pub struct Qcow2 {
    layer: LayerId,
    disk: DiskId,
    data_disk: Option<DiskId>,
    header: Header,
    extensions: Extensions,
    backing: Option<Vec<u8>>,
    luks: Option<Box<luks::Header>>,
    bitmaps: Vec<bitmap::Bitmap>,
}

impl Qcow2 {
    /// Opens the image on `disk`.
    ///
    /// # Errors
    /// The first thing that qemu-img does not accept, in its order but for the snapshot table, which
    /// is read only by those who want it; those of the reads.
    pub fn open(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let header = Header::read(io, layer, disk)?;
        Self::open_with(io, layer, disk, header)
    }

    /// The same, but that nothing is asked of the snapshot table: a check tells what is wrong with it.
    ///
    /// # Errors
    /// As [`Qcow2::open`].
    pub fn open_for_check(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let header = Header::read_for_check(io, layer, disk)?;
        Self::open_with(io, layer, disk, header)
    }

    fn open_with(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId, header: Header) -> Result<Self, Error> {
        let refuse = |error| Error::Qcow2 { layer, error };
        let extensions = Extensions::read(io, layer, disk, &header)?;
        prefetch_tables(io, disk, &header, &extensions)?;
        let luks = match extensions.crypto {
            Some(place) if place.len < luks::Header::LEN as u64 => {
                return Err(refuse(Qcow2Error::CryptoHeaderLen { found: place.len }));
            }
            Some(place) => {
                let mut bytes = [0; luks::Header::LEN];
                io.read_padded(disk, place.offset, &mut bytes)?;
                let header = luks::Header::parse(&bytes).map_err(|error| refuse(Qcow2Error::Luks(error)))?;
                Some(Box::new(header))
            }
            None if header.crypt() == Crypt::Luks => return Err(refuse(Qcow2Error::CryptoHeaderMissing)),
            None => None,
        };
        let backing = backing_name(io, layer, disk, &header)?;
        let bitmaps = match &extensions.bitmaps {
            Some(place) => bitmap::read_all(io, layer, disk, &header, place)?,
            None => Vec::new(),
        };
        Ok(Self { layer, disk, data_disk: None, header, extensions, backing, luks, bitmaps })
    }

    /// The checked header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// What the header extensions say.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Name of the backing file, not empty.
    #[must_use]
    pub fn backing(&self) -> Option<&[u8]> {
        self.backing.as_deref()
    }

    /// The LUKS header.
    #[must_use]
    pub fn luks(&self) -> Option<&luks::Header> {
        self.luks.as_deref()
    }

    /// The bitmaps.
    #[must_use]
    pub fn bitmaps(&self) -> &[bitmap::Bitmap] {
        &self.bitmaps
    }

    /// The layer that this is.
    #[must_use]
    pub const fn layer(&self) -> LayerId {
        self.layer
    }

    /// The disk that the image is on.
    #[must_use]
    pub const fn disk(&self) -> DiskId {
        self.disk
    }

    /// Name of the external data file that reading content needs; `None`: it needs none.
    ///
    /// # Errors
    /// What QEMU refuses before it reads content: a data file without a name, a raw one that is none.
    pub fn data_file(&self) -> Result<Option<&[u8]>, Error> {
        let refuse = |error| Err(Error::Qcow2 { layer: self.layer, error });
        match (self.header.has_data_file(), self.extensions.data_file.as_deref()) {
            (true, Some(name)) => Ok(Some(name)),
            (true, None) => refuse(Qcow2Error::DataFileMissing),
            (false, _) if self.header.is_data_file_raw() => refuse(Qcow2Error::DataFileRawAlone),
            (false, _) => Ok(None),
        }
    }

    /// Says where the external data file is.
    pub fn set_data_disk(&mut self, disk: DiskId) {
        self.data_disk = Some(disk);
    }

    /// Makes a snapshot what is mapped. The virtual size stays the image's: as in QEMU, a disk that has grown since
    /// reads as a hole past the snapshot's table.
    ///
    /// # Errors
    /// [`Error::Snapshot`]; a table that QEMU does not load; those of the reads.
    pub fn select_snapshot(&mut self, io: &mut dyn ReadAt, name: &SnapshotName) -> Result<(), Error> {
        let Some(snapshot) = Snapshots::new(self.layer, self.disk, &self.header).find(io, name)? else {
            return Err(Error::Snapshot { format: Format::Qcow2 });
        };
        let (offset, count) = (snapshot.l1_offset, snapshot.l1_count);
        let cluster_size = self.header.cluster_size();
        let l1 = check_table(Table::SnapshotL1, offset, count, 8, limits::L1_LEN_MAX, cluster_size);
        self.header.l1 = l1.or_else(|error| self.refuse(error))?;
        Ok(())
    }

    /// What of `range` a failure to map its start concerns: a cluster, a table, or the entries that are read together.
    /// `None` for failures that concern more than that.
    #[must_use]
    pub fn broken(&self, range: Range<u64>, error: &Error) -> Option<Range<u64>> {
        let start = range.start;
        let cluster_size = u64::from(self.header.cluster_size());
        let unit = match error {
            Error::Qcow2 { error: Qcow2Error::L2TableOffset { .. } | Qcow2Error::L2TablePastEnd { .. }, .. } => {
                self.table_span()
            }
            Error::Qcow2 { error: Qcow2Error::DataFileMissing, .. } => return None,
            Error::Qcow2 { .. } => cluster_size,
            Error::Read(ReadError::Io { .. }) => {
                let entries = WINDOW_LEN.min(cluster_size).checked_div(L2Entry::len(&self.header) as u64);
                entries.unwrap_or(1).saturating_mul(cluster_size)
            }
            _ => return None,
        };
        let end = align::down(start, unit).saturating_add(unit).min(range.end);
        (start < end).then_some(start..end)
    }

    fn refuse<T>(&self, error: Qcow2Error) -> Result<T, Error> {
        Err(Error::Qcow2 { layer: self.layer, error })
    }

    /// Bytes that an L2 table maps: at most 2^39.
    fn table_span(&self) -> u64 {
        let entry_bits = if self.header.has_extended_l2() { 4 } else { 3 };
        let bits = self.header.cluster_bits.saturating_mul(2).saturating_sub(entry_bits);
        1u64.checked_shl(bits).unwrap_or(u64::MAX)
    }

    /// The L2 table for `start`, or the hole there, as far as L1 entries are empty.
    fn table(&self, io: &mut dyn ReadAt, range: &Range<u64>) -> Result<L1Entry, Error> {
        let span = self.table_span();
        let index_of = |at: u64| at.checked_div(span).unwrap_or(0);
        let first = index_of(range.start);
        let last = index_of(range.end.saturating_sub(1));
        // Only a snapshot's table may be shorter than the disk.
        let Some(last_entry) = u64::from(self.header.l1.count).checked_sub(1).filter(|entry| *entry >= first) else {
            return Ok(L1Entry::Hole { end: range.end });
        };
        let last = last.min(last_entry);
        let mut index = first;
        let mut buf = [0; CHUNK_LEN];
        while index <= last {
            let count = last.saturating_sub(index).saturating_add(1);
            // One entry first: most L1 entries are not empty.
            let count = if index == first { 1 } else { count.min(CHUNK_LEN as u64 / 8) };
            let Some(chunk) = buf.get_mut(..usize::try_from(count.saturating_mul(8)).unwrap_or(0)) else { break };
            io.budget().take_steps(count)?;
            io.read_padded(self.disk, self.header.l1.offset.saturating_add(index.saturating_mul(8)), chunk)?;
            let offsets = chunk.as_chunks().0.iter().map(|raw| u64::from_be_bytes(*raw) & entry::OFFSET);
            for offset in offsets {
                if offset != 0 {
                    return if index == first {
                        self.check_table(io, index, offset)
                    } else {
                        Ok(L1Entry::Hole { end: index.saturating_mul(span).min(range.end) })
                    };
                }
                index = index.saturating_add(1);
            }
        }
        Ok(L1Entry::Hole { end: range.end })
    }

    /// Fetches the L2 tables from `range`'s start on in one batch: whoever comes to the start of one goes on.
    fn prefetch_ahead(&self, io: &mut dyn ReadAt, range: &Range<u64>) -> Result<(), Error> {
        let cluster_size = u64::from(self.header.cluster_size());
        let span = self.table_span();
        let wanted = range.end.saturating_sub(range.start).div_ceil(span);
        let count = AHEAD_LEN.div_ceil(cluster_size).min(wanted).min(AHEAD_TABLES_MAX as u64);
        let mut entries = [0; 8 * AHEAD_TABLES_MAX];
        let Some(entries) = entries.get_mut(..usize::try_from(count.saturating_mul(8)).unwrap_or(0)) else {
            return Ok(());
        };
        let index = range.start.checked_div(span).unwrap_or(0);
        io.read_padded(self.disk, self.header.l1.offset.saturating_add(index.saturating_mul(8)), entries)?;
        let mut pieces = Vec::new();
        for raw in entries.as_chunks().0 {
            let offset = u64::from_be_bytes(*raw) & entry::OFFSET;
            let mut at = 0;
            while offset != 0 && at < cluster_size.min(AHEAD_LEN) {
                let start = offset.saturating_add(at);
                let len = cluster_size.min(WINDOW_LEN);
                pieces.push((self.disk, start..start.saturating_add(len)));
                at = at.saturating_add(len);
            }
        }
        io.prefetch(&pieces)
    }

    fn check_table(&self, io: &dyn ReadAt, index: u64, offset: u64) -> Result<L1Entry, Error> {
        let l1_index = u32::try_from(index).unwrap_or(u32::MAX);
        if !offset.is_multiple_of(self.header.cluster_size().into()) {
            return self.refuse(Qcow2Error::L2TableOffset { l1_index, found: offset });
        }
        let file_len = io.len(self.disk);
        if offset >= file_len {
            return self.refuse(Qcow2Error::L2TablePastEnd { l1_index, offset, file_len });
        }
        Ok(L1Entry::At { offset })
    }

    /// What `range`, within one cluster, is by that cluster's entry, from its start on.
    fn cluster(&self, io: &dyn ReadAt, entry: L2Entry, range: Range<u64>) -> Result<Extent, Error> {
        let cluster_size = u64::from(self.header.cluster_size());
        let cluster_start = align::down(range.start, cluster_size);
        let within = align::within(range.start, cluster_size);
        let start = range.start;
        let len = range.end.saturating_sub(start);
        let mapping = entry.mapping(&self.header);
        if !entry.is_bitmap_sound(mapping) {
            let bitmap = entry.bitmap();
            return self.refuse(Qcow2Error::Subclusters { virtual_offset: cluster_start, bitmap });
        }
        let offset = match mapping {
            L2Mapping::Compressed { offset, len: stream_len } => {
                if self.header.has_data_file() {
                    return self.refuse(Qcow2Error::CompressedWithDataFile { virtual_offset: cluster_start });
                }
                let kind = Kind::Encoded {
                    disk: self.disk,
                    offset,
                    len: stream_len,
                    padding: 0,
                    codec: self.header.compression(),
                    cluster_size: self.header.cluster_size(),
                    skip: u32::try_from(within).unwrap_or(0),
                };
                return Ok(Extent { start, len, kind });
            }
            L2Mapping::Zero { .. } if self.header.version() < 3 => {
                return self.refuse(Qcow2Error::ZeroFlagBeforeVersion3 { virtual_offset: cluster_start });
            }
            L2Mapping::Zero { reserved } => {
                self.check_cluster(cluster_start, reserved)?;
                return Ok(Extent { start, len, kind: self.reserved(reserved, within, true) });
            }
            L2Mapping::Unallocated => 0,
            L2Mapping::Allocated { offset } => {
                self.check_cluster(cluster_start, offset)?;
                offset
            }
        };
        let (state, len) = self.subclusters(entry, mapping, within, len);
        let kind = match state {
            Subcluster::Unallocated => self.reserved(offset, within, false),
            Subcluster::Zero => self.reserved(offset, within, true),
            Subcluster::Allocated => self.data(io, start, offset.saturating_add(within))?,
        };
        Ok(Extent { start, len, kind })
    }

    /// What is at byte `within` of a cluster without content, whose place is at `offset`; 0: it has none.
    const fn reserved(&self, offset: u64, within: u64, hides: bool) -> Kind {
        let disk = match self.data_disk {
            Some(disk) => disk,
            None => self.disk,
        };
        match (offset, hides) {
            (0, true) => Kind::Zero,
            (0, false) => Kind::Hole,
            (offset, hides) => Kind::Reserved { disk, offset: offset.saturating_add(within), hides },
        }
    }

    /// The state at byte `within` of a cluster, and for how many of `len` bytes it lasts.
    fn subclusters(&self, entry: L2Entry, mapping: L2Mapping, within: u64, len: u64) -> (Subcluster, u64) {
        if !self.header.has_extended_l2() {
            let allocated = matches!(mapping, L2Mapping::Allocated { .. });
            return (if allocated { Subcluster::Allocated } else { Subcluster::Unallocated }, len);
        }
        let size = u64::from(self.header.cluster_size() / limits::SUBCLUSTERS);
        let first = u32::try_from(within.checked_div(size).unwrap_or(0)).unwrap_or(0);
        let state = entry.subcluster(first);
        let end = (first..limits::SUBCLUSTERS).take_while(|&index| entry.subcluster(index) == state).last();
        let end = u64::from(end.unwrap_or(first)).saturating_add(1).saturating_mul(size);
        (state, len.min(end.saturating_sub(within)))
    }

    fn check_cluster(&self, virtual_offset: u64, offset: u64) -> Result<(), Error> {
        if !offset.is_multiple_of(self.header.cluster_size().into()) {
            return self.refuse(Qcow2Error::ClusterOffset { virtual_offset, found: offset });
        }
        Ok(())
    }

    fn data(&self, io: &dyn ReadAt, virtual_offset: u64, offset: u64) -> Result<Kind, Error> {
        if self.header.has_data_file() {
            if offset != virtual_offset {
                return self.refuse(Qcow2Error::DataFileOffset { virtual_offset, found: offset });
            }
            return match self.data_disk {
                Some(disk) => Ok(Kind::Data { disk, offset }),
                None => self.refuse(Qcow2Error::DataFileMissing),
            };
        }
        let file_len = io.len(self.disk);
        // A cluster that starts within the file and ends past it is zero there.
        if align::down(offset, self.header.cluster_size().into()) >= file_len {
            return self.refuse(Qcow2Error::ClusterPastEnd { virtual_offset, offset, file_len });
        }
        Ok(Kind::Data { disk: self.disk, offset })
    }
}

/// What an L1 entry leads to.
enum L1Entry {
    /// Nothing, up to `end` in the disk.
    Hole { end: u64 },
    /// An L2 table at a cluster of the file.
    At { offset: u64 },
}

impl Image for Qcow2 {
    fn virtual_size(&self) -> u64 {
        self.header.virtual_size
    }

    /// A run ends at the latest where its L2 table does, unless no table follows.
    fn map(&self, io: &mut dyn ReadAt, range: Range<u64>) -> Result<Extent, Error> {
        let start = range.start;
        let table = match self.table(io, &range)? {
            L1Entry::Hole { end } => return Ok(Extent { start, len: end.saturating_sub(start), kind: Kind::Hole }),
            L1Entry::At { offset } => offset,
        };
        let span = self.table_span();
        if align::within(start, span) == 0 {
            self.prefetch_ahead(io, &range)?;
        }
        let cluster_size = u64::from(self.header.cluster_size());
        let end = align::down(start, span).saturating_add(span).min(range.end);
        let entry_len = L2Entry::len(&self.header);
        let mut at = start;
        let mut run: Option<Extent> = None;
        let mut buf = [0; CHUNK_LEN];
        while at < end {
            let index = align::within(at, span).checked_div(cluster_size).unwrap_or(0);
            let clusters = end.saturating_sub(align::down(at, cluster_size)).div_ceil(cluster_size);
            let wanted = usize::try_from(clusters).unwrap_or(usize::MAX).saturating_mul(entry_len);
            // The first look is short: in a fragmented image most runs are.
            let len = wanted.min(if run.is_none() { 256 } else { CHUNK_LEN });
            let Some(chunk) = buf.get_mut(..len) else { break };
            let entry_at = table.saturating_add(index.saturating_mul(entry_len as u64));
            io.budget().take_steps(len as u64 / 64)?;
            if let Err(error) = io.read_padded(self.disk, entry_at, chunk) {
                return run.ok_or(error);
            }
            for raw in chunk.chunks_exact(entry_len) {
                let Some(entry) = L2Entry::parse(&self.header, raw) else { break };
                let cluster_end = align::down(at, cluster_size).saturating_add(cluster_size).min(end);
                while at < cluster_end {
                    let next = match self.cluster(io, entry, at..cluster_end) {
                        Ok(next) => next,
                        // What is sound comes first; the next call starts at what is not.
                        Err(error) => return run.ok_or(error),
                    };
                    at = next.end();
                    let Some(current) = &mut run else {
                        run = Some(next);
                        continue;
                    };
                    if !current.merge(&next) {
                        return Ok(*current);
                    }
                }
            }
        }
        // `range` is not empty, so at least one cluster was looked at.
        Ok(run.unwrap_or(Extent { start, len: end.saturating_sub(start), kind: Kind::Hole }))
    }
}

/// Fetches in one batch what the rest of opening, and `info`, will look at.
fn prefetch_tables(io: &mut dyn ReadAt, disk: DiskId, header: &Header, extensions: &Extensions) -> Result<(), Error> {
    let piece = |offset: u64, len: u64| (disk, offset..offset.saturating_add(len));
    let mut ranges = Vec::new();
    if let Some((offset, len)) = header.backing {
        ranges.push(piece(offset.into(), len.into()));
    }
    if let Some(place) = extensions.crypto {
        ranges.push(piece(place.offset, luks::Header::LEN as u64));
    }
    if let Some(place) = extensions.bitmaps {
        ranges.push(piece(place.offset, place.len));
    }
    if header.snapshots.count > 0 {
        ranges.push(piece(header.snapshots.offset, u64::from(header.snapshots.count).saturating_mul(128)));
    }
    io.prefetch(&ranges)
}

fn backing_name(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId, header: &Header) -> Result<Option<Vec<u8>>, Error> {
    let Some((offset, len)) = header.backing else { return Ok(None) };
    let max = header.cluster_size().saturating_sub(offset).min(limits::BACKING_NAME_LEN_MAX);
    if len > max {
        return Err(Error::Qcow2 { layer, error: Qcow2Error::BackingNameLen { found: len, max } });
    }
    let name = io.read_vec(disk, offset.into(), usize::try_from(len).unwrap_or(0))?;
    let name = super::extensions::until_nul(&name);
    Ok((!name.is_empty()).then(|| name.to_vec()))
}
