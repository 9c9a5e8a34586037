//! The catalogue: the one place that knows every format that can be read.

use super::{Extent, Image};
use crate::detect::detect;
use crate::qcow2::Qcow2;
use crate::raw::Raw;
use crate::store::ReadAt;
use alloc::boxed::Box;
use core::ops::Range;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::request::{Layer, LayerId};

/// An open layer.
#[derive(Clone, Debug)]
pub enum Opened {
    /// raw.
    Raw(Raw),
    /// qcow2.
    Qcow2(Box<Qcow2>),
}

/// Opens a layer without what it names.
///
/// # Errors
/// Those of detection; [`Error::UnsupportedFormat`] for a format that is known and can't be read; the format's own.
pub fn open(io: &mut dyn ReadAt, id: LayerId, layer: &Layer) -> Result<Opened, Error> {
    match detect(io, id, layer)? {
        Format::Raw | Format::Iso => Ok(Opened::Raw(Raw::open(io, id, layer)?)),
        Format::Qcow2 => Ok(Opened::Qcow2(Box::new(Qcow2::open(io, id, layer.disk)?))),
        format => Err(Error::UnsupportedFormat { layer: id, format }),
    }
}

impl Image for Opened {
    fn virtual_size(&self) -> u64 {
        match self {
            Self::Raw(image) => image.virtual_size(),
            Self::Qcow2(image) => image.virtual_size(),
        }
    }

    fn map(&self, io: &mut dyn ReadAt, range: Range<u64>) -> Result<Extent, Error> {
        match self {
            Self::Raw(image) => image.map(io, range),
            Self::Qcow2(image) => image.map(io, range),
        }
    }
}
