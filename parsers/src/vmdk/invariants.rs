//! What an open VMDK keeps, for tests and fuzz targets.

use super::{Body, Vmdk};
use crate::image::invariants::check_names;
use crate::store::ReadAt;

/// The extents tile the disk, whose length fits 63 bits, and what is open of them lies within its files.
///
/// # Panics
/// They do not.
pub fn check_vmdk(image: &Vmdk, io: &dyn ReadAt) {
    let mut end = Some(0u64);
    for part in &image.extents {
        assert_eq!(Some(part.start), end, "a gap before an extent");
        end = part.start.checked_add(part.len);
        match &part.body {
            Body::Grains(grains) => {
                assert_eq!(part.len, grains.len, "an extent of another length than its grains");
                grains.check_grains(io);
            }
            Body::Flat { offset, .. } => assert!(i64::try_from(*offset).is_ok(), "a flat extent at {offset}"),
            Body::Zero | Body::Missing => {}
        }
    }
    assert_eq!(end, Some(image.facts.virtual_size), "the extents are not the disk");
    assert!(end.is_some_and(|end| i64::try_from(end).is_ok()), "a disk of {end:?} bytes");
    check_names(image);
}
