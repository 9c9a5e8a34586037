//! The text that describes a VMDK: identifiers, and the layer below.
//!
//! ```text
//! # Disk DescriptorFile
//! version=1
//! CID=1a6dde02
//! parentCID=c1cc1356
//! createType="monolithicSparse"
//! parentFileNameHint="base.vmdk"
//! RW 10240 SPARSE "top.vmdk"
//! ```

use alloc::vec::Vec;

/// Identifier of "no parent", and of content that has none.
pub const NO_ID: u32 = u32::MAX;
/// Longest name of a layer below, in bytes.
const NAME_LEN_MAX: usize = 1023;

/// What a descriptor says, as far as it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Identifier of the content.
    pub id: u32,
    /// Identifier that the layer below had.
    pub parent_id: u32,
    /// Name of the layer below.
    pub parent: Option<Vec<u8>>,
}

/// A name without its end, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadName;

impl Descriptor {
    /// Reads a descriptor, as QEMU looks things up in it: by the first place where the key stands.
    ///
    /// # Errors
    /// [`BadName`].
    pub fn parse(text: &[u8]) -> Result<Self, BadName> {
        // It is a C string.
        let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
        let after = |key: &[u8]| {
            text.windows(key.len())
                .position(|window| window == key)
                .and_then(|at| text.get(at.saturating_add(key.len())..))
        };
        let id = |key| after(key).map_or(NO_ID, hexadecimal);
        let parent = match after(b"parentFileNameHint=\"") {
            None => None,
            Some(rest) => {
                let len = rest.iter().position(|&byte| byte == b'"').filter(|len| *len <= NAME_LEN_MAX);
                let name = len.and_then(|len| rest.get(..len)).ok_or(BadName)?;
                Some(name.to_vec()).filter(|name| !name.is_empty())
            }
        };
        Ok(Self { id: id(b"CID="), parent_id: id(b"parentCID="), parent })
    }
}

/// A hexadecimal number at the start of a text.
fn hexadecimal(text: &[u8]) -> u32 {
    let digits = text.iter().map_while(|&byte| char::from(byte).to_digit(16)).take(8);
    digits.fold(0, |number, digit| number << 4 | digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_wherever_they_stand() {
        let text = b"# Disk DescriptorFile\nversion=1\nCID=1a6dde02\nparentCID=c1cc1356\nparentFileNameHint=\"a b.vmdk\"\n\0CID=9";
        let expected = Descriptor { id: 0x1a6d_de02, parent_id: 0xc1cc_1356, parent: Some(b"a b.vmdk".to_vec()) };
        assert_eq!(Descriptor::parse(text), Ok(expected));
        let nothing = Descriptor { id: NO_ID, parent_id: NO_ID, parent: None };
        assert_eq!(Descriptor::parse(b""), Ok(nothing.clone()));
        assert_eq!(Descriptor::parse(b"parentFileNameHint=\"\""), Ok(nothing));
        assert_eq!(Descriptor::parse(b"parentFileNameHint=\"abc"), Err(BadName));
        let long = [b"parentFileNameHint=\"".as_slice(), &[b'x'; 1024], b"\""].concat();
        assert_eq!(Descriptor::parse(&long), Err(BadName));
    }
}
