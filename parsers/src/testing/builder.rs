//! qcow2 images by hand, field by field.

use crate::qcow2::wire::{Header, MAGIC};
use zerocopy::IntoBytes;

/// An image of clusters of 512 bytes: header, refcount table, refcount block, L1 table, then what is added.
#[derive(Clone)]
pub struct Qcow2Builder {
    /// The header; any field may be bent.
    pub header: Header,
    /// The file from byte 0 on; the header is put over it at the end.
    pub bytes: Vec<u8>,
}

/// Bytes of a cluster.
pub const CLUSTER: u64 = 512;
/// Where the L1 table is.
pub const L1: u64 = 3 * CLUSTER;

impl Qcow2Builder {
    /// Version 3, 1 MiB, 32 L1 entries, nothing allocated.
    pub fn v3() -> Self {
        let header = Header {
            magic: MAGIC,
            version: 3.into(),
            backing_file_offset: 0.into(),
            backing_file_size: 0.into(),
            cluster_bits: 9.into(),
            size: (1 << 20).into(),
            crypt_method: 0.into(),
            l1_size: 32.into(),
            l1_table_offset: L1.into(),
            refcount_table_offset: CLUSTER.into(),
            refcount_table_clusters: 1.into(),
            nb_snapshots: 0.into(),
            snapshots_offset: 0.into(),
            incompatible_features: 0.into(),
            compatible_features: 0.into(),
            autoclear_features: 0.into(),
            refcount_order: 4.into(),
            header_length: 112.into(),
            compression_type: 0,
            padding: [0; 7],
        };
        let mut builder = Self { header, bytes: vec![0; 4 * CLUSTER as usize] };
        builder.put(CLUSTER, (2 * CLUSTER).to_be_bytes());
        for cluster in 0..4 {
            builder.put(2 * CLUSTER + 2 * cluster, 1u16.to_be_bytes());
        }
        builder
    }

    /// The same in version 2.
    pub fn v2() -> Self {
        let mut builder = Self::v3();
        builder.header.version = 2.into();
        builder.header.header_length = 0.into();
        builder.header.refcount_order = 0.into();
        builder
    }

    /// With other header fields.
    pub fn header(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.header);
        self
    }

    /// Puts bytes anywhere.
    pub fn put(&mut self, at: u64, bytes: impl AsRef<[u8]>) {
        let (at, bytes) = (at as usize, bytes.as_ref());
        if self.bytes.len() < at + bytes.len() {
            self.bytes.resize(at + bytes.len(), 0);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// With bytes anywhere.
    pub fn with(mut self, at: u64, bytes: impl AsRef<[u8]>) -> Self {
        self.put(at, bytes);
        self
    }

    /// With a header extension right behind the header; only one.
    pub fn extension(self, kind: u32, data: &[u8]) -> Self {
        let at = u64::from(self.header.header_length.get().max(72));
        let mut bytes = [kind.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        self.with(at, bytes)
    }

    /// With one more cluster of these 64-bit words; its offset.
    pub fn cluster(&mut self, words: &[u64]) -> u64 {
        let at = self.bytes.len().next_multiple_of(CLUSTER as usize) as u64;
        self.put(at, [0; CLUSTER as usize]);
        for (index, word) in (0..).zip(words) {
            self.put(at + 8 * index, word.to_be_bytes());
        }
        at
    }

    /// With an L2 table for the first 32 KiB of the disk.
    pub fn l2(mut self, entries: &[u64]) -> Self {
        let at = self.cluster(entries);
        self.put(L1, (at | 1 << 63).to_be_bytes());
        self
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let len = if self.header.version.get() == 2 { 72 } else { 112 };
        bytes[..len].copy_from_slice(&self.header.as_bytes()[..len]);
        bytes
    }
}
