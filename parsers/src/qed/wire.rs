//! QED's bytes. All numbers are little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of an image.
pub const MAGIC: [u8; 4] = *b"QED\0";

/// Bits of [`Header::features`].
pub mod feature {
    /// There is a layer below.
    pub const BACKING_FILE: u64 = 1;
    /// It was not closed.
    pub const NEED_CHECK: u64 = 2;
    /// The layer below is raw.
    pub const BACKING_IS_RAW: u64 = 4;
    /// All that are known.
    pub const ALL: u64 = 7;
}

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// Bytes of a cluster.
    pub cluster_size: U32,
    /// Clusters of a table.
    pub table_size: U32,
    /// Clusters of the header.
    pub header_clusters: U32,
    /// Bits that must be known.
    pub features: U64,
    /// Bits that may be ignored.
    pub compatible_features: U64,
    /// Bits that a writer clears.
    pub autoclear_features: U64,
    /// Where the L1 table is.
    pub l1_table_offset: U64,
    /// Virtual size in bytes.
    pub image_size: U64,
    /// Where the name of the layer below is.
    pub backing_name_offset: U32,
    /// Its bytes.
    pub backing_name_len: U32,
}

const _: () = assert!(size_of::<Header>() == 64);
