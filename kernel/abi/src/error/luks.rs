//! LUKS headers, as a file of their own or inside a qcow2 image.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Why a LUKS header can't be used. Slots count from 0, offsets and lengths are in 512-byte sectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LuksError {
    /// The first six bytes are something else.
    Magic,
    /// The version is not 1.
    Version {
        /// What the header says.
        found: u16,
    },
    /// The cipher's name does not end within its field.
    CipherNameUnterminated,
    /// The cipher's mode does not end within its field.
    CipherModeUnterminated,
    /// The hash's name does not end within its field.
    HashUnterminated,
    /// The payload starts within the header.
    PayloadInHeader {
        /// First sector of the payload.
        found: u32,
    },
    /// The master key's iteration count is zero.
    MasterKeyIterations,
    /// A key slot has another number of stripes than 4000.
    Stripes {
        /// The slot.
        slot: u8,
        /// What the header says.
        found: u32,
    },
    /// A key slot's material lies within the header.
    SlotInHeader {
        /// The slot.
        slot: u8,
    },
    /// A key slot is neither active nor inactive.
    SlotState {
        /// The slot.
        slot: u8,
    },
    /// An active key slot's iteration count is zero.
    SlotIterations {
        /// The slot.
        slot: u8,
    },
    /// A key slot's material runs into the payload.
    SlotInPayload {
        /// The slot.
        slot: u8,
    },
    /// Two key slots share material.
    SlotsOverlap {
        /// The lower slot.
        first: u8,
        /// The higher slot.
        second: u8,
    },
    /// The cipher mode is not `MODE-IVGEN[:HASH]`.
    CipherModeFormat {
        /// What the header says.
        found: Vec<u8>,
    },
    /// An unknown cipher, or a key length it does not have.
    Cipher {
        /// The cipher's name.
        found: Vec<u8>,
        /// Bytes of the key.
        key_bytes: u32,
    },
    /// An unknown block mode.
    Mode {
        /// What the header says.
        found: Vec<u8>,
    },
    /// An unknown hash.
    Hash {
        /// What the header says.
        found: Vec<u8>,
    },
    /// An unknown generator of initialisation vectors.
    IvGenerator {
        /// What the header says.
        found: Vec<u8>,
    },
    /// `essiv` without a hash.
    IvHashMissing,
}
