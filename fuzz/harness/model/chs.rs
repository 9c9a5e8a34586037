//! The specification's table of geometries, tried size by size.

/// Cylinders, heads and sectors a track of a disk of `total` sectors, which may have fewer.
fn geometry(total: u128) -> [u128; 3] {
    let [heads, track] = [17u128, 31, 63]
        .into_iter()
        .filter(|_| total < 65535 * 16 * 63)
        .map(|track| {
            let tracks = total / track;
            let heads = if track == 17 { (tracks / 1024 + 1).max(4) } else { 16 };
            // The last but one in the table takes all that is left.
            let fits = heads <= 16 && tracks < heads * 1024 || track == 63;
            fits.then_some([heads, track])
        })
        .find_map(|found| found)
        .unwrap_or([16, 255]);
    [total / track / heads, heads, track]
}

/// Bytes that a disk gets which is asked to have `size`.
#[must_use]
pub fn rounded(size: u64) -> u128 {
    let (size, largest) = (u128::from(size), 65535 * 16 * 255);
    let wanted = size.div_ceil(512);
    let mut total = wanted;
    while total <= largest {
        let sectors: u128 = geometry(total).into_iter().product();
        if sectors == largest {
            break;
        }
        if sectors >= wanted {
            return sectors * 512;
        }
        total += 1;
    }
    size / 512 * 512
}
