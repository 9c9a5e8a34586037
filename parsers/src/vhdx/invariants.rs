//! What an open VHDX keeps, for tests and fuzz targets.

use super::{ALIGNMENT, CHUNK_SECTORS, Metadata, Vhdx};
use crate::align;
use crate::image::invariants::check_names;
use core::ops::Range;
use instar_abi::control::SECTOR_LEN;

/// Regions and log share no byte, nor does one lie over the headers; the numbers are those of [`check_metadata`]; a log's changes
/// are in their order; a parent has a name and an identifier.
///
/// # Panics
/// One of these does not hold.
pub fn check_vhdx(image: &Vhdx) {
    check_regions(&image.taken);
    check_numbers(image.block_size, image.sector_size, image.facts.virtual_size);
    let chunk_sectors = align::units(image.chunk_blocks.saturating_mul(image.block_size), image.sector_size);
    assert!(image.chunk_blocks > 0 && chunk_sectors == CHUNK_SECTORS, "a chunk of {chunk_sectors} sectors");
    if let Some(log) = &image.log {
        log.check_log();
    }
    assert!(image.parent.as_ref().is_none_or(|parent| !parent.ids.is_empty()), "a parent of no content");
    assert_eq!(image.parent.is_some(), image.facts.backing.is_some(), "a differencing disk without its parent");
    check_names(image);
}

/// No two ranges share a byte; each begins at a multiple of 1 MiB.
///
/// # Panics
/// Two do, or one does not.
pub fn check_regions(regions: &[Range<u64>]) {
    for (index, region) in regions.iter().enumerate() {
        assert!(align::within(region.start, ALIGNMENT) == 0 && region.start <= region.end, "a region {region:?}");
        for other in regions.iter().take(index) {
            assert!(region.end <= other.start || other.end <= region.start, "regions overlap: {region:?} {other:?}");
        }
    }
}

/// Sizes are powers of two within their bounds, and there is a disk.
///
/// # Panics
/// They are not.
pub fn check_metadata(metadata: &Metadata) {
    check_numbers(metadata.block_size, metadata.sector_size, metadata.virtual_size);
}

fn check_numbers(block_size: u64, sector_size: u64, virtual_size: u64) {
    assert!(
        block_size.is_power_of_two() && (1 << 20..=256 << 20).contains(&block_size),
        "blocks of {block_size} bytes"
    );
    assert!(matches!(sector_size, 512 | 4096), "sectors of {sector_size} bytes");
    assert!(virtual_size > 0 && align::within(virtual_size, SECTOR_LEN) == 0, "a disk of {virtual_size} bytes");
}
