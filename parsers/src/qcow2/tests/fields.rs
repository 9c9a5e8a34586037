//! Each header field and extension at the edges of what is allowed; qemu-img must agree.

use super::super::wire::{Header, extension};
use super::{info, qcow2_error};
use crate::testing::{CLUSTER, Qcow2Builder, qemu_img, scratch};
use instar_abi::error::{FeatureName, Qcow2Error, Table};

/// We and qemu-img agree on whether `builder`'s image opens, and our reason is `expected`.
fn check(builder: &Qcow2Builder, expected: Option<Qcow2Error>) {
    let bytes = builder.build();
    assert_eq!(qcow2_error(info(bytes.clone())), expected);
    let Some(dir) = scratch() else { return };
    std::fs::write(dir.path().join("a"), bytes).unwrap();
    let theirs = qemu_img(dir.path(), "info -f qcow2 a");
    assert_eq!(theirs.is_ok(), expected.is_none(), "{expected:?}: {theirs:?}");
}

fn header(change: impl FnOnce(&mut Header), expected: Option<Qcow2Error>) {
    check(&Qcow2Builder::v3().header(change), expected);
}

#[test]
fn versions_2_and_3_open() {
    check(&Qcow2Builder::v2(), None);
    check(&Qcow2Builder::v3(), None);
    header(|header| header.version = 4.into(), Some(Qcow2Error::Version { found: 4 }));
}

#[test]
fn clusters_have_512_bytes_to_2_mib() {
    for found in [0, 8, 22, 63, u32::MAX] {
        header(|header| header.cluster_bits = found.into(), Some(Qcow2Error::ClusterBits { found }));
    }
}

#[test]
fn a_header_has_104_bytes_to_a_cluster() {
    header(|header| header.header_length = 103.into(), Some(Qcow2Error::HeaderTooShort { found: 103 }));
    header(|header| header.header_length = 104.into(), None);
    header(|header| header.header_length = 512.into(), None);
    let exceeds = Qcow2Error::HeaderExceedsCluster { found: 513, cluster_size: 512 };
    header(|header| header.header_length = 513.into(), Some(exceeds));
}

#[test]
fn a_backing_name_slot_outside_the_header_cluster_is_refused() {
    let backing = |offset: u64, len: u32| {
        move |header: &mut Header| {
            header.backing_file_offset = offset.into();
            header.backing_file_size = len.into();
        }
    };
    header(backing(500, 12), None);
    header(backing(500, 13), Some(Qcow2Error::BackingNameLen { found: 13, max: 12 }));
    header(backing(512, 0), None);
    header(backing(513, 0), Some(Qcow2Error::BackingOffset { found: 513 }));
    header(backing(u64::MAX, 1), Some(Qcow2Error::BackingOffset { found: u64::MAX }));
    header(backing(112, u32::MAX), Some(Qcow2Error::BackingNameLen { found: u32::MAX, max: 400 }));
}

#[test]
fn unknown_incompatible_features_are_named() {
    let unnamed = Qcow2Error::IncompatibleFeatures { names: vec![FeatureName::Unnamed(1 << 40 | 1 << 5)] };
    header(|header| header.incompatible_features = (1 << 40 | 1 << 5 | 1).into(), Some(unnamed));
    let mut table = vec![0; 96];
    table[..8].copy_from_slice(b"\x00\x28future");
    table[48..54].copy_from_slice(b"\x01\x05else");
    let builder = Qcow2Builder::v3()
        .header(|header| header.incompatible_features = (1 << 40 | 1 << 5).into())
        .extension(extension::FEATURE_NAMES, &table);
    let names = vec![FeatureName::Named(b"future".to_vec()), FeatureName::Unnamed(1 << 5)];
    check(&builder, Some(Qcow2Error::IncompatibleFeatures { names }));
    header(|header| header.incompatible_features = 0b11.into(), None);
    header(|header| header.compatible_features = u64::MAX.into(), None);
    header(|header| header.autoclear_features = (!1u64).into(), None);
}

#[test]
fn the_compression_type_and_its_bit_go_together() {
    header(|header| header.compression_type = 2, Some(Qcow2Error::CompressionType { found: 2 }));
    header(|header| header.compression_type = 1, Some(Qcow2Error::CompressionBitMissing));
    header(|header| header.incompatible_features = 8.into(), Some(Qcow2Error::CompressionBitSet));
    header(
        |header| {
            header.compression_type = 1;
            header.incompatible_features = 8.into();
        },
        None,
    );
    // The field is not there in a header of 104 bytes.
    header(
        |header| {
            header.compression_type = 7;
            header.header_length = 104.into();
        },
        None,
    );
}

#[test]
fn refcounts_have_at_most_64_bits() {
    for order in 0..=6 {
        header(|header| header.refcount_order = order.into(), None);
    }
    header(|header| header.refcount_order = 7.into(), Some(Qcow2Error::RefcountOrder { found: 7 }));
    let subclusters = Qcow2Error::SubclusterSize { found: 16 };
    header(|header| header.incompatible_features = 16.into(), Some(subclusters));
}

#[test]
fn tables_are_aligned_and_within_their_limits() {
    let offset = |table, found| Some(Qcow2Error::TableOffset { table, found });
    let large = |table, found, max| Some(Qcow2Error::TableTooLarge { table, found, max });
    let far = i64::MAX as u64 & !511;
    header(|header| header.refcount_table_clusters = 0.into(), Some(Qcow2Error::NoRefcountTable));
    header(|header| header.refcount_table_clusters = 16384.into(), None);
    header(|header| header.refcount_table_clusters = 16385.into(), large(Table::Refcount, 16385, 16384));
    header(|header| header.refcount_table_offset = 513.into(), offset(Table::Refcount, 513));
    header(|header| header.refcount_table_offset = far.into(), offset(Table::Refcount, far));
    header(|header| header.snapshots_offset = 8.into(), offset(Table::Snapshot, 8));
    header(|header| header.nb_snapshots = 65537.into(), large(Table::Snapshot, 65537, 65536));
    header(|header| header.l1_table_offset = 1.into(), offset(Table::ActiveL1, 1));
    header(|header| header.l1_table_offset = u64::MAX.into(), offset(Table::ActiveL1, u64::MAX));
    let max = 4 << 20;
    header(|header| header.l1_size = (max + 1).into(), large(Table::ActiveL1, max + 1, max));
    header(|header| header.l1_size = max.into(), None);
    header(|header| header.l1_size = 31.into(), Some(Qcow2Error::L1TooSmall { found: 31, needed: 32 }));
    header(|header| header.size = u64::MAX.into(), Some(Qcow2Error::TooBig { virtual_size: u64::MAX }));
    header(|header| header.size = 0.into(), None);
    header(|header| header.size = 1000.into(), None);
}

#[test]
fn encryption_is_none_aes_or_luks() {
    header(|header| header.crypt_method = 1.into(), None);
    header(|header| header.crypt_method = 2.into(), Some(Qcow2Error::CryptoHeaderMissing));
    header(|header| header.crypt_method = 3.into(), Some(Qcow2Error::CryptMethod { found: 3 }));
}

/// `info` does not open it, and does not miss it.
#[test]
fn a_data_file_without_a_name_is_described() {
    header(|header| header.incompatible_features = 4.into(), None);
    header(|header| header.autoclear_features = 2.into(), None);
}

#[test]
fn extensions_stay_in_their_area() {
    let with = |kind, data: &[u8]| Qcow2Builder::v3().extension(kind, data);
    check(&with(0x1234_5678, &[1; 100]), None);
    check(&with(extension::BACKING_FORMAT, &[b'x'; 15]), None);
    check(&with(extension::BACKING_FORMAT, &[b'x'; 16]), Some(Qcow2Error::BackingFormatLen { found: 16 }));
    check(&with(extension::DATA_FILE, b"data.raw"), None);
    let crypto = Qcow2Error::CryptoExtensionUnexpected;
    check(&with(extension::CRYPTO, &[0; 16]), Some(crypto));
    check(&with(extension::BITMAPS, &[0; 23]), Some(Qcow2Error::BitmapsExtensionLen { found: 23 }));
    check(&with(extension::BITMAPS, &[0; 24]), None);
    let long = Qcow2Builder::v3().with(112, [0x12, 0x34, 0x56, 0x78, 0, 0, 1, 0x89]);
    check(&long, Some(Qcow2Error::ExtensionTooLarge { offset: 120, len: 393 }));
    let full = Qcow2Builder::v3().with(112, [0x12, 0x34, 0x56, 0x78, 0, 0, 1, 0x88]);
    check(&full, None);
}

#[test]
fn the_luks_extension_has_16_bytes_and_an_aligned_offset() {
    let with = |data: &[u8]| {
        Qcow2Builder::v3().header(|header| header.crypt_method = 2.into()).extension(extension::CRYPTO, data)
    };
    check(&with(&[0; 15]), Some(Qcow2Error::CryptoExtensionLen { found: 15 }));
    let place = |offset: u64, len: u64| [offset.to_be_bytes(), len.to_be_bytes()].concat();
    check(&with(&place(8, 4096)), Some(Qcow2Error::CryptoHeaderOffset { found: 8 }));
    check(&with(&place(512, 100)), Some(Qcow2Error::CryptoHeaderLen { found: 100 }));
    let magic = Qcow2Error::Luks(instar_abi::error::LuksError::Magic);
    check(&with(&place(512, 4096)), Some(magic));
}

/// A directory with one bitmap of 1 MiB / 64 KiB bits, in clusters of its own.
fn with_bitmap(entry: impl FnOnce(&mut Vec<u8>), bend: impl FnOnce(&mut [u8])) -> Qcow2Builder {
    let mut builder = Qcow2Builder::v3().header(|header| header.autoclear_features = 1.into());
    let table = builder.cluster(&[0]);
    let mut bytes = [table.to_be_bytes().as_slice(), &1u32.to_be_bytes(), &0u32.to_be_bytes(), &[1, 16, 0, 4]].concat();
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(b"name\0\0\0\0");
    entry(&mut bytes);
    let directory = builder.cluster(&[]);
    builder.put(directory, &bytes);
    let mut place = [&1u32.to_be_bytes(), [0; 4].as_slice(), &32u64.to_be_bytes(), &directory.to_be_bytes()].concat();
    bend(&mut place);
    builder.extension(extension::BITMAPS, &place)
}

#[test]
fn bitmaps_are_checked_as_by_qemu() {
    let entry = |at: usize, byte: u8| with_bitmap(|bytes| bytes[at] = byte, |_| {});
    let place = |at: usize, byte: u8| with_bitmap(|_| {}, |bytes| bytes[at] = byte);
    let constraint = Some(Qcow2Error::BitmapConstraint { index: 0 });
    check(&entry(31, 0), None);
    check(&entry(7, 1), constraint.clone());
    check(&entry(11, 0), constraint.clone());
    check(&entry(11, 2), Some(Qcow2Error::BitmapTable { index: 0 }));
    check(&entry(15, 2), None);
    check(&entry(15, 3), None);
    check(&entry(15, 4), constraint.clone());
    check(&entry(16, 2), constraint.clone());
    check(&entry(17, 8), constraint.clone());
    check(&entry(17, 32), constraint);
    check(&entry(23, 4), Some(Qcow2Error::BitmapExtraData { index: 0 }));
    check(&entry(19, 9), Some(Qcow2Error::BitmapDirectory { index: 0 }));
    check(&place(3, 0), Some(Qcow2Error::BitmapCount { found: 0 }));
    check(&place(3, 2), Some(Qcow2Error::BitmapDirectory { index: 1 }));
    check(&place(4, 1), Some(Qcow2Error::BitmapsExtensionReserved));
    check(&place(23, 1), Some(Qcow2Error::BitmapDirectoryOffset { found: 5 * CLUSTER + 1 }));
    check(&place(10, 255), Some(Qcow2Error::BitmapDirectoryLen { found: 0xff00_0000_0020 }));
    // A table entry that is reserved, or that has an offset and all ones.
    for bad in [1 << 56, 512 | 1, 2] {
        check(&with_bitmap(|_| {}, |_| {}).with(4 * CLUSTER, u64::to_be_bytes(bad)), {
            Some(Qcow2Error::BitmapTable { index: 0 })
        });
    }
    check(&with_bitmap(|_| {}, |_| {}).with(4 * CLUSTER, 1u64.to_be_bytes()), None);
}

#[test]
fn snapshot_tables_are_checked_as_by_qemu() {
    let with = |count: u32, entry: &[u8]| {
        let mut builder = Qcow2Builder::v3();
        let at = builder.cluster(&[]);
        builder.put(at, entry);
        builder.header(|header| {
            header.nb_snapshots = count.into();
            header.snapshots_offset = at.into();
        })
    };
    let entry = |extra: u32| {
        let mut bytes = vec![0; 40];
        bytes[36..].copy_from_slice(&extra.to_be_bytes());
        bytes
    };
    check(&with(1, &entry(0)), None);
    check(&with(1, &entry(1024)), None);
    check(&with(1, &entry(1025)), Some(Qcow2Error::SnapshotExtraData { index: 0, found: 1025 }));
    // 65536 empty snapshots past the end of the file.
    check(&with(65536, &entry(0)), None);
    let long: Vec<u8> = {
        let mut bytes = entry(1024);
        bytes[12..16].copy_from_slice(&[0xff; 4]);
        bytes
    };
    // Entries of 130 KiB each, all over each other's names: the limit of 64 MiB comes first.
    let mut file = Vec::new();
    for _ in 0..600 {
        file.extend(&long);
        file.resize((file.len() + 1024 + 2 * 65535).next_multiple_of(8), 0);
    }
    check(&with(600, &file), Some(Qcow2Error::SnapshotTableLen { index: 507 }));
}
