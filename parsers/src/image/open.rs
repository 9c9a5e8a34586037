//! The catalogue: the one place that knows every format that can be read.

use super::{Blocks, Extent, Image, Kind};
use crate::align;
use crate::detect::detect;
use crate::parallels::Parallels;
use crate::qcow::Qcow;
use crate::qcow2::Qcow2;
use crate::qed::Qed;
use crate::raw::Raw;
use crate::store::{Part, ReadAt};
use crate::vdi::Vdi;
use crate::vhdx::Vhdx;
use crate::vmdk::Vmdk;
use crate::vpc::Vpc;
use alloc::boxed::Box;
use core::ops::Range;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::request::{Layer, LayerId};

/// An open layer.
pub struct Opened {
    /// Where its bytes are: whatever reads its metadata sees this part as the whole disk.
    pub part: Part,
    /// What they are.
    pub driver: Driver,
}

/// An open layer's format.
pub enum Driver {
    /// raw.
    Raw(Raw),
    /// qcow2.
    Qcow2(Box<Qcow2>),
    /// Any other.
    Blocks(Box<dyn Blocks>),
}

/// Opens a layer without what it names.
///
/// # Errors
/// Those of detection; [`Error::UnsupportedFormat`] for a format that is known and can't be read; the format's own.
pub fn open(io: &mut dyn ReadAt, id: LayerId, layer: &Layer) -> Result<Opened, Error> {
    let format = detect(io, id, layer)?;
    let part = Part::of(io, id, layer)?;
    let driver = match format {
        Format::Raw | Format::Iso => Driver::Raw(Raw::open(io, id, layer)?),
        Format::Qcow2 => Driver::Qcow2(Box::new(Qcow2::open(&mut part.view(io), id, layer.disk)?)),
        Format::Vdi => Driver::Blocks(Box::new(Vdi::open(&mut part.view(io), id, layer.disk)?)),
        Format::Vpc => Driver::Blocks(Box::new(Vpc::open(&mut part.view(io), id, layer.disk)?)),
        Format::Vmdk => Driver::Blocks(Box::new(Vmdk::open(&mut part.view(io), id, layer.disk)?)),
        Format::Vhdx => Driver::Blocks(Box::new(Vhdx::open(&mut part.view(io), id, layer.disk)?)),
        Format::Parallels => Driver::Blocks(Box::new(Parallels::open(&mut part.view(io), id, layer.disk)?)),
        Format::Qed => Driver::Blocks(Box::new(Qed::open(&mut part.view(io), id, layer.disk)?)),
        Format::Qcow => Driver::Blocks(Box::new(Qcow::open(&mut part.view(io), id, layer.disk)?)),
        format => return Err(Error::UnsupportedFormat { layer: id, format }),
    };
    Ok(Opened { part, driver })
}

impl Opened {
    /// What it was opened as.
    #[must_use]
    pub fn format(&self) -> Format {
        match &self.driver {
            Driver::Raw(_) => Format::Raw,
            Driver::Qcow2(_) => Format::Qcow2,
            Driver::Blocks(image) => image.facts().format,
        }
    }

    /// What of `range` a failure to map its start concerns, from that start on; `None`: more than a part of the disk.
    #[must_use]
    pub fn broken(&self, range: Range<u64>, error: &Error) -> Option<Range<u64>> {
        match &self.driver {
            Driver::Raw(_) | Driver::Blocks(_) => None,
            Driver::Qcow2(image) => image.broken(range, error),
        }
    }
}

impl Image for Opened {
    fn virtual_size(&self) -> u64 {
        match &self.driver {
            Driver::Raw(image) => image.virtual_size(),
            Driver::Qcow2(image) => image.virtual_size(),
            Driver::Blocks(image) => image.virtual_size(),
        }
    }

    fn map(&self, io: &mut dyn ReadAt, range: Range<u64>) -> Result<Extent, Error> {
        let extent = match &self.driver {
            Driver::Raw(image) => return image.map(io, range),
            Driver::Qcow2(image) => image.map(&mut self.part.view(io), range)?,
            Driver::Blocks(image) => image.map(&mut self.part.view(io), range)?,
        };
        let is_whole = self.part.offset == 0 && self.part.len == io.len(self.part.disk);
        Ok(if is_whole { extent } else { on_disk(&self.part, extent) })
    }
}

/// The front of an extent that was mapped within a part, as it is on the disk. What follows the part is zero,
/// though the disk may go on.
fn on_disk(part: &Part, extent: Extent) -> Extent {
    match extent.kind {
        Kind::Data { disk, offset } if disk == part.disk => {
            // A disk's last sector is padded with zeros.
            let end = align::up(part.len, SECTOR_LEN).unwrap_or(part.len);
            match end.checked_sub(offset).filter(|room| *room > 0) {
                Some(room) => {
                    let kind = Kind::Data { disk, offset: part.offset.saturating_add(offset) };
                    Extent { len: extent.len.min(room), kind, ..extent }
                }
                None => Extent { kind: Kind::Zero, ..extent },
            }
        }
        Kind::Reserved { disk, offset, hides } if disk == part.disk => {
            Extent { kind: Kind::Reserved { disk, offset: part.offset.saturating_add(offset), hides }, ..extent }
        }
        Kind::Encoded { disk, offset, len, padding, codec, cluster_size, skip } if disk == part.disk => {
            let room = part.len.saturating_sub(offset);
            let inside = len.min(u32::try_from(room).unwrap_or(u32::MAX));
            let padding = padding.saturating_add(len.saturating_sub(inside));
            let offset = part.offset.saturating_add(offset);
            Extent { kind: Kind::Encoded { disk, offset, len: inside, padding, codec, cluster_size, skip }, ..extent }
        }
        _ => extent,
    }
}
