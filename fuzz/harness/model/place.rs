//! Where a byte of a disk in blocks is.

use crate::image::FuzzImage;

/// Where one byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the layer below.
    Hole,
    /// Nowhere: it is zero.
    Zero,
    /// At this byte of the file.
    Data(u64),
    /// In the compressed stream that begins at this byte of the file.
    Stream(u64),
    /// The tables are broken there.
    Broken,
}

/// The little-endian number of `LEN` bytes at `offset`.
pub(super) fn le<const LEN: usize>(image: &FuzzImage<'_>, offset: u64) -> u64 {
    let mut bytes = [0; LEN];
    image.fill(offset, &mut bytes);
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The big-endian number of `LEN` bytes at `offset`.
pub(super) fn be<const LEN: usize>(image: &FuzzImage<'_>, offset: u64) -> u64 {
    let mut bytes = [0; LEN];
    image.fill(offset, &mut bytes);
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
