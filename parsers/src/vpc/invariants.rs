//! What an open VHD keeps, for tests and fuzz targets.

use super::{Dynamic, Geometry, Vpc, rounded_size};
use crate::align;
use crate::image::invariants::check_names;
use crate::image::padded_len;
use crate::store::ReadAt;
use instar_abi::control::SECTOR_LEN;

/// The disk has whole sectors, as many as a VHD can have; the table lies within the file and has an entry for each of its blocks.
/// A differencing disk has a parent.
///
/// # Panics
/// One of these does not hold.
pub fn check_vpc(image: &Vpc, io: &dyn ReadAt) {
    let size = image.facts.virtual_size;
    assert!(align::within(size, SECTOR_LEN) == 0 && i64::try_from(size).is_ok(), "a disk of {size} bytes");
    let Some(Dynamic { block_size, table_offset, parent_id, .. }) = &image.dynamic else {
        return assert!(image.facts.backing.is_none(), "a fixed disk over a parent");
    };
    let block_size = u64::from(*block_size);
    assert!(block_size.is_power_of_two() && block_size >= SECTOR_LEN, "blocks of {block_size} bytes");
    let needed = size.div_ceil(block_size).checked_mul(4).and_then(|len| len.checked_add(*table_offset));
    assert!(needed.is_some_and(|end| end <= padded_len(io, image.disk)), "a table to {needed:?}");
    assert_eq!(parent_id.is_some(), image.facts.backing.is_some(), "a differencing disk without its parent");
    check_names(image);
}

/// A disk that is asked to have `size` bytes gets whole sectors, and all of them; what is more than asked for is less than a cylinder
/// and a track of the largest geometry. A geometry is one of those that the specification gives.
///
/// # Panics
/// It does not.
pub fn check_geometry(size: u64) {
    let (rounded, sectors) = (rounded_size(size), size.div_ceil(SECTOR_LEN));
    assert!(align::within(rounded, SECTOR_LEN) == 0, "{size} is rounded to {rounded}");
    let geometry = Geometry::holding(sectors);
    if geometry == Geometry::MAX {
        return assert_eq!(rounded, align::down(size, SECTOR_LEN), "past all geometries");
    }
    assert_eq!(Some(rounded), geometry.total().checked_mul(SECTOR_LEN), "{geometry:?} of {size}");
    assert!(rounded >= size, "{size} is cut to {rounded}");
    assert!(rounded.saturating_sub(size) < 17 * 255 * SECTOR_LEN, "{size} becomes {rounded}");
    assert_eq!(rounded_size(rounded), rounded, "a size that was rounded is rounded again");
    let Geometry { cylinders, heads, sectors } = geometry;
    let is_given = matches!((heads, sectors), (4..=16, 17) | (16, 31 | 63 | 255));
    assert!(is_given && (cylinders <= 1024 || sectors > 31), "{geometry:?} of {size}");
}
