//! Formats whose disk is in blocks of one size, each found through a table.

use super::{Extent, Image, Kind};
use crate::store::ReadAt;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{BlockError, Error};
use instar_abi::facts::{self, Backing, Node};
use instar_abi::format::Format;
use instar_abi::request::LayerId;

/// Most blocks that one call looks at: neighbours are one extent.
const RUN_MAX: u64 = 1024;

/// A layer in blocks.
pub trait Blocks: Send {
    /// What info tells of it; the name of the layer below, too.
    fn facts(&self) -> &facts::Image;

    /// What info tells of the format's own.
    fn specific(&self) -> Vec<Node> {
        Vec::new()
    }

    /// An identifier of the content, which layers above record.
    fn identity(&self) -> Option<u32> {
        None
    }

    /// The identifier that the layer below had when this one was made.
    fn parent_identity(&self) -> Option<u32> {
        None
    }

    /// Whether every block was given its place when the image was made, so that the host's file tells where content is.
    fn is_preallocated(&self) -> bool {
        false
    }

    /// Bytes of a block, at least 1.
    fn block_size(&self) -> u64;

    /// What block `index` is, from its first byte on. The block starts within the virtual size.
    ///
    /// # Errors
    /// Those of the reads; a table is broken there.
    fn block(&self, io: &mut dyn ReadAt, index: u64) -> Result<Kind, Error>;
}

impl Image for dyn Blocks + '_ {
    fn virtual_size(&self) -> u64 {
        self.facts().virtual_size
    }

    fn map(&self, io: &mut dyn ReadAt, range: Range<u64>) -> Result<Extent, Error> {
        let size = self.block_size();
        let first = range.start.checked_div(size).unwrap_or(0);
        let block = |io: &mut dyn ReadAt, index: u64| -> Result<Extent, Error> {
            io.budget().take_steps(1)?;
            let kind = self.block(io, index)?;
            Ok(Extent { start: index.saturating_mul(size), len: size, kind })
        };
        let whole = block(io, first)?;
        let within = range.start.saturating_sub(whole.start);
        let mut extent = whole.split(within).1.unwrap_or(whole);
        for index in 1..RUN_MAX {
            if extent.end() >= range.end {
                break;
            }
            let next = match block(io, first.saturating_add(index)) {
                Ok(next) => next,
                // What is sound before it stands.
                Err(_) => break,
            };
            if !extent.merge(&next) {
                break;
            }
        }
        Ok(extent.split(range.end.saturating_sub(range.start)).0)
    }
}

/// Words every reader of such a format needs: its layer and its name, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layered {
    /// The layer.
    pub layer: LayerId,
    /// Its format.
    pub format: Format,
}

impl Layered {
    /// `error`, of this layer.
    #[must_use]
    pub const fn error(self, error: BlockError) -> Error {
        Error::Block { layer: self.layer, format: self.format, error }
    }

    /// `error`, of this layer, unless `holds`.
    ///
    /// # Errors
    /// `error`.
    pub const fn check(self, holds: bool, error: BlockError) -> Result<(), Error> {
        if holds { Ok(()) } else { Err(self.error(error)) }
    }

    /// The facts of an image of this format, without a layer below.
    #[must_use]
    pub const fn facts(self, virtual_size: u64, block_size: Option<u64>) -> facts::Image {
        facts::Image {
            format: self.format,
            virtual_size,
            cluster_size: block_size,
            encrypted: false,
            compressed: false,
            dirty: Some(false),
            backing: None,
            child_len: None,
            specific: None,
        }
    }
}

/// A layer below by its recorded name, which QEMU cuts at its first zero byte in these formats; an empty one is none.
#[must_use]
pub fn backing(mut name: Vec<u8>, format: Option<Vec<u8>>) -> Option<Backing> {
    if let Some(len) = name.iter().position(|&byte| byte == 0) {
        name.truncate(len);
    }
    (!name.is_empty()).then_some(Backing { name, format })
}
