//! What every description of a disk in blocks keeps, for tests and fuzz targets.

use super::{Blocks, Extent, Kind};
use crate::store::ReadAt;
use core::ops::Range;
use instar_abi::format::Format;

/// What [`Image::map`](super::Image::map) gives for `range` of a disk: an extent that is not empty, starts where the range starts and
/// does not leave it.
///
/// # Panics
/// It is not.
pub fn check_map(range: &Range<u64>, extent: &Extent) {
    assert!(extent.len > 0, "an extent of nothing: {extent:?}");
    assert!(extent.start == range.start && extent.end() <= range.end, "{extent:?} of {range:?}");
}

/// What [`Blocks::block_at`] gives: a block that begins in its file, and is no more than its cluster holds. It may end past the file's
/// end, where there are zeros.
///
/// # Panics
/// It is not.
pub fn check_block(image: &dyn Blocks, io: &dyn ReadAt, block: &Extent) {
    match block.kind {
        // What is in the file byte by byte begins where the disk does. A VHDX's log tells how long the file is.
        Kind::Data { disk, offset } => {
            let is_elsewhere = image.is_preallocated(block.start) || image.facts().format == Format::Vhdx;
            assert!(is_elsewhere || offset < io.len(disk).max(1), "data past the end: {block:?}");
        }
        Kind::Encoded { cluster_size, skip, .. } => {
            let left = cluster_size.checked_sub(skip).filter(|left| *left > 0);
            assert!(left.is_some_and(|left| u64::from(left) >= block.len), "more than its cluster: {block:?}");
        }
        Kind::Zero | Kind::Hole | Kind::Reserved { .. } => {}
    }
}

/// The names of files that an image asks for: they are names, and nobody has opened anything.
///
/// # Panics
/// One is empty, or ends within itself.
pub fn check_names(image: &dyn Blocks) {
    let backing = image.facts().backing.as_ref().map(|backing| backing.name.as_slice());
    for name in image.files().into_iter().chain(backing) {
        assert!(!name.is_empty() && !name.contains(&0), "a name that is none: {name:?}");
    }
}
