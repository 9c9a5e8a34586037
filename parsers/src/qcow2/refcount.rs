//! Refcounts of 1 to 64 bits, packed least significant bit first below a byte, big-endian from a byte on.

use super::header::Header;
use super::wire::entry;
use crate::store::ReadAt;
use instar_abi::error::Error;
use instar_abi::request::DiskId;

/// The refcounts of an image.
#[derive(Clone, Copy, Debug)]
pub struct Refcounts<'a> {
    header: &'a Header,
    disk: DiskId,
}

impl<'a> Refcounts<'a> {
    /// The refcounts of the image on `disk`.
    #[must_use]
    pub const fn new(header: &'a Header, disk: DiskId) -> Self {
        Self { header, disk }
    }

    /// The refcount of the cluster that holds byte `offset` of the file; 0 where no block is allocated.
    ///
    /// # Errors
    /// Those of the reads.
    pub fn of(&self, io: &mut dyn ReadAt, offset: u64) -> Result<u64, Error> {
        let cluster_size = u64::from(self.header.cluster_size());
        let per_block = self.per_block();
        let cluster = offset.checked_div(cluster_size).unwrap_or(0);
        let block_index = cluster.checked_div(per_block).unwrap_or(0);
        let table = &self.header.refcount_table;
        let blocks = u64::from(table.count).saturating_mul(cluster_size / 8);
        if block_index >= blocks {
            return Ok(0);
        }
        let mut raw = [0; 8];
        io.read_padded(self.disk, table.offset.saturating_add(block_index.saturating_mul(8)), &mut raw)?;
        let block = u64::from_be_bytes(raw) & entry::OFFSET;
        if block == 0 {
            return Ok(0);
        }
        let index = crate::align::within(cluster, per_block);
        let bit = index.saturating_mul(self.header.refcount_bits().into());
        io.read_padded(self.disk, block.saturating_add(bit / 8), &mut raw)?;
        Ok(unpack(raw, u32::try_from(bit % 8).unwrap_or(0), self.header.refcount_bits()))
    }

    /// Refcounts in a block: at least 64.
    fn per_block(&self) -> u64 {
        u64::from(self.header.cluster_size())
            .saturating_mul(8)
            .checked_div(self.header.refcount_bits().into())
            .unwrap_or(1)
    }
}

/// The count of `bits` bits that starts at bit `shift` of the first byte.
fn unpack(raw: [u8; 8], shift: u32, bits: u32) -> u64 {
    if bits < 8 {
        let [byte, ..] = raw;
        let mask = 1u64.checked_shl(bits).unwrap_or(0).wrapping_sub(1);
        return u64::from(byte).checked_shr(shift).unwrap_or(0) & mask;
    }
    u64::from_be_bytes(raw).checked_shr(64u32.saturating_sub(bits)).unwrap_or(0)
}

/// Unpacks the counts of a block from the one at `index` on, each of 2^`order` bits; where the block ends, `counts` stay
/// what they are.
pub fn unpack_all(block: &[u8], order: u32, index: usize, counts: &mut [u64]) {
    fn whole<const LEN: usize>(block: &[u8], index: usize, counts: &mut [u64], count_of: impl Fn([u8; LEN]) -> u64) {
        let from = block.as_chunks::<LEN>().0.get(index..).unwrap_or_default();
        for (count, raw) in counts.iter_mut().zip(from) {
            *count = count_of(*raw);
        }
    }
    match order {
        3 => whole(block, index, counts, |[byte]| byte.into()),
        4 => whole(block, index, counts, |raw| u16::from_be_bytes(raw).into()),
        5 => whole(block, index, counts, |raw| u32::from_be_bytes(raw).into()),
        6 => whole(block, index, counts, u64::from_be_bytes),
        _ => {
            let bits = 1usize.wrapping_shl(order);
            for (count, at) in counts.iter_mut().zip(index..) {
                let bit = at.saturating_mul(bits);
                let Some(byte) = block.get(bit / 8) else { break };
                let shift = u32::try_from(bit % 8).unwrap_or(0);
                *count = unpack([*byte, 0, 0, 0, 0, 0, 0, 0], shift, u32::try_from(bits).unwrap_or(0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_unpacked_as_one_by_one() {
        let block: Vec<u8> = (0..64u8).map(|byte| byte.wrapping_mul(37) ^ 0x5a).collect();
        for order in 0..=6 {
            let bits = 1usize << order;
            let total = block.len() * 8 / bits;
            for first in 0..total {
                let mut counts = vec![u64::MAX; total - first + 2];
                unpack_all(&block, order, first, &mut counts);
                for (count, index) in counts.iter().zip(first..) {
                    let mut raw = [0; 8];
                    let rest = block.get(index * bits / 8..).unwrap_or_default();
                    let len = rest.len().min(8);
                    raw[..len].copy_from_slice(&rest[..len]);
                    let expected =
                        if index < total { unpack(raw, (index * bits % 8) as u32, 1 << order) } else { u64::MAX };
                    assert_eq!(*count, expected, "{order} {index}");
                }
            }
        }
    }

    #[test]
    fn every_width_unpacks_least_significant_first() {
        let raw = [0b1011_0110, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0];
        for shift in 0..8 {
            assert_eq!(unpack(raw, shift, 1), u64::from(raw[0] >> shift) & 1);
        }
        assert_eq!([0, 2, 4, 6].map(|shift| unpack(raw, shift, 2)), [0b10, 0b01, 0b11, 0b10]);
        assert_eq!([0, 4].map(|shift| unpack(raw, shift, 4)), [0b0110, 0b1011]);
        assert_eq!(unpack(raw, 0, 8), 0b1011_0110);
        assert_eq!(unpack(raw, 0, 16), 0xb634);
        assert_eq!(unpack(raw, 0, 32), 0xb634_5678);
        assert_eq!(unpack(raw, 0, 64), 0xb634_5678_9abc_def0);
    }
}
