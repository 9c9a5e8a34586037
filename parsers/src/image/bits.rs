//! Bitmaps of sectors: whether each is in this layer or in the one below.

use crate::align;
use crate::store::ReadAt;
use instar_abi::error::Error;
use instar_abi::request::DiskId;

/// Which bit of a byte stands for the first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitOrder {
    /// The lowest, as in VHDX.
    LowestFirst,
    /// The highest, as in VHD.
    HighestFirst,
}

/// Bytes of a bitmap that are looked at together.
const CHUNK: usize = 512;

/// What bit `first` of the bitmap at `bitmap` is, and how many from it on are the same: at least 1, at most `max`.
///
/// # Errors
/// Those of the reads.
pub fn run_of_bits(
    io: &mut dyn ReadAt,
    (disk, bitmap): (DiskId, u64),
    order: BitOrder,
    first: u64,
    max: u64,
) -> Result<(bool, u64), Error> {
    let mut value = None;
    let mut len = 0u64;
    let mut bytes = [0; CHUNK];
    while len < max {
        let bit = first.saturating_add(len);
        io.read_padded(disk, bitmap.saturating_add(align::units(bit, 8)), &mut bytes)?;
        for (at, &byte) in (align::down(bit, 8)..).step_by(8).zip(&bytes) {
            for place in 0..8u8 {
                let index = at.saturating_add(place.into());
                if index < bit {
                    continue;
                }
                let shift = match order {
                    BitOrder::LowestFirst => place,
                    BitOrder::HighestFirst => 7u8.saturating_sub(place),
                };
                let is_set = byte >> shift & 1 == 1;
                if len >= max || *value.get_or_insert(is_set) != is_set {
                    return Ok((value.unwrap_or(is_set), len));
                }
                len = len.saturating_add(1);
            }
        }
    }
    Ok((value.unwrap_or(false), len.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{INFO, MemoryDisk, request, with_store};

    #[test]
    fn runs_end_where_bits_change_in_either_order() {
        let mut bitmap = vec![0u8; 1200];
        bitmap[0] = 0b1000_0111;
        bitmap[2..1100].fill(0xff);
        let disks = [MemoryDisk::new(bitmap)];
        let request = request(INFO, &disks);
        let run = |order, first, max| {
            with_store(&request, &disks, |io| run_of_bits(io, (DiskId(0), 0), order, first, max)).expect("reads")
        };
        for (first, max, expected) in [
            (0, 99, (true, 3)),
            (1, 1, (true, 1)),
            (3, 99, (false, 4)),
            (7, 99, (true, 1)),
            (8, 99, (false, 8)),
            (16, 99_999, (true, 8 * 1098)),
            (17, 5000, (true, 5000)),
        ] {
            assert_eq!(run(BitOrder::LowestFirst, first, max), expected, "{first}");
        }
        assert_eq!(run(BitOrder::HighestFirst, 0, 99), (true, 1));
        assert_eq!(run(BitOrder::HighestFirst, 1, 99), (false, 4));
        assert_eq!(run(BitOrder::HighestFirst, 5, 99), (true, 3));
    }
}
