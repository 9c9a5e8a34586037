//! The options of a new image, checked against each other.

use crate::align;
use crate::qcow2::limits;
use instar_abi::error::TargetError;
use instar_abi::request::{Compression, Qcow2Options};

/// Having one proves: the version is 2 or 3; 9 ≤ `cluster_bits` ≤ 21; `refcount_order` ≤ 6; version 2 has 16-bit
/// refcounts and none of version 3's features; extended L2 entries have subclusters of at least a sector. A layout from
/// options also proves that backing file, data file, preallocation and compression fit together.
///
/// # Source
/// `docs/interop/qcow2.rst`, "Header"; what is refused, as `qcow2_co_create` of QEMU 10.0 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) refcount_order: u32,
    pub(super) lazy_refcounts: bool,
    pub(super) extended_l2: bool,
    pub(super) compression: Compression,
}

impl Layout {
    /// 2 or 3.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The codec of compressed clusters.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }
}

/// Smallest cluster with extended L2 entries: 32 subclusters of 512 bytes.
const EXTENDED_CLUSTER_BITS_MIN: u32 = 14;

impl TryFrom<&Qcow2Options> for Layout {
    type Error = TargetError;

    fn try_from(options: &Qcow2Options) -> Result<Self, TargetError> {
        let &Qcow2Options { version, cluster_bits, refcount_order, lazy_refcounts, extended_l2, compression, .. } =
            options;
        if !matches!(version, 2 | 3) {
            return Err(TargetError::Version { found: version });
        }
        if !(limits::CLUSTER_BITS_MIN..=limits::CLUSTER_BITS_MAX).contains(&cluster_bits) {
            let (min, max) = (limits::CLUSTER_BITS_MIN, limits::CLUSTER_BITS_MAX);
            return Err(TargetError::ClusterBits { found: cluster_bits, min, max });
        }
        if refcount_order > limits::REFCOUNT_ORDER_MAX {
            return Err(TargetError::RefcountOrder { found: refcount_order, max: limits::REFCOUNT_ORDER_MAX });
        }
        if version < 3 {
            if refcount_order != 4 {
                return Err(TargetError::RefcountOrderBeforeVersion3 { found: refcount_order });
            }
            if lazy_refcounts {
                return Err(TargetError::LazyRefcountsBeforeVersion3);
            }
            if extended_l2 {
                return Err(TargetError::ExtendedL2BeforeVersion3);
            }
            if compression != Compression::Zlib {
                return Err(TargetError::CompressionBeforeVersion3);
            }
        }
        if extended_l2 && cluster_bits < EXTENDED_CLUSTER_BITS_MIN {
            return Err(TargetError::ExtendedL2ClusterBits { found: cluster_bits, min: EXTENDED_CLUSTER_BITS_MIN });
        }
        if let Some(file) = &options.data_file {
            if version < 3 {
                return Err(TargetError::DataFileBeforeVersion3);
            }
            if file.raw && options.backing.is_some() {
                return Err(TargetError::RawDataFileWithBacking);
            }
            if options.compress {
                return Err(TargetError::CompressionWithDataFile);
            }
        }
        if options.preallocated && options.backing.is_some() && !extended_l2 {
            return Err(TargetError::PreallocationWithBacking);
        }
        if options.preallocated && options.compress {
            return Err(TargetError::CompressionWithPreallocation);
        }
        Ok(Self { version, cluster_bits, refcount_order, lazy_refcounts, extended_l2, compression })
    }
}

impl Layout {
    /// Bytes of a cluster.
    #[must_use]
    pub const fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// What content is allocated by: a subcluster where there are any, or a cluster.
    #[must_use]
    pub const fn granule(&self) -> u64 {
        let subclusters = if self.extended_l2 { limits::SUBCLUSTERS as u64 } else { 1 };
        align::units(self.cluster_size(), subclusters)
    }

    /// log2 of the entries of an L2 table.
    const fn l2_bits(&self) -> u32 {
        self.cluster_bits.saturating_sub(if self.extended_l2 { 4 } else { 3 })
    }

    /// Bytes of the disk whose tables are written at once, where they are filled without content: 1 MiB of tables, or
    /// one.
    #[must_use]
    pub const fn marks_len_max(&self) -> u64 {
        let tables = align::units(1 << 20, self.cluster_size());
        self.l2_span().saturating_mul(if tables == 0 { 1 } else { tables })
    }

    /// Bytes that an L2 table maps: at most 2^39.
    #[must_use]
    pub const fn l2_span(&self) -> u64 {
        1 << self.cluster_bits.saturating_add(self.l2_bits())
    }

    /// Largest virtual size: what an L1 table of 32 MiB maps.
    #[must_use]
    pub const fn virtual_size_max(&self) -> u64 {
        (limits::L1_LEN_MAX / 8).saturating_mul(self.l2_span())
    }

    /// Entries of the L1 table of a disk; one without a byte has no table.
    pub(super) const fn l1_count(&self, virtual_size: u64) -> u64 {
        virtual_size.div_ceil(self.l2_span())
    }

    /// Refcounts of a block: at least 64.
    pub(super) const fn refcounts_of_block(&self) -> u64 {
        1 << self.cluster_bits.saturating_add(3).saturating_sub(self.refcount_order)
    }

    /// Largest refcount, as far as counting in 16 bits goes.
    pub(super) const fn refcount_max(&self) -> u64 {
        if self.refcount_order >= 4 { u16::MAX as u64 } else { (1u64 << (1u32 << self.refcount_order)).wrapping_sub(1) }
    }

    /// Longest file whose every cluster a refcount table of 8 MiB counts.
    pub(super) const fn file_len_max(&self) -> u64 {
        let block_span = self.refcounts_of_block().saturating_mul(self.cluster_size());
        (limits::REFCOUNT_TABLE_LEN_MAX / 8).saturating_mul(block_span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_do_not_fit_are_refused_with_their_numbers() {
        let check = |change: &dyn Fn(&mut Qcow2Options), expected: Result<(), TargetError>| {
            let mut options = Qcow2Options::default();
            change(&mut options);
            assert_eq!(Layout::try_from(&options).map(|_| ()), expected, "{options:?}");
        };
        for bits in [9, 21] {
            check(&|options| options.cluster_bits = bits, Ok(()));
        }
        for found in [0, 8, 22, u32::MAX] {
            let expected = TargetError::ClusterBits { found, min: 9, max: 21 };
            check(&|options| options.cluster_bits = found, Err(expected));
        }
        for found in [0, 1, 4, u32::MAX] {
            check(&|options| options.version = found, Err(TargetError::Version { found }));
        }
        check(&|options| options.refcount_order = 6, Ok(()));
        check(&|options| options.refcount_order = 7, Err(TargetError::RefcountOrder { found: 7, max: 6 }));
        for found in [0, 3, 5, 6] {
            let change = |options: &mut Qcow2Options| (options.version, options.refcount_order) = (2, found);
            check(&change, Err(TargetError::RefcountOrderBeforeVersion3 { found }));
        }
        let version_2 = |change: fn(&mut Qcow2Options)| {
            move |options: &mut Qcow2Options| {
                options.version = 2;
                change(options);
            }
        };
        check(&version_2(|_| {}), Ok(()));
        check(&version_2(|options| options.lazy_refcounts = true), Err(TargetError::LazyRefcountsBeforeVersion3));
        check(&version_2(|options| options.extended_l2 = true), Err(TargetError::ExtendedL2BeforeVersion3));
        let zstd = version_2(|options| options.compression = Compression::Zstd);
        check(&zstd, Err(TargetError::CompressionBeforeVersion3));
        let extended =
            |bits| move |options: &mut Qcow2Options| (options.extended_l2, options.cluster_bits) = (true, bits);
        check(&extended(14), Ok(()));
        check(&extended(13), Err(TargetError::ExtendedL2ClusterBits { found: 13, min: 14 }));
    }
}
