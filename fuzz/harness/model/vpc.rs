//! VHD, one block at a time.

use super::place::{Place, be};
use crate::image::FuzzImage;

/// The footer that counts: at the front, or in the last sector, perhaps without its last byte.
#[must_use]
pub fn footer(image: &FuzzImage<'_>) -> Option<[u8; 512]> {
    let at = |offset| {
        let mut bytes = [0; 512];
        image.fill(offset, &mut bytes);
        bytes.starts_with(b"conectix").then_some(bytes)
    };
    at(0).or_else(|| at(image.len().next_multiple_of(512).checked_sub(512)?))
}

/// Whether the footer's checksum is that of its bytes.
#[must_use]
pub fn is_signed(footer: &[u8; 512]) -> bool {
    let mut unsigned = *footer;
    unsigned[64..68].fill(0);
    footer[64..68] == complement(&unsigned)
}

/// The complement of the sum of all bytes.
#[must_use]
pub fn complement(bytes: &[u8]) -> [u8; 4] {
    (!bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>()).to_be_bytes()
}

/// Bytes of the disk, by geometry or by the field, as the program goes that made it.
#[must_use]
pub fn size(footer: &[u8; 512]) -> u64 {
    let geometry = u64::from(footer[56]) << 8 | u64::from(footer[57]);
    let sectors = geometry * u64::from(footer[58]) * u64::from(footer[59]);
    let field = footer[48..56].iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let maker = &footer[28..32];
    if (maker == b"vpc " || maker == b"qemu") && sectors != 65535 * 16 * 255 {
        sectors * 512
    } else {
        field / 512 * 512
    }
}

/// Where a byte of a disk is, which is open.
#[must_use]
pub fn place(image: &FuzzImage<'_>, at: u64) -> Place {
    let mut cookie = [0; 8];
    image.fill(0, &mut cookie);
    let kind = be::<4>(image, 60);
    if cookie != *b"conectix" || kind == 2 {
        return Place::Data(at);
    }
    let header = be::<8>(image, 16);
    let [table, block] = [be::<8>(image, header + 16), be::<4>(image, header + 32)];
    let (index, within) = (at / block, at % block);
    let entry = be::<4>(image, table + 4 * index);
    let nothing = if kind == 4 { Place::Hole } else { Place::Zero };
    if entry == 0xffff_ffff {
        return nothing;
    }
    let bitmap = entry * 512;
    let bit = within / 512;
    let is_here = be::<1>(image, bitmap + bit / 8) >> (7 - bit % 8) & 1 == 1;
    if kind == 4 && !is_here {
        return nothing;
    }
    let bitmap_len = (block / 512).div_ceil(8).next_multiple_of(512);
    Place::Data(bitmap + bitmap_len + within)
}
