//! Sizes of op images: the file, and the memory it occupies.

use crate::elf::{Extent, memory_extent};
use crate::image::{self, Kind};
use anyhow::{Context as _, Result};
use std::fs;

/// Most bytes of a stripped op ELF (ADR 0013).
const FILE_LEN_MAX: u64 = 512 << 10;
/// Most bytes of a variant of an op with every codec (ADR 0009).
const FULL_FILE_LEN_MAX: u64 = 1280 << 10;
/// The region for an op image, zero-initialised data included (`instar_abi::layout`).
const REGION: Extent = Extent { start: 0x20_0000, end: 0x64_0000 };

pub fn check() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for path in image::build(Kind::Ops)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = fs::read(&path).with_context(|| path.display().to_string())?;
        findings.extend(judge(&name, file.len() as u64, memory_extent(&file)?));
    }
    Ok(findings)
}

fn judge(name: &str, file_len: u64, memory: Extent) -> Option<String> {
    let max = if name.ends_with("-full") { FULL_FILE_LEN_MAX } else { FILE_LEN_MAX };
    if file_len > max {
        return Some(format!("images/{name}: {file_len} bytes, the limit is {max}"));
    }
    if file_len > max / 100 * 85 {
        println!("tidy: note: images/{name} fills {} % of its {max} bytes", file_len * 100 / max);
    }
    (memory.start < REGION.start || memory.end > REGION.end)
        .then(|| format!("images/{name}: memory {:#x}..{:#x} leaves its region", memory.start, memory.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_past_a_limit_are_findings() {
        let inside = Extent { start: REGION.start, end: REGION.end };
        assert_eq!(judge("info", FILE_LEN_MAX, inside), None);
        assert!(judge("info", FILE_LEN_MAX + 1, inside).is_some());
        assert_eq!(judge("convert-full", FILE_LEN_MAX + 1, inside), None);
        assert!(judge("convert-full", FULL_FILE_LEN_MAX + 1, inside).is_some());
        assert!(judge("info", 1, Extent { start: REGION.start, end: REGION.end + 1 }).is_some());
        assert!(judge("info", 1, Extent { start: REGION.start - 1, end: REGION.end }).is_some());
    }
}
