//! The snapshot table, entry by entry: it may have 64 MiB.

use super::extensions::until_nul;
use super::header::Header;
use super::{limits, wire};
use crate::align;
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::error::{Error, Qcow2Error};
use instar_abi::request::{DiskId, LayerId, SnapshotName};

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// ID, up to its NUL.
    pub id: Vec<u8>,
    /// Name, up to its NUL.
    pub name: Vec<u8>,
    /// Offset of its L1 table, unchecked.
    pub l1_offset: u64,
    /// Entries of its L1 table, unchecked.
    pub l1_count: u32,
    /// Its virtual size in bytes.
    pub disk_size: u64,
    /// Bytes of VM state.
    pub vm_state_size: u64,
    /// Creation time, seconds since 1970.
    pub date_seconds: u32,
    /// Nanoseconds of the creation time.
    pub date_nanoseconds: u32,
    /// VM clock in nanoseconds.
    pub vm_clock_nanoseconds: u64,
    /// Instruction count.
    pub icount: Option<u64>,
    /// Bytes of extra data.
    pub extra_len: u32,
}

/// Goes from entry to entry.
#[derive(Clone, Debug)]
pub struct Snapshots {
    layer: LayerId,
    disk: DiskId,
    start: u64,
    at: u64,
    index: u32,
    count: u32,
    virtual_size: u64,
}

impl Snapshots {
    /// A walk over the table of the image on `disk`.
    #[must_use]
    pub fn new(layer: LayerId, disk: DiskId, header: &Header) -> Self {
        Self {
            layer,
            disk,
            start: header.snapshots.offset,
            at: header.snapshots.offset,
            index: 0,
            count: header.snapshots.count,
            virtual_size: header.virtual_size,
        }
    }

    /// The next snapshot; `None` after the last. The heap of ID and name is paid for by the caller's giving it
    /// back.
    ///
    /// # Errors
    /// Too much extra data, a table longer than QEMU allows; those of the reads.
    pub fn next(&mut self, io: &mut dyn ReadAt) -> Result<Option<Snapshot>, Error> {
        if self.index >= self.count {
            return Ok(None);
        }
        io.budget().take_steps(1)?;
        let index = self.index;
        let refuse = |layer, error| Error::Qcow2 { layer, error };
        // Offsets stay far below 2^64: the table ends below 2^63 and is left after 64 MiB.
        let start = align::up(self.at, 8).unwrap_or(u64::MAX);
        let header: wire::SnapshotHeader = io.read_wire(self.disk, start)?;
        let extra_len = header.extra_data_size.get();
        if extra_len > limits::SNAPSHOT_EXTRA_LEN_MAX {
            return Err(refuse(self.layer, Qcow2Error::SnapshotExtraData { index, found: extra_len }));
        }
        let extra_at = start.saturating_add(size_of_val(&header) as u64);
        let id_at = extra_at.saturating_add(extra_len.into());
        let name_at = id_at.saturating_add(header.id_size.get().into());
        self.at = name_at.saturating_add(header.name_size.get().into());
        if self.at.saturating_sub(self.start) > limits::SNAPSHOT_TABLE_LEN_MAX {
            return Err(refuse(self.layer, Qcow2Error::SnapshotTableLen { index }));
        }
        self.index = index.saturating_add(1);
        let extra: wire::SnapshotExtra = io.read_wire(self.disk, extra_at)?;
        let id = self.text(io, id_at, header.id_size.get())?;
        let name = self.text(io, name_at, header.name_size.get())?;
        let snapshot = self.snapshot(&header, &extra, id, name);
        #[cfg(any(test, feature = "invariants"))]
        super::invariants::check_snapshot(self, &snapshot);
        Ok(Some(snapshot))
    }

    /// Bytes of the table as far as the walk has come.
    #[must_use]
    pub const fn walked_len(&self) -> u64 {
        self.at.saturating_sub(self.start)
    }

    /// The snapshot of a name; walks on from where this one is.
    ///
    /// # Errors
    /// As [`Snapshots::next`].
    ///
    /// # Source
    /// As `qemu-img convert -l` does: every identifier is compared before any name, and the first one wins.
    pub fn find(mut self, io: &mut dyn ReadAt, wanted: &SnapshotName) -> Result<Option<Snapshot>, Error> {
        let mut by_name = None;
        while let Some(snapshot) = self.next(io)? {
            let (id, name) = match wanted {
                SnapshotName::IdOrName(text) => (Some(text), Some(text)),
                SnapshotName::Id(text) => (Some(text), None),
                SnapshotName::Name(text) => (None, Some(text)),
            };
            if id.is_some_and(|id| *id == snapshot.id) {
                return Ok(Some(snapshot));
            }
            if by_name.is_none() && name.is_some_and(|name| *name == snapshot.name) {
                by_name = Some(snapshot);
            }
        }
        Ok(by_name)
    }

    fn text(&self, io: &mut dyn ReadAt, at: u64, len: u16) -> Result<Vec<u8>, Error> {
        let bytes = io.read_vec(self.disk, at, len.into())?;
        io.budget().give_heap(len.into());
        Ok(until_nul(&bytes).to_vec())
    }

    fn snapshot(
        &self,
        header: &wire::SnapshotHeader,
        extra: &wire::SnapshotExtra,
        id: Vec<u8>,
        name: Vec<u8>,
    ) -> Snapshot {
        let has = |end: usize| header.extra_data_size.get() as usize >= end;
        Snapshot {
            id,
            name,
            l1_offset: header.l1_table_offset.get(),
            l1_count: header.l1_size.get(),
            disk_size: if has(16) { extra.disk_size.get() } else { self.virtual_size },
            vm_state_size: if has(8) { extra.vm_state_size.get() } else { header.vm_state_size.get().into() },
            date_seconds: header.date_seconds.get(),
            date_nanoseconds: header.date_nanoseconds.get(),
            vm_clock_nanoseconds: header.vm_clock_nanoseconds.get(),
            extra_len: header.extra_data_size.get(),
            icount: Some(extra.icount.get()).filter(|&icount| has(24) && icount != u64::MAX),
        }
    }
}
