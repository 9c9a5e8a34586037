//! What tidy wants to know of an op image.

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
    let field = |at: usize, len: usize| -> Result<u64> {
        let bytes = file.get(at..at + len).context("truncated ELF file")?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    if !file.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit ELF file");
    }
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
}
