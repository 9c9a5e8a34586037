use crate::layout::le64;
use crate::model::chs::rounded;
use instar_parsers::vpc::{check_geometry, rounded_size};

/// The size that a new VHD gets. Bytes 0 to 7: the size that is asked for.
pub fn chs_rounded_size(data: &[u8]) {
    let Some(size) = le64(data, 0) else { return };
    // Small sizes have more geometries, and are one of sixteen otherwise.
    for size in [size, size & 0xff_ffff_ffff, size & 0xffff_ffff] {
        check_geometry(size);
        assert_eq!(u128::from(rounded_size(size)), rounded(size), "{size}");
    }
}
