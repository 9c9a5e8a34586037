//! Header extensions: a list of typed, 8-aligned pieces between header and backing file name.

use super::header::{Crypt, Header};
use super::limits;
use super::wire::{self, extension};
use crate::align;
use crate::store::ReadAt;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{Error, FeatureName, Qcow2Error};
use instar_abi::request::{DiskId, LayerId};

/// Where the LUKS header is; `offset` is cluster-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CryptoPlace {
    /// First byte.
    pub offset: u64,
    /// Bytes of header and key slots.
    pub len: u64,
}

/// Where the bitmap directory is; `offset` is cluster-aligned, 1 ≤ `count` ≤ 65535, `len` ≤ 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapsPlace {
    /// First byte of the directory.
    pub offset: u64,
    /// Bytes of the directory.
    pub len: u64,
    /// Bitmaps in it.
    pub count: u32,
}

/// What the header extensions say. Unknown ones, and the names of features, are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Name of the backing file's format.
    pub backing_format: Option<Vec<u8>>,
    /// Name of the external data file.
    pub data_file: Option<Vec<u8>>,
    /// Where the LUKS header is.
    pub crypto: Option<CryptoPlace>,
    /// Where the bitmaps are; `None` also when they can't be trusted any more.
    pub bitmaps: Option<BitmapsPlace>,
}

/// One extension: its type and where its data is.
struct Piece {
    kind: u32,
    offset: u64,
    len: u32,
}

/// Goes from extension to extension.
struct Walk {
    at: u64,
    end: u64,
}

impl Walk {
    /// The next extension; `None` at the end.
    fn next(&mut self, io: &mut dyn ReadAt, disk: DiskId) -> Result<Result<Option<Piece>, Qcow2Error>, Error> {
        if self.at >= self.end {
            return Ok(Ok(None));
        }
        io.budget().take_steps(1)?;
        let header: wire::ExtensionHeader = io.read_wire(disk, self.at)?;
        let offset = self.at.saturating_add(size_of_val(&header) as u64);
        let len = header.len.get();
        if self.end.checked_sub(offset).is_none_or(|room| u64::from(len) > room) {
            return Ok(Err(Qcow2Error::ExtensionTooLarge { offset, len }));
        }
        // Both are at most 2 MiB past `offset`, which is within the first cluster.
        self.at = offset.saturating_add(align::up(len.into(), 8).unwrap_or(u64::MAX));
        let kind = header.kind.get();
        Ok(Ok((kind != extension::END).then_some(Piece { kind, offset, len })))
    }
}

impl Extensions {
    /// Reads the extensions of the image on `disk`.
    ///
    /// # Errors
    /// The first extension that QEMU does not accept; those of the reads.
    pub fn read(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId, header: &Header) -> Result<Self, Error> {
        let mut extensions = Self::default();
        let mut walk = Walk { at: header.header_len.into(), end: header.extensions_end.into() };
        loop {
            let refuse = |error| Error::Qcow2 { layer, error };
            let Some(piece) = walk.next(io, disk)?.map_err(refuse)? else { return Ok(extensions) };
            match piece.kind {
                extension::BACKING_FORMAT if piece.len > limits::BACKING_FORMAT_LEN_MAX => {
                    return Err(refuse(Qcow2Error::BackingFormatLen { found: piece.len }));
                }
                extension::BACKING_FORMAT => extensions.backing_format = Some(text(io, disk, &piece)?),
                extension::DATA_FILE => extensions.data_file = Some(text(io, disk, &piece)?),
                extension::CRYPTO => {
                    let wire = io.read_wire(disk, piece.offset)?;
                    extensions.crypto = Some(crypto(&piece, &wire, header).map_err(refuse)?);
                }
                extension::BITMAPS => {
                    let wire = io.read_wire(disk, piece.offset)?;
                    extensions.bitmaps = bitmaps(&piece, &wire, header).map_err(refuse)?;
                }
                _ => {}
            }
        }
    }
}

/// Bytes of an entry of the feature name table.
const FEATURE_NAME_LEN: u32 = size_of::<wire::FeatureName>() as u32;

/// The names of the bits in `unknown`, in the order of the image's table; bits without a name come last.
///
/// # Errors
/// Those of the reads. A broken list of extensions just ends.
pub fn feature_names(
    io: &mut dyn ReadAt,
    disk: DiskId,
    area: Range<u64>,
    mut unknown: u64,
) -> Result<Vec<FeatureName>, Error> {
    let mut names = Vec::new();
    let mut walk = Walk { at: area.start, end: area.end };
    while let Ok(Some(piece)) = walk.next(io, disk)? {
        if piece.kind != extension::FEATURE_NAMES {
            continue;
        }
        let count = piece.len / FEATURE_NAME_LEN;
        for index in 0..count {
            io.budget().take_steps(1)?;
            let at = piece.offset.saturating_add(u64::from(index.saturating_mul(FEATURE_NAME_LEN)));
            let entry: wire::FeatureName = io.read_wire(disk, at)?;
            let name = until_nul(&entry.name);
            if name.is_empty() {
                break;
            }
            let mask = 1u64.checked_shl(entry.bit.into()).unwrap_or(0);
            if entry.kind == 0 && unknown & mask != 0 {
                unknown &= !mask;
                names.push(FeatureName::Named(name.to_vec()));
            }
        }
        break;
    }
    if unknown != 0 {
        names.push(FeatureName::Unnamed(unknown));
    }
    Ok(names)
}

/// Text up to its NUL, as QEMU takes it.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn text(io: &mut dyn ReadAt, disk: DiskId, piece: &Piece) -> Result<Vec<u8>, Error> {
    let bytes = io.read_vec(disk, piece.offset, usize::try_from(piece.len).unwrap_or(0))?;
    Ok(until_nul(&bytes).to_vec())
}

fn crypto(piece: &Piece, wire: &wire::CryptoExtension, header: &Header) -> Result<CryptoPlace, Qcow2Error> {
    if header.crypt() != Crypt::Luks {
        return Err(Qcow2Error::CryptoExtensionUnexpected);
    }
    if piece.len as usize != size_of_val(wire) {
        return Err(Qcow2Error::CryptoExtensionLen { found: piece.len });
    }
    let offset = wire.offset.get();
    if !offset.is_multiple_of(header.cluster_size().into()) {
        return Err(Qcow2Error::CryptoHeaderOffset { found: offset });
    }
    Ok(CryptoPlace { offset, len: wire.length.get() })
}

/// Where the bitmaps are, unless a writer without bitmap support has made them worthless.
fn bitmaps(piece: &Piece, wire: &wire::BitmapsExtension, header: &Header) -> Result<Option<BitmapsPlace>, Qcow2Error> {
    if piece.len as usize != size_of_val(wire) {
        return Err(Qcow2Error::BitmapsExtensionLen { found: piece.len });
    }
    if !header.has_valid_bitmaps() {
        return Ok(None);
    }
    if wire.reserved.get() != 0 {
        return Err(Qcow2Error::BitmapsExtensionReserved);
    }
    let count = wire.nb_bitmaps.get();
    if count == 0 || count > limits::BITMAPS_MAX {
        return Err(Qcow2Error::BitmapCount { found: count });
    }
    let offset = wire.bitmap_directory_offset.get();
    if !offset.is_multiple_of(header.cluster_size().into()) {
        return Err(Qcow2Error::BitmapDirectoryOffset { found: offset });
    }
    let len = wire.bitmap_directory_size.get();
    if len == 0 || len > limits::BITMAP_DIRECTORY_LEN_MAX {
        return Err(Qcow2Error::BitmapDirectoryLen { found: len });
    }
    Ok(Some(BitmapsPlace { offset, len, count }))
}
