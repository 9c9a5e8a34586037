//! How large an image becomes.
//!
//! # Source
//! `qcow2_calc_prealloc_size`, `qcow2_refcount_metadata_size` and `qcow2_get_persistent_dirty_bitmap_size` of QEMU 10.0.

use super::Layout;
use crate::align;
use crate::qcow2::{Bitmap, wire};

/// Bytes of an image with content everywhere; `None`: more than can be counted.
#[must_use]
pub fn full_len(layout: Layout, virtual_size: u64) -> Option<u64> {
    let cluster_size = layout.cluster_size();
    let content = align::up(virtual_size, cluster_size)?;
    let entry_len = if layout.extended_l2 { 16 } else { 8 };
    let l2_len = align::up(align::units(content, cluster_size), align::units(cluster_size, entry_len))?;
    let l2_len = l2_len.checked_mul(entry_len)?;
    let l1_len = align::up(align::units(l2_len, cluster_size).checked_mul(8)?, cluster_size)?;
    let len = content.checked_add(cluster_size)?.checked_add(l2_len)?.checked_add(l1_len)?;
    let counted = align::units(len, cluster_size);
    // Refcounts count themselves.
    let per_block = layout.refcounts_of_block();
    let (mut blocks, mut tables) = (0u64, 0u64);
    loop {
        let all = counted.checked_add(tables)?.checked_add(blocks)?;
        let next_blocks = all.div_ceil(per_block);
        let next_tables = next_blocks.div_ceil(align::units(cluster_size, 8));
        if (next_blocks, next_tables) == (blocks, tables) {
            return len.checked_add(blocks.checked_add(tables)?.checked_mul(cluster_size)?);
        }
        (blocks, tables) = (next_blocks, next_tables);
    }
}

/// Bytes that copies of bitmaps take in an image with clusters of `cluster_size`, those aside that were not saved
/// properly.
#[must_use]
pub fn bitmaps_len(bitmaps: &[Bitmap], virtual_size: u64, cluster_size: u64) -> u64 {
    let whole = |len: u64| align::up(len, cluster_size).unwrap_or(u64::MAX);
    let (mut len, mut directory_len) = (0u64, 0u64);
    for bitmap in bitmaps.iter().filter(|bitmap| !bitmap.in_use) {
        let granularity = 1u64.checked_shl(bitmap.granularity_bits.into()).unwrap_or(u64::MAX);
        let clusters = virtual_size.div_ceil(granularity).div_ceil(8).div_ceil(cluster_size);
        len =
            len.saturating_add(clusters.saturating_mul(cluster_size)).saturating_add(whole(clusters.saturating_mul(8)));
        let entry_len = (size_of::<wire::BitmapEntry>() as u64).saturating_add(bitmap.name.len() as u64);
        directory_len = directory_len.saturating_add(align::up(entry_len, 8).unwrap_or(u64::MAX));
    }
    len.saturating_add(whole(directory_len))
}
