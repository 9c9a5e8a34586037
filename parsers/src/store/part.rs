//! A part of a disk that stands for the whole of it: `offset` and `size` of the raw driver below another format.

use super::{Budget, ReadAt};
use crate::align;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{Error, RawError};
use instar_abi::request::{DiskId, HostExtent, Layer, LayerId};

/// Where a layer's bytes are. Having one proves: it lies within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The disk.
    pub disk: DiskId,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes; a multiple of 512 unless the part ends where the disk does.
    pub len: u64,
}

impl Part {
    /// The part of its disk that a layer is.
    ///
    /// # Errors
    /// [`RawError::Window`].
    pub fn of(io: &dyn ReadAt, id: LayerId, layer: &Layer) -> Result<Self, Error> {
        let disk_len = io.len(layer.disk);
        let (offset, len) = layer.window.map_or((0, None), |window| (window.offset, window.len));
        let refused = Error::Raw { layer: id, error: RawError::Window { offset, len, disk_len } };
        let Some(rest) = disk_len.checked_sub(offset) else { return Err(refused) };
        let len = match len {
            // QEMU takes a `size` of whole sectors only.
            Some(len) if len > rest || align::within(len, SECTOR_LEN) != 0 => return Err(refused),
            Some(len) => len,
            None => rest,
        };
        Ok(Self { disk: layer.disk, offset, len })
    }

    /// The disks of a job, with this part in the place of its disk.
    pub fn view<'a>(&self, io: &'a mut dyn ReadAt) -> View<'a> {
        View { io, part: *self }
    }
}

/// [`ReadAt`] with a part in the place of its disk; only [`ReadAt::host_data`] still speaks of the whole disk.
pub struct View<'a> {
    io: &'a mut dyn ReadAt,
    part: Part,
}

impl ReadAt for View<'_> {
    fn len(&self, disk: DiskId) -> u64 {
        if disk == self.part.disk { self.part.len } else { self.io.len(disk) }
    }

    fn read_at(&mut self, disk: DiskId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        if disk != self.part.disk {
            return self.io.read_at(disk, offset, buf);
        }
        super::check_range(disk, offset, buf.len(), self.part.len)?;
        self.io.read_at(disk, self.part.offset.saturating_add(offset), buf)
    }

    fn prefetch(&mut self, ranges: &[(DiskId, Range<u64>)]) -> Result<(), Error> {
        let on_disk = |at: u64| self.part.offset.saturating_add(at.min(self.part.len));
        let shifted: Vec<_> = ranges
            .iter()
            .map(|(disk, range)| match *disk == self.part.disk {
                true => (*disk, on_disk(range.start)..on_disk(range.end)),
                false => (*disk, range.clone()),
            })
            .collect();
        self.io.prefetch(&shifted)
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
