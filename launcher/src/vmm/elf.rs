//! The op image: a static PVH ELF of our own making.
//!
//! Images come with the launcher, or from a path the user named. They are checked all the same: a
//! wrong one must give a sentence, not a crash.

use instar_abi::layout;

/// A checked op image: its segments lie in the image region and in the file.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    /// PVH entry point.
    pub entry: u64,
    /// Build id in the instar note.
    pub build_id: [u8; 32],
    /// Bytes of each loadable segment and where they go.
    pub segments: Vec<Segment<'a>>,
}

/// One loadable segment. Memory past its bytes is zero already.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes from the file.
    pub bytes: &'a [u8],
    /// Bytes in memory, zero-initialised ones included.
    pub memory_len: u64,
}

/// Why bytes are no op image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElfError {
    /// Not a 64-bit little-endian x86-64 executable.
    NotAnImage,
    /// A header, segment or note runs past the file.
    Truncated,
    /// A segment lies outside the image region.
    Segment {
        /// Its address.
        address: u64,
    },
    /// There is no PVH entry point, or it lies outside the image.
    NoEntry,
    /// There is no instar note.
    NoBuildId,
}

const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PVH_ENTRY: u32 = 18;
const INSTAR_BUILD_ID: u32 = 1;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
fn range(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(len)?).ok()?)
}

impl<'a> Image<'a> {
    /// Checks an ELF file.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(file: &'a [u8]) -> Result<Self, ElfError> {
        const MACHINE_X86_64: u16 = 62;
        if !file.starts_with(b"\x7fELF\x02\x01") || u16_at(file, 18) != Some(MACHINE_X86_64) {
            return Err(ElfError::NotAnImage);
        }
        let table = u64_at(file, 32).ok_or(ElfError::Truncated)?;
        let entry_len = u64::from(u16_at(file, 54).ok_or(ElfError::Truncated)?);
        let count = u64::from(u16_at(file, 56).ok_or(ElfError::Truncated)?);
        let (mut segments, mut entry, mut build_id) = (Vec::new(), None, None);
        for index in 0..count {
            let header = table
                .checked_add(index * entry_len)
                .and_then(|at| range(file, at, entry_len))
                .ok_or(ElfError::Truncated)?;
            let field = |at| u64_at(header, at).ok_or(ElfError::Truncated);
            let (offset, address, file_len, memory_len) = (field(8)?, field(24)?, field(32)?, field(40)?);
            let bytes = range(file, offset, file_len).ok_or(ElfError::Truncated)?;
            match u32_at(header, 0) {
                Some(LOAD) => {
                    let end = address.checked_add(memory_len.max(file_len));
                    if address < layout::IMAGE || end.is_none_or(|end| end > layout::IMAGE_END) {
                        return Err(ElfError::Segment { address });
                    }
                    segments.push(Segment { address, bytes, memory_len });
                }
                Some(NOTE) => notes(bytes, |name, kind, descriptor| match (name, kind) {
                    (b"Xen\0", PVH_ENTRY) => entry = u64_at(descriptor, 0),
                    (b"instar\0", INSTAR_BUILD_ID) => build_id = descriptor.first_chunk().copied(),
                    _ => {}
                }),
                _ => {}
            }
        }
        let entry =
            entry.filter(|entry| (layout::IMAGE..layout::IMAGE_END).contains(entry)).ok_or(ElfError::NoEntry)?;
        Ok(Self { entry, build_id: build_id.ok_or(ElfError::NoBuildId)?, segments })
    }
}

/// Hands every note's name, type and descriptor to `each`; stops at the first that does not fit.
fn notes(mut bytes: &[u8], mut each: impl FnMut(&[u8], u32, &[u8])) {
    let padded = |len: u32| (u64::from(len)).next_multiple_of(4);
    while let (Some(name_len), Some(descriptor_len), Some(kind)) =
        (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8))
    {
        let descriptor_at = 12 + padded(name_len);
        let (Some(name), Some(descriptor)) =
            (range(bytes, 12, name_len.into()), range(bytes, descriptor_at, descriptor_len.into()))
        else {
            return;
        };
        each(name, kind, descriptor);
        let next = usize::try_from(descriptor_at + padded(descriptor_len)).unwrap_or(usize::MAX);
        bytes = bytes.get(next..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal image: one segment at `address`, a PVH note, an instar note.
    fn image(address: u64, entry: u64) -> Vec<u8> {
        let mut file = vec![0; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = 2;
        let notes_at = file.len();
        let mut note = |name: &[u8], kind: u32, descriptor: &[u8]| {
            file.extend((name.len() as u32).to_le_bytes());
            file.extend((descriptor.len() as u32).to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(name);
            file.resize(file.len().next_multiple_of(4), 0);
            file.extend(descriptor);
        };
        note(b"Xen\0", 18, &entry.to_le_bytes());
        note(b"instar\0", 1, &[7; 32]);
        let notes_len = file.len() - notes_at;
        let mut header = |index: usize, kind: u32, offset: usize, len: usize, address: u64| {
            let at = 64 + index * 56;
            file[at..at + 4].copy_from_slice(&kind.to_le_bytes());
            for (field, value) in [(8, offset as u64), (24, address), (32, len as u64), (40, len as u64 + 100)] {
                file[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
            }
        };
        header(0, 1, 0, 64, address);
        header(1, 4, notes_at, notes_len, 0);
        file
    }

    #[test]
    fn a_good_image_is_taken_apart() {
        let file = image(layout::IMAGE, layout::IMAGE + 16);
        let image = Image::parse(&file).expect("good");
        assert_eq!((image.entry, image.build_id, image.segments.len()), (layout::IMAGE + 16, [7; 32], 1));
        assert_eq!(image.segments[0].memory_len, 164);
    }

    #[test]
    fn segments_and_entries_outside_the_region_are_refused() {
        for address in [0, layout::IMAGE - 1, layout::IMAGE_END - 100, u64::MAX - 8] {
            let file = image(address, layout::IMAGE);
            assert_eq!(Image::parse(&file).err(), Some(ElfError::Segment { address }));
        }
        let file = image(layout::IMAGE, layout::IMAGE_END);
        assert_eq!(Image::parse(&file).err(), Some(ElfError::NoEntry));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let file = image(layout::IMAGE, layout::IMAGE);
        for len in 0..file.len() {
            assert!(Image::parse(&file[..len]).is_err(), "{len}");
        }
    }
}
