//! `-o` of LUKS, as far as it decides how much room a header takes: by the length of the key alone.
#![forbid(unsafe_code)]

use super::grammar::{Parsed, UsageError};
use crate::render::escape::shown;
use std::ffi::OsStr;

/// Options that LUKS and a qcow2 that is encrypted with it share.
const OPTIONS: [&str; 7] =
    ["key-secret", "cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg", "iter-time"];
/// Ciphers and bytes of their keys.
const CIPHERS: [(&[u8], u32); 10] = [
    (b"aes-128", 16),
    (b"aes-192", 24),
    (b"aes-256", 32),
    (b"cast5-128", 16),
    (b"serpent-128", 16),
    (b"serpent-192", 24),
    (b"serpent-256", 32),
    (b"twofish-128", 16),
    (b"twofish-192", 24),
    (b"twofish-256", 32),
];
/// The values of the other options.
const VALUES: [(&str, &[&[u8]]); 4] = [
    ("cipher-mode", &[b"ecb", b"cbc", b"xts", b"ctr"]),
    ("ivgen-alg", &[b"plain", b"plain64", b"essiv"]),
    ("ivgen-hash-alg", HASHES),
    ("hash-alg", HASHES),
];
const HASHES: &[&[u8]] = &[b"md5", b"sha1", b"sha224", b"sha256", b"sha384", b"sha512", b"ripemd160", b"sm3"];

/// Bytes of the key that the options ask for. `prefix`: what stands before their names; `given`: name and value, in order.
///
/// # Errors
/// What QEMU says of a value that is none, or of a secret that is missing.
pub(super) fn key_len(parsed: &Parsed, prefix: &str, given: &[(String, Vec<u8>)]) -> Result<u32, UsageError> {
    let value = |key: &str| {
        let full = format!("{prefix}{key}");
        given.iter().rev().find(|(known, _)| *known == full).map(|(_, value)| value.as_slice())
    };
    let refused = |key: &str, value: &[u8]| {
        UsageError::alone(format!("Parameter '{key}' does not accept value '{}'", shown(value)))
    };
    for (key, known) in VALUES {
        if let Some(value) = value(key).filter(|value| !known.contains(value)) {
            return Err(refused(key, value));
        }
    }
    let cipher = value("cipher-alg").unwrap_or(b"aes-256");
    let len = CIPHERS.iter().find(|(name, _)| *name == cipher).map(|(_, len)| *len);
    let len = len.ok_or_else(|| refused("cipher-alg", cipher))?;
    let Some(secret) = value("key-secret") else {
        return Err(UsageError::alone(format!("Parameter '{prefix}key-secret' is required for cipher")));
    };
    if !parsed.all("object").any(|object| defines(object, secret)) {
        return Err(UsageError::alone(format!("No secret with id '{}'", shown(secret))));
    }
    // XTS takes two keys.
    let is_xts = value("cipher-mode").is_none_or(|mode| mode == b"xts");
    Ok(if is_xts { 2 * len } else { len })
}

/// The options of a LUKS volume: names and values, in order.
///
/// # Errors
/// An option that LUKS has not.
pub(super) fn given(parsed: &Parsed) -> Result<Vec<(String, Vec<u8>)>, UsageError> {
    let of_protocol = ["size", "preallocation", "nocow", "extent_size_hint"];
    let mut given = Vec::new();
    for item in parsed.all("options").flat_map(|list| super::create_options::items(list.as_encoded_bytes())) {
        let at = item.iter().position(|&byte| byte == b'=').unwrap_or(item.len());
        let key = String::from_utf8_lossy(&item[..at]).into_owned();
        if key == "detached-header" {
            return Err(UsageError::alone("Parameter 'detached-header' is unexpected"));
        }
        if !OPTIONS.contains(&key.as_str()) && !of_protocol.contains(&key.as_str()) {
            let text = format!("Invalid parameter '{}'", shown(key.as_bytes()));
            return Err(UsageError::alone(text));
        }
        given.push((key, item.get(at + 1..).unwrap_or(b"on").to_vec()));
    }
    Ok(given)
}

/// Whether an `--object` defines the secret `id`.
fn defines(object: &OsStr, id: &[u8]) -> bool {
    let wanted = [b"id=", id].concat();
    object.as_encoded_bytes().split(|&byte| byte == b',').any(|item| item == wanted)
}
