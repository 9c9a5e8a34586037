//! The parent of a differencing disk, as one of several systems would name it.

use super::wire::{self, DynamicHeader, Locator};
use crate::image::{beside, text_of_utf16};
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::error::Error;
use instar_abi::request::DiskId;

/// The file beside the image that is the parent: by the relative path, the absolute one, the name in the header, or the URL.
/// `None`: none of them names a file.
///
/// # Errors
/// Those of the reads.
pub fn name(io: &mut dyn ReadAt, disk: DiskId, header: &DynamicHeader) -> Result<Option<Vec<u8>>, Error> {
    for platform in [wire::WINDOWS_RELATIVE, wire::WINDOWS_ABSOLUTE] {
        if let Some(words) = words(io, disk, header, platform)? {
            let units = words.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
            if let Some(name) = beside(&text_of_utf16(units)) {
                return Ok(Some(name));
            }
        }
    }
    let units = header.parent_name.as_chunks::<2>().0.iter().map(|unit| u16::from_be_bytes(*unit));
    if let Some(name) = beside(&text_of_utf16(units)) {
        return Ok(Some(name));
    }
    let url = words(io, disk, header, wire::MAC_URL)?.unwrap_or_default();
    let path = url.strip_prefix(b"file://").and_then(|path| path.split(|&byte| byte == 0).next());
    Ok(path.and_then(|path| beside(str::from_utf8(path).ok()?)))
}

/// The words of a system's locator, where there is one.
fn words(
    io: &mut dyn ReadAt,
    disk: DiskId,
    header: &DynamicHeader,
    platform: [u8; 4],
) -> Result<Option<Vec<u8>>, Error> {
    let is_it = |locator: &&Locator| locator.platform == platform && locator.len.get() > 0;
    let Some(locator) = header.locators.iter().find(is_it) else { return Ok(None) };
    let len = locator.len.get().min(wire::LOCATOR_LEN_MAX);
    let words = io.read_vec(disk, locator.offset.get(), usize::try_from(len).unwrap_or(0))?;
    io.budget().give_heap(len.into());
    Ok(Some(words))
}
