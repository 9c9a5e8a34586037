//! The checked header: what opens and what does not, in QEMU's order.

use super::wire::{self, autoclear, compatible, incompatible};
use super::{extensions, limits};
use crate::align;
use crate::image::Codec;
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::error::{Error, FeatureName, Qcow2Error, Table};
use instar_abi::request::{DiskId, LayerId};
use zerocopy::IntoBytes;

/// How content is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crypt {
    /// Not at all.
    None,
    /// AES-CBC by virtual offset, the legacy method.
    Aes,
    /// LUKS by file offset.
    Luks,
}

/// A table: where it is, how many entries it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePlace {
    /// First byte, cluster-aligned.
    pub offset: u64,
    /// Entries.
    pub count: u32,
}

/// A header. Having one proves: the version is 2 or 3 and its features are known; 9 ≤ `cluster_bits` ≤ 21;
/// `refcount_order` ≤ 6; every table is cluster-aligned, within its limit and ends below 2^63; the L1
/// table covers the virtual size, which is a multiple of 512; a backing file name lies within the first cluster.
///
/// # Source
/// `docs/interop/qcow2.rst`, "Header"; bounds and their order as QEMU 10.0's `qcow2_do_open`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) virtual_size: u64,
    pub(super) crypt: Crypt,
    pub(super) l1: TablePlace,
    pub(super) refcount_table: TablePlace,
    pub(super) snapshots: TablePlace,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) header_len: u32,
    pub(super) compression: Codec,
    /// End of the area that header extensions may use.
    pub(super) extensions_end: u32,
    /// Offset and length of the backing file name.
    pub(super) backing: Option<(u32, u32)>,
}

impl Header {
    /// Reads and checks the header of `disk`.
    ///
    /// # Errors
    /// The first thing that is wrong, in QEMU's order; those of the reads.
    pub fn read(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        Self::read_with(io, layer, disk, SnapshotTable::Sound)
    }

    /// The same, but that the place of the snapshot table is as the image has it: a check tells what is wrong with it.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn read_for_check(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        Self::read_with(io, layer, disk, SnapshotTable::AsItIs)
    }

    fn read_with(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId, snapshots: SnapshotTable) -> Result<Self, Error> {
        let len = io.len(disk);
        let mut wire: wire::Header = io.read_wire(disk, 0)?;
        let needed = match wire.version.get() {
            3 => u64::from(wire::HEADER_LEN_V3_MIN),
            _ => u64::from(wire::HEADER_LEN_V2),
        };
        if len < needed {
            return Err(Error::Qcow2 { layer, error: Qcow2Error::FileTooShort { len } });
        }
        if wire.version.get() == 2 {
            as_version_3(&mut wire);
        }
        Self::check(&wire, snapshots).or_else(|error| {
            let error = match error {
                Qcow2Error::IncompatibleFeatures { .. } => {
                    Qcow2Error::IncompatibleFeatures { names: unknown_features(io, disk, &wire)? }
                }
                error => error,
            };
            Err(Error::Qcow2 { layer, error })
        })
    }

    /// Checks a header whose version 3 fields are set.
    fn check(wire: &wire::Header, snapshots: SnapshotTable) -> Result<Self, Qcow2Error> {
        let version = wire.version.get();
        if !matches!(version, 2 | 3) {
            return Err(Qcow2Error::Version { found: version });
        }
        let cluster_bits = wire.cluster_bits.get();
        if !(limits::CLUSTER_BITS_MIN..=limits::CLUSTER_BITS_MAX).contains(&cluster_bits) {
            return Err(Qcow2Error::ClusterBits { found: cluster_bits });
        }
        let cluster_size = 1u32 << cluster_bits;
        let header_len = wire.header_length.get();
        if version == 3 && header_len < wire::HEADER_LEN_V3_MIN {
            return Err(Qcow2Error::HeaderTooShort { found: header_len });
        }
        if header_len > cluster_size {
            return Err(Qcow2Error::HeaderExceedsCluster { found: header_len, cluster_size });
        }
        let backing_offset = match u32::try_from(wire.backing_file_offset.get()) {
            Ok(offset) if offset <= cluster_size => offset,
            _ => return Err(Qcow2Error::BackingOffset { found: wire.backing_file_offset.get() }),
        };
        let incompatible = wire.incompatible_features.get();
        let compression = compression(wire, incompatible)?;
        if incompatible & !incompatible::KNOWN != 0 {
            return Err(Qcow2Error::IncompatibleFeatures { names: Vec::new() });
        }
        let extended_l2 = incompatible & incompatible::EXTENDED_L2 != 0;
        let subcluster_size = cluster_size / limits::SUBCLUSTERS;
        if extended_l2 && subcluster_size < 1 << limits::CLUSTER_BITS_MIN {
            return Err(Qcow2Error::SubclusterSize { found: subcluster_size });
        }
        let refcount_order = wire.refcount_order.get();
        if refcount_order > limits::REFCOUNT_ORDER_MAX {
            return Err(Qcow2Error::RefcountOrder { found: refcount_order });
        }
        let tables = Tables::check(wire, cluster_size, snapshots)?;
        let virtual_size = virtual_size(wire, cluster_bits, extended_l2)?;
        let crypt = match wire.crypt_method.get() {
            0 => Crypt::None,
            1 => Crypt::Aes,
            2 => Crypt::Luks,
            found => return Err(Qcow2Error::CryptMethod { found }),
        };
        Ok(Self {
            version,
            cluster_bits,
            virtual_size,
            crypt,
            l1: tables.l1,
            refcount_table: tables.refcount,
            snapshots: tables.snapshots,
            incompatible,
            compatible: wire.compatible_features.get(),
            autoclear: wire.autoclear_features.get(),
            refcount_order,
            header_len,
            compression,
            extensions_end: if backing_offset == 0 { cluster_size } else { backing_offset },
            backing: (backing_offset != 0).then_some((backing_offset, wire.backing_file_size.get())),
        })
    }

    /// Bytes of a cluster.
    #[must_use]
    pub const fn cluster_size(&self) -> u32 {
        1 << self.cluster_bits
    }

    /// 2 or 3.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// Virtual size in bytes, a multiple of 512.
    #[must_use]
    pub const fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// The active L1 table.
    #[must_use]
    pub const fn l1(&self) -> TablePlace {
        self.l1
    }

    /// The refcount table; its count is in clusters.
    #[must_use]
    pub const fn refcount_table(&self) -> TablePlace {
        self.refcount_table
    }

    /// The snapshot table.
    #[must_use]
    pub const fn snapshots(&self) -> TablePlace {
        self.snapshots
    }

    /// Bytes of the header itself; the extensions follow.
    #[must_use]
    pub const fn header_len(&self) -> u32 {
        self.header_len
    }

    /// Feature bits: incompatible (all known), compatible, autoclear.
    #[must_use]
    pub const fn features(&self) -> [u64; 3] {
        [self.incompatible, self.compatible, self.autoclear]
    }

    /// Whether it has features that are not known; one that had to be would have been refused.
    #[must_use]
    pub const fn has_unknown_features(&self) -> bool {
        self.compatible & !compatible::KNOWN != 0 || self.autoclear & !autoclear::KNOWN != 0
    }

    /// How content is encrypted.
    #[must_use]
    pub const fn crypt(&self) -> Crypt {
        self.crypt
    }

    /// Bits of a refcount.
    #[must_use]
    pub const fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// How compressed clusters are compressed.
    #[must_use]
    pub const fn compression(&self) -> Codec {
        self.compression
    }

    /// Refcounts may be wrong.
    #[must_use]
    pub const fn is_dirty(&self) -> bool {
        self.incompatible & incompatible::DIRTY != 0
    }

    /// The image is known to be corrupt.
    #[must_use]
    pub const fn is_corrupt(&self) -> bool {
        self.incompatible & incompatible::CORRUPT != 0
    }

    /// Data clusters are in an external file.
    #[must_use]
    pub const fn has_data_file(&self) -> bool {
        self.incompatible & incompatible::DATA_FILE != 0
    }

    /// The external data file is the disk as it is.
    #[must_use]
    pub const fn is_data_file_raw(&self) -> bool {
        self.autoclear & autoclear::DATA_FILE_RAW != 0
    }

    /// L2 entries have 16 bytes.
    #[must_use]
    pub const fn has_extended_l2(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Refcounts may be written late.
    #[must_use]
    pub const fn has_lazy_refcounts(&self) -> bool {
        self.compatible & compatible::LAZY_REFCOUNTS != 0
    }

    /// Bitmaps are consistent with the data.
    #[must_use]
    pub const fn has_valid_bitmaps(&self) -> bool {
        self.autoclear & autoclear::BITMAPS != 0
    }
}

/// What is asked of the place of the snapshot table.
#[derive(Clone, Copy)]
enum SnapshotTable {
    /// It is within its bounds.
    Sound,
    /// Nothing.
    AsItIs,
}

/// The three tables of the header.
struct Tables {
    refcount: TablePlace,
    snapshots: TablePlace,
    l1: TablePlace,
}

impl Tables {
    fn check(wire: &wire::Header, cluster_size: u32, snapshots: SnapshotTable) -> Result<Self, Qcow2Error> {
        let refcount_clusters = wire.refcount_table_clusters.get();
        if refcount_clusters == 0 {
            return Err(Qcow2Error::NoRefcountTable);
        }
        let place = |table, offset, count, entry_len, len_max| {
            check_table(table, offset, count, entry_len, len_max, cluster_size)
        };
        Ok(Self {
            refcount: place(
                Table::Refcount,
                wire.refcount_table_offset.get(),
                refcount_clusters,
                cluster_size.into(),
                limits::REFCOUNT_TABLE_LEN_MAX,
            )?,
            snapshots: match (snapshots, wire.snapshots_offset.get(), wire.nb_snapshots.get()) {
                (SnapshotTable::Sound, offset, count) => snapshot_table(offset, count, cluster_size)?,
                (SnapshotTable::AsItIs, offset, count) => TablePlace { offset, count },
            },
            l1: place(Table::ActiveL1, wire.l1_table_offset.get(), wire.l1_size.get(), 8, limits::L1_LEN_MAX)?,
        })
    }
}

/// The place of a snapshot table.
pub(super) fn snapshot_table(offset: u64, count: u32, cluster_size: u32) -> Result<TablePlace, Qcow2Error> {
    let entry_len = size_of::<wire::SnapshotHeader>() as u64;
    let len_max = entry_len.saturating_mul(limits::SNAPSHOTS_MAX.into());
    check_table(Table::Snapshot, offset, count, entry_len, len_max, cluster_size)
}

pub(super) fn check_table(
    table: Table,
    offset: u64,
    count: u32,
    entry_len: u64,
    len_max: u64,
    cluster_size: u32,
) -> Result<TablePlace, Qcow2Error> {
    let max = len_max.checked_div(entry_len).and_then(|max| u32::try_from(max).ok()).unwrap_or(u32::MAX);
    if count > max {
        return Err(Qcow2Error::TableTooLarge { table, found: count, max });
    }
    // At most 32 MiB: no overflow.
    let len = u64::from(count).saturating_mul(entry_len);
    let ends_below_2_63 = offset.checked_add(len).is_some_and(|end| i64::try_from(end).is_ok());
    if !ends_below_2_63 || !offset.is_multiple_of(cluster_size.into()) {
        return Err(Qcow2Error::TableOffset { table, found: offset });
    }
    Ok(TablePlace { offset, count })
}

fn virtual_size(wire: &wire::Header, cluster_bits: u32, extended_l2: bool) -> Result<u64, Qcow2Error> {
    let virtual_size = wire.size.get();
    let l2_entry_bits = if extended_l2 { 4 } else { 3 };
    let bytes_of_l2_table = 1u64 << cluster_bits.saturating_mul(2).saturating_sub(l2_entry_bits);
    let needed = virtual_size.div_ceil(bytes_of_l2_table);
    let needed = match u32::try_from(needed) {
        Ok(needed) if needed <= i32::MAX as u32 => needed,
        _ => return Err(Qcow2Error::TooBig { virtual_size }),
    };
    let found = wire.l1_size.get();
    if found < needed {
        return Err(Qcow2Error::L1TooSmall { found, needed });
    }
    // QEMU counts whole sectors.
    Ok(align::down(virtual_size, 512))
}

fn compression(wire: &wire::Header, incompatible: u64) -> Result<Codec, Qcow2Error> {
    let has_field = wire.header_length.get() > wire::HEADER_LEN_V3_MIN;
    let codec = match if has_field { wire.compression_type } else { 0 } {
        0 => Codec::Deflate,
        1 => Codec::Zstd,
        found => return Err(Qcow2Error::CompressionType { found }),
    };
    match (codec, incompatible & incompatible::COMPRESSION != 0) {
        (Codec::Deflate, true) => Err(Qcow2Error::CompressionBitSet),
        (Codec::Zstd, false) => Err(Qcow2Error::CompressionBitMissing),
        _ => Ok(codec),
    }
}

/// Gives a version 2 header the version 3 fields that it stands for; what is in the file there is not header.
fn as_version_3(wire: &mut wire::Header) {
    if let Some(rest) = wire.as_mut_bytes().get_mut(wire::HEADER_LEN_V2 as usize..) {
        rest.fill(0);
    }
    wire.refcount_order = 4.into();
    wire.header_length = wire::HEADER_LEN_V2.into();
}

/// The names of the unknown incompatible features, as far as the image names them.
fn unknown_features(io: &mut dyn ReadAt, disk: DiskId, wire: &wire::Header) -> Result<Vec<FeatureName>, Error> {
    let cluster_size = 1u64 << wire.cluster_bits.get();
    let end = match wire.backing_file_offset.get() {
        0 => cluster_size,
        offset => offset,
    };
    let unknown = wire.incompatible_features.get() & !incompatible::KNOWN;
    extensions::feature_names(io, disk, wire.header_length.get().into()..end, unknown)
}
