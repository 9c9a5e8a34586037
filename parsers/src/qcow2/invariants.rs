//! What the tables of a qcow2 keep once they are read, for tests and fuzz targets.

use super::create::bitmaps_len;
use super::extensions::BitmapsPlace;
use super::{Bitmap, Header, Snapshot, Snapshots, limits};
use crate::align;
use alloc::vec::Vec;
use instar_abi::facts;
use instar_abi::request::SnapshotName;

/// What [`Snapshots::next`] gives: the walk has gone over the entry's bytes and is within QEMU's 64 MiB; texts end before their NUL,
/// and `info` shows the front of them.
///
/// # Panics
/// One of these does not hold.
pub fn check_snapshot(walk: &Snapshots, snapshot: &Snapshot) {
    const HEADER_LEN: u64 = 40;
    let (id, name) = (&snapshot.id, &snapshot.name);
    let texts_len = (id.len() as u64).saturating_add(name.len() as u64);
    let len = HEADER_LEN.saturating_add(snapshot.extra_len.into()).saturating_add(texts_len);
    assert!(snapshot.extra_len <= limits::SNAPSHOT_EXTRA_LEN_MAX, "{} bytes of extra data", snapshot.extra_len);
    let walked = len..=limits::SNAPSHOT_TABLE_LEN_MAX;
    assert!(walked.contains(&walk.walked_len()), "an entry of {len} bytes ends at {}", walk.walked_len());
    assert!(!id.contains(&0) && !name.contains(&0), "a text that goes on after its end");
    let shown = facts::Snapshot::from(snapshot.clone());
    assert!(shown.id.len() <= 127 && shown.name.len() <= 255, "more is shown than QEMU shows");
    assert!(id.starts_with(&shown.id) && name.starts_with(&shown.name), "other names are shown");
}

/// What [`Snapshots::find`] gives, walking over `snapshots`: the first that has the identifier; the first that has the name where no
/// identifier is asked for or none is that text.
///
/// # Panics
/// It is another one.
pub fn check_found(snapshots: &[Snapshot], wanted: &SnapshotName, found: Option<&Snapshot>) {
    let (SnapshotName::Id(text) | SnapshotName::Name(text) | SnapshotName::IdOrName(text)) = wanted;
    let by_id = snapshots.iter().find(|snapshot| snapshot.id == *text);
    let by_name = snapshots.iter().find(|snapshot| snapshot.name == *text);
    let expected = match wanted {
        SnapshotName::Id(_) => by_id,
        SnapshotName::Name(_) => by_name,
        SnapshotName::IdOrName(_) => by_id.or(by_name),
    };
    assert_eq!(found, expected, "another snapshot is found by {wanted:?}");
}

/// What the bitmap directory at `place` gives: as many bitmaps as the extension says, of different names, each with a table that is
/// aligned and, where the bitmap was saved properly, as long as the disk wants.
///
/// # Panics
/// One of these does not hold.
pub fn check_bitmaps(header: &Header, place: &BitmapsPlace, bitmaps: &[Bitmap]) {
    assert_eq!(bitmaps.len() as u64, u64::from(place.count), "bitmaps");
    let mut names: Vec<&[u8]> = bitmaps.iter().map(|bitmap| bitmap.name.as_slice()).collect();
    names.sort_unstable();
    assert!(names.array_windows().all(|[before, name]| before != name), "two bitmaps of a name");
    let cluster_size = u64::from(header.cluster_size());
    for (index, bitmap) in bitmaps.iter().enumerate() {
        let Bitmap { name, granularity_bits, table_offset, table_count, .. } = bitmap;
        let is_named = name.len() <= usize::from(limits::BITMAP_NAME_LEN_MAX) && !name.contains(&0);
        let is_placed = *table_offset > 0 && align::within(*table_offset, cluster_size) == 0 && *table_count > 0;
        assert!(is_named && is_placed && (9..=31).contains(granularity_bits), "bitmap {index} is accepted: {bitmap:?}");
        // Each bit stands for 2^granularity bytes of the disk; QEMU stores them in words of 64.
        let bits = header.virtual_size().div_ceil(1u64.checked_shl((*granularity_bits).into()).unwrap_or(u64::MAX));
        let expected = bits.div_ceil(64).saturating_mul(8).div_ceil(cluster_size);
        assert!(bitmap.in_use || u64::from(*table_count) == expected, "the table of bitmap {index}");
    }
}

/// What copies of bitmaps take: whole clusters, of every cluster size and for a disk of any size; at least one for the directory, and
/// two for each bitmap of a disk that has bytes: its table and its bits.
///
/// # Panics
/// It is not.
pub fn check_bitmaps_len(bitmaps: &[Bitmap], virtual_size: u64) {
    let saved = bitmaps.iter().filter(|bitmap| !bitmap.in_use).count() as u64;
    for cluster_size in (limits::CLUSTER_BITS_MIN..=limits::CLUSTER_BITS_MAX).map(|bits| 1u64 << bits) {
        let len = bitmaps_len(bitmaps, virtual_size, cluster_size);
        let is_whole = len == u64::MAX || align::within(len, cluster_size) == 0;
        assert!(is_whole, "{len} bytes in clusters of {cluster_size}");
        let of_each = if virtual_size > 0 { 2 } else { 0 };
        let clusters = saved.saturating_mul(of_each).saturating_add(u64::from(saved > 0));
        assert!(len >= clusters.saturating_mul(cluster_size), "{saved} bitmaps in {len} bytes");
    }
}
