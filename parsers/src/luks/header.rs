//! The checked header.

use super::wire;
use alloc::vec::Vec;
use instar_abi::error::LuksError;

/// A key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// In use.
    pub active: bool,
    /// Iterations of the password's derivation.
    pub iterations: u32,
    /// Anti-forensic stripes.
    pub stripes: u32,
    /// First byte of the key material.
    pub key_offset: u64,
}

/// A LUKS 1 header. Having one proves what QEMU asks for: known cipher, mode, hash and IV generator; key
/// slots with 4000 stripes that overlap neither the header, nor each other, nor the payload.
///
/// # Source
/// QEMU 10.0's `qcrypto_block_luks_check_header` and `…_parse_header`, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Cipher with its key length, as QEMU spells it.
    pub cipher: &'static str,
    /// Block mode.
    pub mode: &'static str,
    /// Generator of initialisation vectors.
    pub iv_generator: &'static str,
    /// Hash of the generator; only for `essiv`.
    pub iv_hash: Option<&'static str>,
    /// Hash of the key derivation.
    pub hash: &'static str,
    /// First byte of the payload.
    pub payload_offset: u64,
    /// Bytes of the master key.
    pub key_len: u32,
    /// Iterations of the master key's digest.
    pub master_key_iterations: u32,
    /// UUID as text, up to its NUL.
    pub uuid: Vec<u8>,
    /// Key slots.
    pub slots: [Slot; 8],
}

/// Sectors of the header with its padding, up to the first key slot.
const HEADER_SECTORS: u32 = 8;
const SECTOR_LEN: u64 = 512;
const STRIPES: u32 = 4000;

const MODES: [&str; 4] = ["ecb", "cbc", "xts", "ctr"];
const IV_GENERATORS: [&str; 3] = ["plain", "plain64", "essiv"];
const HASHES: [&str; 8] = ["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"];
/// Name, bytes of the key, and QEMU's name of both.
const CIPHERS: [(&str, u32, &str); 10] = [
    ("aes", 16, "aes-128"),
    ("aes", 24, "aes-192"),
    ("aes", 32, "aes-256"),
    ("cast5", 16, "cast5-128"),
    ("serpent", 16, "serpent-128"),
    ("serpent", 24, "serpent-192"),
    ("serpent", 32, "serpent-256"),
    ("twofish", 16, "twofish-128"),
    ("twofish", 24, "twofish-192"),
    ("twofish", 32, "twofish-256"),
];

impl TryFrom<&wire::Header> for Header {
    type Error = LuksError;

    fn try_from(wire: &wire::Header) -> Result<Self, LuksError> {
        if wire.magic != wire::MAGIC {
            return Err(LuksError::Magic);
        }
        if wire.version.get() != 1 {
            return Err(LuksError::Version { found: wire.version.get() });
        }
        let cipher_name = text(&wire.cipher_name).ok_or(LuksError::CipherNameUnterminated)?;
        let cipher_mode = text(&wire.cipher_mode).ok_or(LuksError::CipherModeUnterminated)?;
        let hash = text(&wire.hash).ok_or(LuksError::HashUnterminated)?;
        if wire.payload_offset.get() < HEADER_SECTORS {
            return Err(LuksError::PayloadInHeader { found: wire.payload_offset.get() });
        }
        if wire.master_key_iterations.get() == 0 {
            return Err(LuksError::MasterKeyIterations);
        }
        check_slots(wire)?;
        let mode = CipherMode::parse(cipher_mode)?;
        let cipher = cipher(cipher_name, mode.mode, wire.key_bytes.get())?;
        let hash = known(&HASHES, hash).ok_or_else(|| LuksError::Hash { found: hash.to_vec() })?;
        let iv_hash = match (mode.iv_generator, mode.iv_hash) {
            ("essiv", None) => return Err(LuksError::IvHashMissing),
            ("essiv", hash) => hash,
            _ => None,
        };
        Ok(Self {
            cipher,
            mode: mode.mode,
            iv_generator: mode.iv_generator,
            iv_hash,
            hash,
            payload_offset: bytes(wire.payload_offset.get()),
            key_len: wire.key_bytes.get(),
            master_key_iterations: wire.master_key_iterations.get(),
            uuid: wire.uuid.split(|&byte| byte == 0).next().unwrap_or_default().to_vec(),
            slots: wire.slots.each_ref().map(|slot| Slot {
                active: slot.active.get() == wire::SLOT_ACTIVE,
                iterations: slot.iterations.get(),
                stripes: slot.stripes.get(),
                key_offset: bytes(slot.key_offset.get()),
            }),
        })
    }
}

/// `MODE-IVGEN[:HASH]`.
struct CipherMode {
    mode: &'static str,
    iv_generator: &'static str,
    iv_hash: Option<&'static str>,
}

impl CipherMode {
    fn parse(text: &[u8]) -> Result<Self, LuksError> {
        let unexpected = || LuksError::CipherModeFormat { found: text.to_vec() };
        let dash = text.iter().position(|&byte| byte == b'-').ok_or_else(unexpected)?;
        let (mode, rest) = text.split_at_checked(dash).ok_or_else(unexpected)?;
        let mut parts = rest.strip_prefix(b"-").unwrap_or(rest).splitn(2, |&byte| byte == b':');
        let iv_generator = parts.next().unwrap_or_default();
        let iv_hash = match parts.next() {
            Some(hash) => Some(known(&HASHES, hash).ok_or_else(|| LuksError::Hash { found: hash.to_vec() })?),
            None => None,
        };
        Ok(Self {
            mode: known(&MODES, mode).ok_or_else(|| LuksError::Mode { found: mode.to_vec() })?,
            iv_generator: known(&IV_GENERATORS, iv_generator)
                .ok_or_else(|| LuksError::IvGenerator { found: iv_generator.to_vec() })?,
            iv_hash,
        })
    }
}

fn check_slots(wire: &wire::Header) -> Result<(), LuksError> {
    let key_len = u64::from(wire.key_bytes.get()).saturating_mul(STRIPES.into());
    let sectors = crate::align::up(key_len.div_ceil(SECTOR_LEN), HEADER_SECTORS.into()).unwrap_or(u64::MAX);
    let range = |slot: &wire::KeySlot| {
        let start = u64::from(slot.key_offset.get());
        (start, start.saturating_add(sectors))
    };
    let numbered = || (0u8..).zip(&wire.slots);
    for (slot, wire_slot) in numbered() {
        if wire_slot.stripes.get() != STRIPES {
            return Err(LuksError::Stripes { slot, found: wire_slot.stripes.get() });
        }
        if wire_slot.key_offset.get() < HEADER_SECTORS {
            return Err(LuksError::SlotInHeader { slot });
        }
        match wire_slot.active.get() {
            wire::SLOT_ACTIVE if wire_slot.iterations.get() == 0 => return Err(LuksError::SlotIterations { slot }),
            wire::SLOT_ACTIVE | wire::SLOT_INACTIVE => {}
            _ => return Err(LuksError::SlotState { slot }),
        }
        let (start, end) = range(wire_slot);
        if end > wire.payload_offset.get().into() {
            return Err(LuksError::SlotInPayload { slot });
        }
        for (second, other) in numbered().filter(|(second, _)| *second > slot) {
            let (other_start, other_end) = range(other);
            if start < other_end && other_start < end {
                return Err(LuksError::SlotsOverlap { first: slot, second });
            }
        }
    }
    Ok(())
}

fn cipher(name: &[u8], mode: &str, key_bytes: u32) -> Result<&'static str, LuksError> {
    // XTS splits the key in two.
    let cipher_key = match mode {
        "xts" if key_bytes.is_multiple_of(2) => Some(key_bytes / 2),
        "xts" => None,
        _ => Some(key_bytes),
    };
    CIPHERS
        .iter()
        .find(|(cipher, key, _)| cipher.as_bytes() == name && Some(*key) == cipher_key)
        .map(|(_, _, both)| *both)
        .ok_or_else(|| LuksError::Cipher { found: name.to_vec(), key_bytes })
}

/// A field's text without its NUL; `None` when there is no NUL.
fn text(field: &[u8; 32]) -> Option<&[u8]> {
    field.get(..field.iter().position(|&byte| byte == 0)?)
}

fn known(names: &[&'static str], found: &[u8]) -> Option<&'static str> {
    names.iter().copied().find(|name| name.as_bytes() == found)
}

fn bytes(sectors: u32) -> u64 {
    u64::from(sectors).saturating_mul(SECTOR_LEN)
}

impl Header {
    /// Bytes of the header in a file.
    pub const LEN: usize = size_of::<wire::Header>();

    /// Checks the bytes of a header.
    ///
    /// # Errors
    /// The first thing that is wrong, in QEMU's order.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, LuksError> {
        Self::try_from(&zerocopy::transmute!(*bytes))
    }
}
/// Bytes that QEMU puts before the content of a new volume with a key of `key_len` bytes: a header, and eight slots of
/// the key in 4000 stripes, each of whole 4 KiB. 0 for no key.
///
/// # Source
/// LUKS1 On-Disk Format Specification 1.2.3, 2.4; what `qemu-img measure` says of each cipher.
#[must_use]
pub const fn header_len(key_len: u32) -> u64 {
    const UNIT: u64 = 4096;
    const STRIPES: u64 = 4000;
    const SLOTS: u64 = 8;
    if key_len == 0 {
        return 0;
    }
    let slot = (key_len as u64).saturating_mul(STRIPES).div_ceil(UNIT).saturating_mul(UNIT);
    slot.saturating_mul(SLOTS).saturating_add(UNIT)
}
