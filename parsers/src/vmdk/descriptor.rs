//! The text that describes a VMDK: identifiers, the layer below, and where the content is.
//!
//! ```text
//! # Disk DescriptorFile
//! version=1
//! CID=1a6dde02
//! parentCID=c1cc1356
//! createType="twoGbMaxExtentFlat"
//! parentFileNameHint="base.vmdk"
//! RW 4192256 FLAT "top-f001.vmdk" 0
//! RW 2048 ZERO
//! ```

use alloc::vec::Vec;

/// Identifier of "no parent", and of content that has none.
pub const NO_ID: u32 = u32::MAX;
/// Longest name of a layer below, in bytes.
const NAME_LEN_MAX: usize = 1023;
/// Longest kind of an image, in bytes, as in QEMU.
const KIND_LEN_MAX: usize = 127;
/// Longest name of a file with content, in bytes, as in QEMU.
const FILE_NAME_LEN_MAX: usize = 511;

/// What a descriptor says of the image.
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
        let text = c_string(text);
        let id = |key| after(text, key).map_or(NO_ID, hexadecimal);
        let parent = match after(text, b"parentFileNameHint=\"") {
            None => None,
            Some(rest) => Some(quoted(rest, NAME_LEN_MAX).ok_or(BadName)?.to_vec()).filter(|name| !name.is_empty()),
        };
        Ok(Self { id: id(b"CID="), parent_id: id(b"parentCID="), parent })
    }
}

/// The kind of the image; `None`: the descriptor does not say.
pub fn create_type(text: &[u8]) -> Option<&[u8]> {
    quoted(after(c_string(text), b"createType=\"")?, KIND_LEN_MAX)
}

/// A part of the content, as its line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Sectors.
    pub sectors: u64,
    /// What it is.
    pub kind: LineKind,
}

/// What a part of the content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Zeros, in no file.
    Zero,
    /// Bytes as they are, from this sector of the file on.
    Flat {
        /// The file.
        name: Vec<u8>,
        /// The sector.
        offset: u64,
        /// On ESX's own file system.
        is_vmfs: bool,
    },
    /// Grains; the file tells which form.
    Sparse {
        /// The file.
        name: Vec<u8>,
        /// On ESX's own file system.
        is_vmfs: bool,
    },
    /// Space-efficient grains.
    SeSparse {
        /// The file.
        name: Vec<u8>,
    },
}

impl LineKind {
    /// The word of the line.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Zero => "ZERO",
            Self::Flat { is_vmfs: false, .. } => "FLAT",
            Self::Flat { is_vmfs: true, .. } => "VMFS",
            Self::Sparse { is_vmfs: false, .. } => "SPARSE",
            Self::Sparse { is_vmfs: true, .. } => "VMFSSPARSE",
            Self::SeSparse { .. } => "SESPARSE",
        }
    }

    /// The file.
    pub fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Zero => None,
            Self::Flat { name, .. } | Self::Sparse { name, .. } | Self::SeSparse { name } => Some(name),
        }
    }
}

/// Why a line that looks like an extent is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// It does not read as one.
    Broken,
    /// Nobody may read it.
    NoAccess,
}

/// Every line of a descriptor that is an extent, or looks like one, with its number from 1.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (u32, Result<Line, LineError>)> {
    let lines = c_string(text).split(|&byte| byte == b'\n');
    (1u32..).zip(lines).filter_map(|(number, line)| Some((number, parse_line(line)?)))
}

/// `None`: the line is something else.
fn parse_line(line: &[u8]) -> Option<Result<Line, LineError>> {
    let (access, rest) = word(line);
    let is_readable = match access {
        b"RW" | b"RDONLY" => true,
        b"NOACCESS" => false,
        _ => return None,
    };
    let (sectors, rest) = word(rest);
    let sectors = match decimal(sectors) {
        Some(0) => return None,
        Some(sectors) => sectors,
        None => return Some(Err(LineError::Broken)),
    };
    if !is_readable {
        return Some(Err(LineError::NoAccess));
    }
    let (kind, rest) = word(rest);
    if kind == b"ZERO" {
        return Some(Ok(Line { sectors, kind: LineKind::Zero }));
    }
    let kind = file_line(kind, rest.trim_ascii());
    Some(kind.map(|kind| Line { sectors, kind }).ok_or(LineError::Broken))
}

fn file_line(kind: &[u8], rest: &[u8]) -> Option<LineKind> {
    let name = quoted(rest.strip_prefix(b"\"")?, FILE_NAME_LEN_MAX).filter(|name| !name.is_empty())?;
    let offset = rest.get(name.len().saturating_add(2)..).unwrap_or_default().trim_ascii();
    let (name, is_plain) = (name.to_vec(), offset.is_empty());
    match kind {
        b"FLAT" => Some(LineKind::Flat { name, offset: decimal(offset)?, is_vmfs: false }),
        b"VMFS" if is_plain => Some(LineKind::Flat { name, offset: 0, is_vmfs: true }),
        b"SPARSE" | b"VMFSSPARSE" if is_plain => Some(LineKind::Sparse { name, is_vmfs: kind == b"VMFSSPARSE" }),
        b"SESPARSE" if is_plain => Some(LineKind::SeSparse { name }),
        _ => None,
    }
}

/// It is a C string.
fn c_string(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// What follows the first place where the key stands.
fn after<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(key.len()).position(|window| window == key)?;
    text.get(at.saturating_add(key.len())..)
}

/// What stands before the next quotation mark; `None`: none does, or too much.
fn quoted(text: &[u8], len_max: usize) -> Option<&[u8]> {
    let len = text.iter().position(|&byte| byte == b'"').filter(|len| *len <= len_max)?;
    text.get(..len)
}

/// The first word of a line, and what follows it.
fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.trim_ascii_start();
    let len = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    line.split_at_checked(len).unwrap_or_default()
}

/// A decimal number that fits 63 bits.
fn decimal(text: &[u8]) -> Option<u64> {
    let number = str::from_utf8(text).ok()?.parse::<i64>().ok()?;
    u64::try_from(number).ok()
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
        assert_eq!(create_type(b"x\ncreateType=\"vmfs\"\n"), Some(&b"vmfs"[..]));
        assert_eq!(create_type(b"createType=vmfs\n"), None);
        assert_eq!(create_type(b"createType=\"vmfs"), None);
    }

    #[test]
    fn lines_of_extents_are_told_from_others() {
        let name = || b"a b.vmdk".to_vec();
        let flat = |offset, is_vmfs| LineKind::Flat { name: name(), offset, is_vmfs };
        let ok = |sectors, kind| Some(Ok(Line { sectors, kind }));
        let broken = Some(Err(LineError::Broken));
        for (line, expected) in [
            ("RW 100 FLAT \"a b.vmdk\" 7", ok(100, flat(7, false))),
            ("  RDONLY\t100  FLAT\t\"a b.vmdk\"\t0 \r", ok(100, flat(0, false))),
            ("RW 100 VMFS \"a b.vmdk\"", ok(100, flat(0, true))),
            ("RW 9 SPARSE \"a b.vmdk\"", ok(9, LineKind::Sparse { name: name(), is_vmfs: false })),
            ("RW 9 VMFSSPARSE \"a b.vmdk\"", ok(9, LineKind::Sparse { name: name(), is_vmfs: true })),
            ("RW 9 SESPARSE \"a b.vmdk\"", ok(9, LineKind::SeSparse { name: name() })),
            ("RW 9 ZERO", ok(9, LineKind::Zero)),
            ("RW 0 ZERO", None),
            ("# RW 9 ZERO", None),
            ("RWX 9 ZERO", None),
            ("CID=7", None),
            ("", None),
            ("NOACCESS 9 FLAT \"a b.vmdk\" 0", Some(Err(LineError::NoAccess))),
            ("RW 9 FLAT \"a b.vmdk\"", broken.clone()),
            ("RW 9 FLAT \"a b.vmdk\" -1", broken.clone()),
            ("RW 9 FLAT \"a b.vmdk", broken.clone()),
            ("RW 9 FLAT \"\" 0", broken.clone()),
            ("RW -9 FLAT \"a b.vmdk\" 0", broken.clone()),
            ("RW 9223372036854775808 FLAT \"a b.vmdk\" 0", broken.clone()),
            ("RW 9 VMFS \"a b.vmdk\" 0", broken.clone()),
            ("RW 9 VMFSRDM \"a b.vmdk\"", broken),
        ] {
            assert_eq!(parse_line(line.as_bytes()), expected, "{line}");
        }
        let long = format!("RW 9 VMFS \"{}\"", "x".repeat(512));
        assert_eq!(parse_line(long.as_bytes()), Some(Err(LineError::Broken)));
        let found: Vec<_> = lines(b"#\nRW 1 ZERO\n\nRW 2 ZERO\0\nRW 3 ZERO").map(|(number, _)| number).collect();
        assert_eq!(found, [2, 4]);
    }
}
