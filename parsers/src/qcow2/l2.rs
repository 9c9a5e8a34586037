//! L2 entries: the one place that knows their size and their bits.

use super::header::Header;
use super::wire::entry;

/// An L2 entry as it is on disk: 8 bytes, or 16 with a bitmap of subclusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L2Entry {
    word: u64,
    /// Allocation bits in the low half, zero bits in the high half; 0 in an entry of 8 bytes.
    bitmap: u64,
}

/// What an entry says of its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L2Mapping {
    /// No cluster; with extended entries some subclusters may be zero.
    Unallocated,
    /// Reads as zeros; the offset, where there is one, is only reserved.
    Zero {
        /// Reserved place, 0: none.
        reserved: u64,
    },
    /// A cluster at `offset`; with extended entries some subclusters may not be in use.
    Allocated {
        /// First byte, alignment unchecked.
        offset: u64,
    },
    /// A compressed cluster.
    Compressed {
        /// First byte of the stream.
        offset: u64,
        /// Bytes to the end of the last sector that holds some of it.
        len: u32,
    },
}

/// What a subcluster is, in a cluster that is not compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subcluster {
    /// Nothing here.
    Unallocated,
    /// Reads as zeros.
    Zero,
    /// Bytes of the cluster.
    Allocated,
}

impl L2Entry {
    /// Bytes of an entry in an image.
    #[must_use]
    pub const fn len(header: &Header) -> usize {
        if header.has_extended_l2() { 16 } else { 8 }
    }

    /// The entry in the first bytes of a table's rest; `None` where that is too short.
    #[must_use]
    pub fn parse(header: &Header, bytes: &[u8]) -> Option<Self> {
        let (word, rest) = bytes.split_first_chunk()?;
        let bitmap = if header.has_extended_l2() { u64::from_be_bytes(*rest.first_chunk()?) } else { 0 };
        Some(Self { word: u64::from_be_bytes(*word), bitmap })
    }

    /// The entry without its bitmap.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.word
    }

    /// The bitmap of an extended entry.
    #[must_use]
    pub const fn bitmap(self) -> u64 {
        self.bitmap
    }

    /// What the entry says. An offset of 0 means unallocated, but for an external data file's first cluster.
    #[must_use]
    pub fn mapping(self, header: &Header) -> L2Mapping {
        let offset = self.word & entry::OFFSET;
        if self.word & entry::COMPRESSED != 0 {
            return self.compressed(header);
        }
        if self.word & entry::ZERO != 0 && !header.has_extended_l2() {
            return L2Mapping::Zero { reserved: offset };
        }
        if offset == 0 && !(header.has_data_file() && self.word & entry::COPIED != 0) {
            return L2Mapping::Unallocated;
        }
        L2Mapping::Allocated { offset }
    }

    /// # Source
    /// Specification, "Compressed Clusters Descriptor": bits 0 to x−1 are the offset, x to 61 the number of
    /// further sectors, with x = 62 − (cluster bits − 8).
    fn compressed(self, header: &Header) -> L2Mapping {
        let size_bits = header.cluster_bits.saturating_sub(8);
        let offset_bits = 62u32.saturating_sub(size_bits);
        let mask = |bits: u32| 1u64.checked_shl(bits).unwrap_or(0).wrapping_sub(1);
        let offset = self.word & mask(offset_bits);
        let more_sectors = self.word.checked_shr(offset_bits).unwrap_or(0) & mask(size_bits);
        // At most 2^13 sectors.
        let sectors_len = more_sectors.saturating_add(1).saturating_mul(512);
        let len = sectors_len.saturating_sub(offset & 511);
        L2Mapping::Compressed { offset, len: u32::try_from(len).unwrap_or(u32::MAX) }
    }

    /// Whether an extended entry's bitmap makes sense for its mapping.
    #[must_use]
    pub const fn is_bitmap_sound(self, mapping: L2Mapping) -> bool {
        let allocated = self.bitmap & 0xffff_ffff;
        let zero = self.bitmap >> 32;
        match mapping {
            L2Mapping::Unallocated => allocated == 0,
            L2Mapping::Allocated { .. } => allocated & zero == 0,
            L2Mapping::Zero { .. } | L2Mapping::Compressed { .. } => true,
        }
    }

    /// What subcluster `index` (0 to 31) of an extended entry is.
    #[must_use]
    pub fn subcluster(self, index: u32) -> Subcluster {
        let bit = |index: u32| self.bitmap.checked_shr(index).unwrap_or(0) & 1 != 0;
        match (bit(index), bit(index.saturating_add(32))) {
            (true, _) => Subcluster::Allocated,
            (false, true) => Subcluster::Zero,
            (false, false) => Subcluster::Unallocated,
        }
    }
}
