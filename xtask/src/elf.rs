//! What tidy wants to know of an op image, and coverage of a fuzz target.

use anyhow::{Context as _, Result, bail};

/// Where an image's loadable segments lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Lowest address.
    pub start: u64,
    /// End, zero-initialised data included.
    pub end: u64,
}

/// The memory extent of an ELF file's loadable segments.
///
/// # Errors
/// Not an ELF file, or one without loadable segments.
pub fn memory_extent(file: &[u8]) -> Result<Extent> {
    let field = fields(file)?;
    let (table, entry_len, count) = (field(32, 8)? as usize, field(54, 2)? as usize, field(56, 2)? as usize);
    let mut extent: Option<Extent> = None;
    for index in 0..count {
        let header = table + index * entry_len;
        const LOAD: u64 = 1;
        if field(header, 4)? == LOAD {
            let (start, len) = (field(header + 24, 8)?, field(header + 40, 8)?);
            let end = start.checked_add(len).context("a segment overflows")?;
            let so_far = extent.unwrap_or(Extent { start, end });
            extent = Some(Extent { start: so_far.start.min(start), end: so_far.end.max(end) });
        }
    }
    extent.context("no loadable segment")
}

/// The bytes of a section; none where the file has no such section.
///
/// # Errors
/// Not an ELF file, or one whose tables point past its end.
pub fn section<'a>(file: &'a [u8], name: &str) -> Result<&'a [u8]> {
    let field = fields(file)?;
    let (table, entry_len) = (field(40, 8)? as usize, field(58, 2)? as usize);
    let (count, names) = (field(60, 2)? as usize, field(62, 2)? as usize);
    let bytes = |index: usize| -> Result<&'a [u8]> {
        let header = table + index * entry_len;
        let (at, len) = (field(header + 24, 8)? as usize, field(header + 32, 8)? as usize);
        file.get(at..at.saturating_add(len)).context("truncated ELF file")
    };
    let names = bytes(names)?;
    for index in 0..count {
        let at = field(table + index * entry_len, 4)? as usize;
        let found = names.get(at..).and_then(|names| names.split(|byte| *byte == 0).next());
        if found == Some(name.as_bytes()) {
            return bytes(index);
        }
    }
    Ok(&[])
}

/// Reads a little-endian number of a file's at a place, of a length.
fn fields(file: &[u8]) -> Result<impl Fn(usize, usize) -> Result<u64>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit ELF file");
    }
    Ok(|at: usize, len: usize| {
        let bytes = file.get(at..at.saturating_add(len)).context("truncated ELF file")?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file of one loadable segment: `file_len` bytes in the file, `memory_len` in memory.
    fn elf(address: u64, file_len: u64, memory_len: u64) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 1;
        file[64 + 24..64 + 32].copy_from_slice(&address.to_le_bytes());
        file[64 + 32..64 + 40].copy_from_slice(&file_len.to_le_bytes());
        file[64 + 40..64 + 48].copy_from_slice(&memory_len.to_le_bytes());
        file
    }

    #[test]
    fn zero_initialised_data_counts_towards_the_limit() {
        let extent = memory_extent(&elf(0x20_0000, 0x1000, 0x30_0000)).expect("an ELF file");
        assert_eq!(extent, Extent { start: 0x20_0000, end: 0x50_0000 });
    }

    #[test]
    fn truncated_and_foreign_files_are_refused() {
        let file = elf(0x20_0000, 1, 1);
        // What is read ends with the segment's length in memory; its alignment follows.
        for len in 0..64 + 48 {
            assert!(memory_extent(&file[..len]).is_err(), "{len}");
        }
        assert!(memory_extent(&[0; 200]).is_err());
    }

    #[test]
    fn a_section_is_found_by_its_name() {
        let mut file = elf(0, 0, 0);
        // Two sections, of 64 bytes each in their table: the names, and three bytes in front of the table.
        let (names, at) = (b"\0.names\0.x\0", 64 + 56);
        file.extend_from_slice(b"abc");
        file.extend_from_slice(names);
        let table = file.len();
        for (name, at, len) in [(1_u32, at + 3, names.len()), (8, at, 3)] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(len as u64).to_le_bytes());
            file.extend_from_slice(&header);
        }
        file[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        (file[58], file[60]) = (64, 2);
        assert_eq!(section(&file, ".x").expect("an ELF file"), b"abc");
        assert_eq!(section(&file, ".names").expect("an ELF file"), names);
        assert_eq!(section(&file, ".y").expect("an ELF file"), b"");
        assert!(section(&file[..file.len() - 40], ".x").is_err());
    }
}
