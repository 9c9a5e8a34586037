//! The format extension: a cluster of features, of which QEMU knows one, dirty bitmaps.
//!
//! ```text
//! magic, MD5 of the rest | feature: kind, flags, length | its bytes, to a multiple of 8 | … | a feature of kind 0
//! ```
//!
//! No content is in it, and nothing that reads content needs it. An image whose extension is damaged is refused all the same,
//! as by QEMU: whoever writes it anew would lose what it says.
//!
//! # Source
//! QEMU, `docs/interop/parallels.rst`, "Format Extension"; what is refused as QEMU 10.0's `block/parallels-ext.c`.

use super::wire::{BitmapFeature, ExtensionHeader, Feature};
use crate::image::Layered;
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::error::{BlockError, Error, Structure};
use instar_abi::request::DiskId;
use md5::{Digest as _, Md5};

const MAGIC: u64 = 0xab23_4cef_23dc_ea87;
/// The feature behind the last one.
const END: u64 = 0;
const DIRTY_BITMAP: u64 = 0x2038_5fae_252c_b34a;
/// Bytes that are read at a time.
const CHUNK_LEN: usize = 4096;

/// The image that an extension is of.
pub(super) struct Extended {
    pub(super) layered: Layered,
    pub(super) disk: DiskId,
    pub(super) block_size: u64,
    /// Sectors of the disk.
    pub(super) sectors: u64,
}

/// Checks the extension in the cluster at a byte of the file.
///
/// # Errors
/// [`Error::Block`] of [`Structure::Extension`]; those of the reads.
pub(super) fn check(io: &mut dyn ReadAt, image: &Extended, at: u64) -> Result<(), Error> {
    let error = |error| image.layered.error(error);
    let structure = Structure::Extension;
    let header: ExtensionHeader = io.read_wire(image.disk, at)?;
    image.layered.check(header.magic.get() == MAGIC, BlockError::Magic { structure })?;
    let end = at.saturating_add(image.block_size);
    let mut at = at.saturating_add(size_of::<ExtensionHeader>() as u64);
    let sum = md5_of(io, image.disk, at, end)?;
    image.layered.check(sum == header.checksum, BlockError::Checksum { structure })?;
    let mut bitmaps = Vec::new();
    for index in 0.. {
        let wrong = |found| error(BlockError::Entry { structure, index, found });
        let left = end.saturating_sub(at);
        io.budget().take_steps(1)?;
        if left < size_of::<Feature>() as u64 {
            return Err(wrong(left));
        }
        let feature: Feature = io.read_wire(image.disk, at)?;
        at = at.saturating_add(size_of::<Feature>() as u64);
        let len = u64::from(feature.len.get());
        let padded = len.next_multiple_of(8);
        image
            .layered
            .check(feature.flags.get() == 0, BlockError::Entry { structure, index, found: feature.flags.get() })?;
        if padded > end.saturating_sub(at) {
            return Err(wrong(len));
        }
        match feature.kind.get() {
            END => break,
            DIRTY_BITMAP => bitmaps.push(bitmap(io, image, at, len)?.ok_or(wrong(len))?),
            unknown => return Err(error(BlockError::Features { unknown })),
        }
        at = at.saturating_add(padded);
    }
    // Bitmaps are told apart by their identifiers.
    bitmaps.sort_unstable();
    let twice = bitmaps.array_windows().any(|[a, b]| a == b);
    image.layered.check(!twice, BlockError::Entry { structure, index: 0, found: 0 })
}

/// The identifier of a bitmap whose feature has `len` bytes at `at`; `None`: it does not fit the disk.
fn bitmap(io: &mut dyn ReadAt, image: &Extended, at: u64, len: u64) -> Result<Option<[u8; 16]>, Error> {
    let Some(table_len) = len.checked_sub(size_of::<BitmapFeature>() as u64) else { return Ok(None) };
    let feature: BitmapFeature = io.read_wire(image.disk, at)?;
    let (granularity, entries) = (u64::from(feature.granularity.get()), u64::from(feature.entries.get()));
    // 512 bytes to 2 GiB.
    if feature.sectors.get() != image.sectors || !granularity.is_power_of_two() || granularity > 1 << 22 {
        return Ok(None);
    }
    // A bit a granule, in words of 64, in clusters.
    let words = image.sectors.div_ceil(granularity).div_ceil(64);
    let clusters = words.saturating_mul(8).div_ceil(image.block_size);
    let fits = entries == clusters && entries.saturating_mul(8) <= table_len;
    Ok(fits.then_some(feature.id))
}

fn md5_of(io: &mut dyn ReadAt, disk: DiskId, mut at: u64, end: u64) -> Result<[u8; 16], Error> {
    let mut digest = Md5::new();
    let mut chunk = [0; CHUNK_LEN];
    while at < end {
        let len = end.saturating_sub(at).min(CHUNK_LEN as u64);
        let Some(chunk) = usize::try_from(len).ok().and_then(|len| chunk.get_mut(..len)) else { break };
        io.read_padded(disk, at, chunk)?;
        digest.update(chunk);
        at = at.saturating_add(len);
    }
    Ok(digest.finalize().into())
}
