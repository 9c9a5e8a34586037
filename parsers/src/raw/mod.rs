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
use crate::store::{Part, ReadAt};
use core::ops::Range;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;
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
    /// [`RawError::Window`](instar_abi::error::RawError::Window).
    pub fn open(io: &dyn ReadAt, id: LayerId, layer: &Layer) -> Result<Self, Error> {
        let Part { disk, offset, len } = Part::of(io, id, layer)?;
        // Disks are shorter than 2^63 bytes.
        Ok(Self { disk, offset, virtual_size: align::up(len, SECTOR_LEN).unwrap_or(len) })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{INFO, MemoryDisk, request, with_store};
    use instar_abi::request::Window;

    fn size(disk_len: usize, window: Option<Window>) -> Option<u64> {
        let disks = [MemoryDisk::new(vec![1; disk_len])];
        let mut request = request(INFO, &disks);
        request.layers[0].window = window;
        with_store(&request, &disks, |io| Raw::open(io, LayerId(0), &request.layers[0]))
            .ok()
            .map(|image| image.virtual_size())
    }

    #[test]
    fn a_window_lies_within_its_disk() {
        let window = |offset, len| Some(Window { offset, len });
        assert_eq!(size(1000, None), Some(1024));
        assert_eq!(size(0, None), Some(0));
        assert_eq!(size(1000, window(1000, None)), Some(0));
        assert_eq!(size(1000, window(1, None)), Some(1024));
        assert_eq!(size(1000, window(488, Some(512))), Some(512));
        assert_eq!(size(1000, window(489, Some(512))), None);
        assert_eq!(size(1000, window(0, Some(100))), None);
        assert_eq!(size(1000, window(1001, None)), None);
        assert_eq!(size(1000, window(u64::MAX, Some(u64::MAX))), None);
    }
}
