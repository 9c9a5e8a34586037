//! raw: bytes as they are, or a window of them.
//!
//! ```text
//! disk    |-------|=================|-----|
//!         0       offset            offset + size
//! ```
//!
//! A length that is no multiple of 512 is rounded up, and the rest reads as zeros, as in QEMU.

use crate::align;
use crate::image::{Extent, Image, Kind};
use crate::store::ReadAt;
use core::ops::Range;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{Error, RawError};
use instar_abi::request::{DiskId, Layer, LayerId};

/// A raw image. Having one proves: the window lies within the disk, its last sector perhaps excepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    disk: DiskId,
    offset: u64,
    virtual_size: u64,
}

impl Raw {
    /// Opens a layer as raw.
    ///
    /// # Errors
    /// [`RawError::Window`].
    pub fn open(io: &dyn ReadAt, id: LayerId, layer: &Layer) -> Result<Self, Error> {
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
        let virtual_size = align::up(len, SECTOR_LEN).ok_or(refused)?;
        Ok(Self { disk: layer.disk, offset, virtual_size })
    }
}

impl Image for Raw {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn map(&self, _io: &mut dyn ReadAt, range: Range<u64>) -> Result<Extent, Error> {
        let offset = self.offset.saturating_add(range.start);
        let len = range.end.saturating_sub(range.start);
        Ok(Extent { start: range.start, len, kind: Kind::Data { disk: self.disk, offset } })
    }
}
