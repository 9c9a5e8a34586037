//! The parent of a differencing disk: pairs of a key and a value.
//!
//! # Source
//! MS-VHDX, section 2.6.2.6.

use super::wire::{self, Pair, ParentLocator};
use crate::image::{Layered, beside, text_of_utf16};
use crate::store::ReadAt;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{BlockError, Error, Structure};
use instar_abi::request::DiskId;
use zerocopy::FromBytes;

/// Most bytes of the item, as of any.
const LEN_MAX: u64 = 1 << 20;
/// Most pairs: five keys are known.
const PAIRS_MAX: u16 = 256;

/// Where a parent is, and what its content was.
pub struct Parent {
    /// The file, as a name that is read beside the image.
    pub name: Vec<u8>,
    /// Identifiers one of which the parent's content has.
    pub ids: Vec<[u8; 16]>,
}

/// Reads the locator.
///
/// # Errors
/// [`BlockError::Magic`], [`BlockError::Entry`]: it is none, or a pair leaves it. [`BlockError::Differencing`]: it names no file,
/// or does not say which content. Those of the reads.
pub fn read(io: &mut dyn ReadAt, layered: Layered, disk: DiskId, item: &Range<u64>) -> Result<Parent, Error> {
    let len = item.end.saturating_sub(item.start);
    layered.check(len <= LEN_MAX, BlockError::Truncated { structure: Structure::Locator })?;
    let bytes = io.read_vec(disk, item.start, usize::try_from(len).unwrap_or(0))?;
    let broken = layered.error(BlockError::Magic { structure: Structure::Locator });
    let Ok((head, pairs)) = ParentLocator::read_from_prefix(&bytes) else { return Err(broken) };
    if head.kind != wire::LOCATOR_KIND || head.count.get() > PAIRS_MAX {
        return Err(broken);
    }
    let mut found: Vec<(String, String)> = Vec::new();
    let mut pairs = pairs.chunks_exact(size_of::<Pair>());
    for index in 0..u64::from(head.count.get()) {
        let pair = pairs.next().and_then(|pair| Pair::read_from_bytes(pair).ok());
        let both = pair.and_then(|pair| {
            let text = |offset: u32, len: u16| {
                let rest = bytes.get(usize::try_from(offset).ok()?..)?.get(..len.into())?;
                Some(text_of_utf16(rest.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit))))
            };
            let key = text(pair.key_offset.get(), pair.key_len.get())?;
            Some((key, text(pair.value_offset.get(), pair.value_len.get())?))
        });
        let error = BlockError::Entry { structure: Structure::Locator, index, found: head.count.get().into() };
        found.push(both.ok_or(layered.error(error))?);
    }
    io.budget().give_heap(len);
    let value = |key: &str| found.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let paths = ["relative_path", "absolute_win32_path", "volume_path"];
    let name = paths.into_iter().find_map(|key| beside(value(key)?));
    let ids: Vec<_> = ["parent_linkage", "parent_linkage2"].into_iter().filter_map(|key| guid(value(key)?)).collect();
    match name {
        Some(name) if !ids.is_empty() => Ok(Parent { name, ids }),
        _ => Err(layered.error(BlockError::Differencing)),
    }
}

/// A GUID as it lies on disk, of its text in braces, in either case.
fn guid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'{' | b'}' | b'-')).collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut bytes = [0; 16];
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    let [i, j, k, l, m, n, o, p] = rest;
    // Three little-endian fields, and eight bytes.
    Some([d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_read_in_either_case() {
        let expected = *b"\x04\x03\x02\x01\x06\x05\x08\x07\x09\x0a\x0b\x0c\x0d\x0e\x0f\xAB";
        assert_eq!(guid("{01020304-0506-0708-090a-0b0c0d0e0fab}"), Some(expected));
        assert_eq!(guid("01020304-0506-0708-090A-0B0C0D0E0FAB"), Some(expected));
        for text in ["", "{01020304-0506-0708-090a-0b0c0d0e0f}", "{01020304-0506-0708-090a-0b0c0d0e0fxy}"] {
            assert_eq!(guid(text), None, "{text}");
        }
    }
}
