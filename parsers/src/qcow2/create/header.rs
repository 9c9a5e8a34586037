//! The header of a new image, with its extensions and the name of its backing file.

use super::{Layout, Writer};
use crate::qcow2::limits;
use crate::qcow2::wire::{self, autoclear, compatible, extension, incompatible};
use alloc::vec::Vec;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::TargetError;
use instar_abi::request::Compression;
use zerocopy::{FromBytes, IntoBytes};

/// Where the header comes from.
pub enum Header {
    /// It is new.
    New(Names),
    /// The sector of an image that exists: only where its tables are changes.
    Existing(Vec<u8>),
}

/// The files that a header names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The backing file, and its format.
    pub backing: Option<(Vec<u8>, Vec<u8>)>,
    /// The external data file, and whether it stays valid as a raw image.
    pub data_file: Option<(Vec<u8>, bool)>,
}

impl Header {
    /// The header, whole sectors. The first one is the commit point.
    pub fn bytes(&self, writer: &Writer, table_at: u64, table_clusters: u64) -> Vec<u8> {
        let table_clusters = u32::try_from(table_clusters).unwrap_or(0);
        match self {
            Self::New(names) => {
                let (mut wire, rest) = names.parts(&writer.layout);
                wire.size = writer.virtual_size.into();
                let l1_count = u32::try_from(writer.layout.l1_count(writer.virtual_size)).unwrap_or(0);
                wire.l1_size = l1_count.into();
                wire.l1_table_offset = if l1_count == 0 { 0 } else { writer.l1_at }.into();
                wire.refcount_table_offset = table_at.into();
                wire.refcount_table_clusters = table_clusters.into();
                let mut bytes = joined(&writer.layout, &wire, rest);
                bytes.resize(bytes.len().next_multiple_of(SECTOR_LEN as usize), 0);
                bytes
            }
            Self::Existing(sector) => {
                let mut sector = sector.clone();
                if let Ok((wire, _)) = wire::Header::mut_from_prefix(&mut sector) {
                    // A disk without a byte has no table.
                    wire.l1_table_offset = if wire.l1_size.get() == 0 { 0 } else { writer.l1_at }.into();
                    wire.refcount_table_offset = table_at.into();
                    wire.refcount_table_clusters = table_clusters.into();
                    if writer.layout.version >= 3 {
                        // What is not known here may not be true any more; the specification asks for it.
                        wire.autoclear_features = 0.into();
                    }
                }
                sector
            }
        }
    }
}

impl Names {
    /// Whether the header with these names fits into the first cluster.
    ///
    /// # Errors
    /// [`TargetError::BackingNameLen`]; [`TargetError::HeaderLen`].
    pub fn check(&self, layout: &Layout) -> Result<(), TargetError> {
        let name_len = self.backing.as_ref().map_or(0, |(name, _)| name.len());
        let max = limits::BACKING_NAME_LEN_MAX;
        if name_len > max as usize {
            return Err(TargetError::BackingNameLen { found: u32::try_from(name_len).unwrap_or(u32::MAX), max });
        }
        let (wire, rest) = self.parts(layout);
        let len = joined(layout, &wire, rest).len() as u64;
        let max = layout.cluster_size();
        if len > max { Err(TargetError::HeaderLen { found: len, max }) } else { Ok(()) }
    }

    /// The header without its tables, and what follows it.
    ///
    /// # Source
    /// The order of extensions and the place of the name as QEMU 10.0's `qcow2_update_header`.
    fn parts(&self, layout: &Layout) -> (wire::Header, Vec<u8>) {
        let &Layout { version, cluster_bits, refcount_order, lazy_refcounts, extended_l2, compression } = layout;
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let is_zstd = compression == Compression::Zstd;
        let header_len = if version < 3 { wire::HEADER_LEN_V2 } else { size_of::<wire::Header>() as u32 };
        let mut rest = Vec::new();
        if let Some((_, format)) = self.backing.as_ref().filter(|(_, format)| !format.is_empty()) {
            add(&mut rest, extension::BACKING_FORMAT, format);
        }
        if let Some((name, _)) = &self.data_file {
            add(&mut rest, extension::DATA_FILE, name);
        }
        if version >= 3 && layout.cluster_size() > NAMED_CLUSTER_SIZE_MIN {
            add(&mut rest, extension::FEATURE_NAMES, feature_names().as_bytes());
        }
        add(&mut rest, extension::END, &[]);
        let (mut backing_at, mut backing_len) = (0, 0);
        if let Some((name, _)) = &self.backing {
            backing_at = (header_len as usize).saturating_add(rest.len()) as u64;
            backing_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
            rest.extend_from_slice(name);
        }
        let is_raw = self.data_file.as_ref().is_some_and(|(_, is_raw)| *is_raw);
        let header = wire::Header {
            magic: wire::MAGIC,
            version: version.into(),
            backing_file_offset: backing_at.into(),
            backing_file_size: backing_len.into(),
            cluster_bits: cluster_bits.into(),
            size: 0.into(),
            crypt_method: 0.into(),
            l1_size: 0.into(),
            l1_table_offset: 0.into(),
            refcount_table_offset: 0.into(),
            refcount_table_clusters: 0.into(),
            nb_snapshots: 0.into(),
            snapshots_offset: 0.into(),
            incompatible_features: (bit(is_zstd, incompatible::COMPRESSION)
                | bit(extended_l2, incompatible::EXTENDED_L2)
                | bit(self.data_file.is_some(), incompatible::DATA_FILE))
            .into(),
            compatible_features: bit(lazy_refcounts, compatible::LAZY_REFCOUNTS).into(),
            autoclear_features: bit(is_raw, autoclear::DATA_FILE_RAW).into(),
            refcount_order: refcount_order.into(),
            header_length: header_len.into(),
            compression_type: is_zstd.into(),
            padding: [0; 7],
        };
        (header, rest)
    }
}

fn joined(layout: &Layout, header: &wire::Header, rest: Vec<u8>) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    if layout.version < 3 {
        bytes.truncate(wire::HEADER_LEN_V2 as usize);
    }
    bytes.extend(rest);
    bytes
}

/// Adds an extension, padded to 8 bytes.
fn add(bytes: &mut Vec<u8>, kind: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(wire::ExtensionHeader { kind: kind.into(), len: len.into() }.as_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn feature_names() -> [wire::FeatureName; FEATURE_NAMES.len()] {
    FEATURE_NAMES.map(|(kind, bit, name)| {
        let mut entry = wire::FeatureName { kind, bit, name: [0; 46] };
        entry.name.iter_mut().zip(name.bytes()).for_each(|(to, byte)| *to = byte);
        entry
    })
}

/// Features are named where clusters are larger than this: qemu-img 10.0 leaves smaller ones to the backing file name.
const NAMED_CLUSTER_SIZE_MIN: u64 = 4096;

/// The features that qemu-img 10.0 names in a new image, so that older readers can say what they lack.
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

// Without names, everything fits into the sector of the commit point.
const _: () = assert!(
    size_of::<wire::Header>()
        + 2 * size_of::<wire::ExtensionHeader>()
        + FEATURE_NAMES.len() * size_of::<wire::FeatureName>()
        <= 512
);
