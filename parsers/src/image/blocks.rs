//! Formats whose disk is in blocks, each found through a table.

use super::{Extent, Image, Kind};
use crate::align;
use crate::store::ReadAt;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Field, Identity, Structure};
use instar_abi::facts::{self, Backing, Node};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};

/// Most blocks that one call looks at: neighbours are one extent.
const RUN_MAX: u64 = 1024;

/// The disk that the job has for a file that an image names; `None`: it was not opened.
pub type FileOf<'a> = &'a dyn Fn(&[u8]) -> Option<DiskId>;

/// A layer in blocks.
pub trait Blocks: Send {
    /// What info tells of it; the name of the layer below, too.
    fn facts(&self) -> &facts::Image;

    /// What info tells of the format's own.
    fn specific(&self) -> Vec<Node> {
        Vec::new()
    }

    /// An identifier of the content, which layers above record.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Identifiers one of which the layer below had when this one was made; none: nothing is known of it.
    fn parent_identities(&self) -> Vec<Identity> {
        Vec::new()
    }

    /// Names of the files that hold parts of the content, in their order; one may stand there again.
    fn files(&self) -> Vec<&[u8]> {
        Vec::new()
    }

    /// Takes the files that hold parts of the content. What was not opened is described by what the image says of it.
    ///
    /// # Errors
    /// Those of the reads; a file is not what the image says.
    fn attach(&mut self, io: &mut dyn ReadAt, file_of: FileOf<'_>) -> Result<(), Error> {
        let _ = (io, file_of);
        Ok(())
    }

    /// Whether what is at `at` was given its place when the image was made, so that the host's file tells where content is.
    fn is_preallocated(&self, at: u64) -> bool {
        let _ = at;
        false
    }

    /// The block that holds byte `at` of the disk, whole. The byte lies within the virtual size.
    ///
    /// # Errors
    /// Those of the reads; a table is broken there.
    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error>;
}

/// The block that holds byte `at` of a disk in blocks of `size` bytes; `kind`: what block `index` is, from its first byte on.
///
/// # Errors
/// Those of `kind`.
pub fn uniform(at: u64, size: u64, kind: impl FnOnce(u64) -> Result<Kind, Error>) -> Result<Extent, Error> {
    let index = align::units(at, size);
    Ok(Extent { start: index.saturating_mul(size), len: size, kind: kind(index)? })
}

/// The hole that a table of `entries` blocks of `size` bytes would map, around byte `at` of a disk: one step for all of it, or a
/// small directory is a day's work.
#[must_use]
pub fn table_hole(at: u64, size: u64, entries: u64) -> Extent {
    let span = size.saturating_mul(entries).max(1);
    Extent { start: align::units(at, span).saturating_mul(span), len: span, kind: Kind::Hole }
}

impl Image for dyn Blocks + '_ {
    fn virtual_size(&self) -> u64 {
        self.facts().virtual_size
    }

    fn map(&self, io: &mut dyn ReadAt, range: Range<u64>) -> Result<Extent, Error> {
        let block = |io: &mut dyn ReadAt, at: u64| -> Result<Extent, Error> {
            io.budget().take_steps(1)?;
            let block = self.block_at(io, at)?;
            #[cfg(any(test, feature = "invariants"))]
            super::invariants::check_block(self, &*io, &block);
            Ok(block)
        };
        let whole = block(io, range.start)?;
        let within = range.start.saturating_sub(whole.start);
        let mut extent = whole.split(within).1.unwrap_or(whole);
        for _ in 1..RUN_MAX {
            if extent.end() >= range.end {
                break;
            }
            let next = match block(io, extent.end()) {
                Ok(next) => next,
                // What is sound before it stands.
                Err(_) => break,
            };
            if !extent.merge(&next) {
                break;
            }
        }
        let extent = extent.split(range.end.saturating_sub(range.start)).0;
        #[cfg(any(test, feature = "invariants"))]
        super::invariants::check_map(&range, &extent);
        Ok(extent)
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

    /// A field within its bounds.
    ///
    /// # Errors
    /// [`BlockError::Field`], unless `holds`.
    pub const fn field(self, field: Field, found: u64, holds: bool) -> Result<(), Error> {
        self.check(holds, BlockError::Field { field, found })
    }

    /// A table of `count` entries of `entry_len` bytes within the file.
    ///
    /// # Errors
    /// [`BlockError::Truncated`].
    pub fn table(
        self,
        io: &dyn ReadAt,
        disk: DiskId,
        structure: Structure,
        (offset, count, entry_len): (u64, u64, u64),
    ) -> Result<(), Error> {
        let end = count.checked_mul(entry_len).and_then(|len| offset.checked_add(len));
        let holds = end.is_some_and(|end| end <= padded_len(io, disk));
        self.check(holds, BlockError::Truncated { structure })
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

/// Length of a disk in whole sectors, as it counts in QEMU.
#[must_use]
pub fn padded_len(io: &dyn ReadAt, disk: DiskId) -> u64 {
    align::up(io.len(disk), SECTOR_LEN).unwrap_or(u64::MAX)
}

/// The bytes of entry `index` of a table; zeros past the end of the disk.
///
/// # Errors
/// Those of the reads.
pub fn entry<const LEN: usize>(io: &mut dyn ReadAt, disk: DiskId, table: u64, index: u64) -> Result<[u8; LEN], Error> {
    let mut entry = [0; LEN];
    io.read_padded(disk, table.saturating_add(index.saturating_mul(LEN as u64)), &mut entry)?;
    Ok(entry)
}

/// A layer below by its recorded name, which QEMU cuts at its first zero byte in these formats; an empty one is none.
#[must_use]
pub fn backing(mut name: Vec<u8>, format: Option<Vec<u8>>) -> Option<Backing> {
    if let Some(len) = name.iter().position(|&byte| byte == 0) {
        name.truncate(len);
    }
    (!name.is_empty()).then_some(Backing { name, format })
}
