//! Cylinders, heads and sectors a track: what old firmware asks a disk for, and what programs that go by it take for its size.
//!
//! # Source
//! Microsoft's specification, appendix "CHS Calculation"; the search for a size that a geometry has as QEMU 10.0's `block/vpc.c`.

use super::wire::Footer;
use crate::align;
use instar_abi::control::SECTOR_LEN;

/// Sectors of the largest cylinder.
const CYLINDER_MAX: u64 = 16 * 255;

/// A geometry, within the bounds of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// At most 65,535.
    pub cylinders: u16,
    /// At most 255; a disk that was given its geometry by its size has at most 16.
    pub heads: u8,
    /// A track's; at most 255.
    pub sectors: u8,
}

impl Geometry {
    /// The largest: it says nothing of the size.
    pub const MAX: Self = Self { cylinders: 65535, heads: 16, sectors: 255 };

    /// Sectors of a disk of this geometry.
    #[must_use]
    pub fn total(self) -> u64 {
        u64::from(self.cylinders).saturating_mul(self.heads.into()).saturating_mul(self.sectors.into())
    }

    /// The geometry that the specification gives a disk of `total` sectors. It may have fewer, and above [`Geometry::MAX`] does.
    #[must_use]
    pub fn of(total: u64) -> Self {
        let total = total.min(Self::MAX.total());
        let (heads, sectors) = tracks(total);
        let cylinders = align::units(align::units(total, sectors.into()), heads.into());
        Self { cylinders: u16::try_from(cylinders).unwrap_or(u16::MAX), heads, sectors }
    }

    /// The first geometry of a disk of `total` sectors or a little more that has them all; [`Geometry::MAX`] where none has.
    #[must_use]
    pub fn holding(total: u64) -> Self {
        // Less than a cylinder is lost, whatever its length.
        let mut candidates = (0..=CYLINDER_MAX).map(|more| Self::of(total.saturating_add(more)));
        candidates.find(|geometry| geometry.total() >= total).unwrap_or(Self::MAX)
    }
}

impl From<&Footer> for Geometry {
    fn from(footer: &Footer) -> Self {
        Self { cylinders: footer.cylinders.get(), heads: footer.heads, sectors: footer.sectors }
    }
}

/// Heads, and sectors a track: as few of both as give fewer than 1,024 cylinders, while that is possible. QEMU takes a head more than
/// the specification where these would be just enough.
fn tracks(total: u64) -> (u8, u8) {
    if total >= 65535 * 16 * 63 {
        return (16, 255);
    }
    let heads = align::units(align::units(total, 17), 1024).saturating_add(1).max(4);
    match u8::try_from(heads) {
        Ok(heads @ 4..=16) => (heads, 17),
        _ if align::units(total, 31) < 16 * 1024 => (16, 31),
        _ => (16, 63),
    }
}

/// Bytes that a new disk gets that is asked to have `size`: a geometry's, or, past the largest one, whole sectors.
#[must_use]
pub fn rounded_size(size: u64) -> u64 {
    let sectors = size.div_ceil(SECTOR_LEN);
    match Geometry::holding(sectors) {
        Geometry::MAX => align::down(size, SECTOR_LEN),
        geometry => geometry.total().saturating_mul(SECTOR_LEN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{qemu_img, scratch};

    /// Sectors around which the search changes its mind, and where a geometry has fewer than it was asked for.
    const EDGES: [u64; 9] = [0, 4 * 17, 69632, 104_349, 278_528, 507_904, 1_032_192, 65535 * 16 * 63, 65535 * 16 * 255];

    #[test]
    fn the_search_matches_known_vectors() {
        let geometry = |cylinders, heads, sectors| Geometry { cylinders, heads, sectors };
        assert_eq!(Geometry::holding(8192), geometry(121, 4, 17));
        assert_eq!(Geometry::holding(69632), geometry(820, 5, 17));
        assert_eq!(Geometry::holding(104_349), geometry(877, 7, 17));
        assert_eq!(Geometry::holding(65535 * 16 * 63), geometry(16191, 16, 255));
        assert_eq!(Geometry::holding(u64::MAX), Geometry::MAX);
        assert_eq!((rounded_size(4 << 20), rounded_size(1 << 41), rounded_size(0)), (4_212_736, 1 << 41, 0));
    }

    #[test]
    fn sizes_are_rounded_as_by_qemu_img() {
        let Some(dir) = scratch() else { return };
        let near = |edge: u64| [edge.saturating_sub(40), edge.saturating_sub(1), edge, edge + 1, edge + 16 * 63 + 7];
        for sectors in EDGES.into_iter().flat_map(near).chain([1 << 21, 3 << 22, 266_338_304]) {
            qemu_img(dir.path(), &format!("create -q -f vpc a.vhd {}", sectors * 512)).expect("qemu-img makes it");
            let info = qemu_img(dir.path(), "info --output=json a.vhd").expect("qemu-img reads it");
            let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
            assert_eq!(info["virtual-size"], rounded_size(sectors * 512), "{sectors} sectors");
        }
    }

    #[test]
    fn every_size_near_an_edge_gets_a_sound_geometry() {
        for edge in EDGES {
            for sectors in edge.saturating_sub(300)..edge + 300 {
                super::super::invariants::check_geometry(sectors * 512);
            }
        }
    }
}
