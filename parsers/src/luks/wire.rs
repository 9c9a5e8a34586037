//! LUKS 1's bytes. All numbers are big-endian.
//!
//! # Source
//! LUKS On-Disk Format Specification, version 1.2.3, figures 1 and 2.

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First six bytes.
pub const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// [`KeySlot::active`] of a slot in use.
pub const SLOT_ACTIVE: u32 = 0x00ac_71f3;
/// [`KeySlot::active`] of a free slot.
pub const SLOT_INACTIVE: u32 = 0x0000_dead;

/// A key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeySlot {
    /// [`SLOT_ACTIVE`] or [`SLOT_INACTIVE`].
    pub active: U32,
    /// Iterations of the password's derivation.
    pub iterations: U32,
    /// Salt of the password's derivation.
    pub salt: [u8; 32],
    /// First sector of the key material.
    pub key_offset: U32,
    /// Anti-forensic stripes, 4000.
    pub stripes: U32,
}

const _: () = assert!(size_of::<KeySlot>() == 48);

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 6],
    /// 1.
    pub version: U16,
    /// Cipher, NUL-terminated.
    pub cipher_name: [u8; 32],
    /// `MODE-IVGEN[:HASH]`, NUL-terminated.
    pub cipher_mode: [u8; 32],
    /// Hash, NUL-terminated.
    pub hash: [u8; 32],
    /// First sector of the payload.
    pub payload_offset: U32,
    /// Bytes of the master key.
    pub key_bytes: U32,
    /// Digest of the master key.
    pub master_key_digest: [u8; 20],
    /// Salt of the digest.
    pub master_key_salt: [u8; 32],
    /// Iterations of the digest.
    pub master_key_iterations: U32,
    /// UUID as text.
    pub uuid: [u8; 40],
    /// Key slots.
    pub slots: [KeySlot; 8],
}

const _: () = assert!(size_of::<Header>() == 592);
