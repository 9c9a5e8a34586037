//! Images as extents: the one description that every operation walks over.

mod bits;
mod blocks;
mod chain;
mod content;
mod extent;
mod findings;
mod foreign;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
mod open;
mod status;
mod tree;

pub use bits::{BitOrder, run_of_bits};
pub use blocks::{Blocks, FileOf, Layered, backing, entry, padded_len, table_hole, uniform};
pub use chain::{Chain, Mapped, Resolved, attach_files};
pub use content::OwnContent;
pub use extent::{Codec, Extent, Kind};
pub use findings::{Findings, Occupied, Scope, Tables};
pub use foreign::{beside, text_of_utf16};
pub use open::{Driver, Opened, open};
pub use tree::Tree;

use crate::store::ReadAt;
use core::ops::Range;
use instar_abi::error::Error;

/// One layer of a disk.
pub trait Image {
    /// Virtual size in bytes.
    fn virtual_size(&self) -> u64;

    /// What `range` of the disk is, from its start on: an extent that is not empty, starts where the range
    /// starts and does not leave it. The range is not empty and lies within the virtual size.
    ///
    /// # Errors
    /// Those of the reads; the image's tables are broken there.
    fn map(&self, io: &mut dyn ReadAt, range: Range<u64>) -> Result<Extent, Error>;
}
