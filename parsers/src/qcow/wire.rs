//! qcow's bytes. All numbers are big-endian.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of an image, those of later versions, too.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The version of this format.
pub const VERSION: u32 = 1;
/// [`Header::crypt_method`]: content is encrypted.
pub const AES: u32 = 1;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`VERSION`].
    pub version: U32,
    /// Where the name of the layer below is; 0: there is none.
    pub backing_name_offset: U64,
    /// Its bytes.
    pub backing_name_len: U32,
    /// When the layer below was changed last.
    pub backing_time: U32,
    /// Virtual size in bytes.
    pub size: U64,
    /// log2 of the cluster size.
    pub cluster_bits: u8,
    /// log2 of the entries of an L2 table.
    pub l2_bits: u8,
    /// Zero.
    pub padding: [u8; 2],
    /// 0 none, 1 AES.
    pub crypt_method: U32,
    /// Where the L1 table is.
    pub l1_table_offset: U64,
}

const _: () = assert!(size_of::<Header>() == 48);
