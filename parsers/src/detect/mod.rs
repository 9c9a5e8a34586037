//! What format a layer has: one function for every operation and every place in a chain.
//!
//! Head first, then the trailer, then the raw gate. Magic is compared in full, and the version is part of
//! it where versions are formats of their own. A partition table does not hide a trailer. In
//! qemu-img compatibility mode ([`RawGate::Open`]) only what qemu-img's own probes know is looked
//! for, and everything else is raw.

use crate::partition::Record;
use crate::store::{Part, ReadAt};
use alloc::vec::Vec;
use core::ops::{Range, RangeInclusive};
use instar_abi::error::{DetectError, Error};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, Layer, LayerId, RawGate};

/// Bytes at the start that are looked at; also what an opener's first batch fetches.
const HEAD_LEN: usize = 4096;
/// Bytes at the end that are looked at: a VHD footer of 512 or 511 bytes, a DMG trailer of 512.
const TRAILER_LEN: u64 = 1024;
/// Where ISO 9660's first volume descriptor has its identifier: byte 1 of sector 16 of 2048 bytes.
const ISO_IDENTIFIER: Range<u64> = 32769..32774;

const CLOOP_MAGIC: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
const BOCHS_MAGIC: &[u8] = b"Bochs Virtual HD Image\0";
const VDI_MAGIC: u32 = 0xbeda_107f;
const VDI_MAGIC_AT: usize = 0x40;
const KOLY: &[u8] = b"koly";
const CONECTIX: &[u8] = b"conectix";
const LUKS_MAGIC: &[u8] = b"LUKS\xba\xbe";
/// `0xcafebabe`, little-endian, 8 bytes.
const SESPARSE_MAGIC: &[u8] = &[0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0];

/// What is known of a disk's content.
struct Evidence<'a> {
    head: &'a [u8],
    trailer: &'a [u8],
    iso: bool,
}

/// The format of a layer, as the user gave it or as its content tells.
///
/// # Errors
/// [`DetectError::Mismatch`] when the content is not what the user said, [`DetectError::RawGate`]
/// when it is nothing known and may not be taken as raw; a window past its disk; those of the reads.
pub fn detect(io: &mut dyn ReadAt, id: LayerId, layer: &Layer) -> Result<Format, Error> {
    if layer.format == Some(Format::Raw) {
        return Ok(Format::Raw);
    }
    with_evidence(io, id, layer, |evidence| {
        let refused = |error| Err(Error::Detect { layer: id, error });
        match (layer.format, evidence.known(), layer.raw_gate) {
            (Some(given), Some(found), _) if given == found => Ok(given),
            (Some(given), found, _) => refused(DetectError::Mismatch { given, found }),
            (None, _, RawGate::Open) => Ok(evidence.as_qemu_probes()),
            (None, Some(found), RawGate::Partitioned) => Ok(found),
            (None, None, RawGate::Partitioned) if is_partitioned(evidence.head) => Ok(Format::Raw),
            (None, None, RawGate::Partitioned) => refused(DetectError::RawGate),
        }
    })?
}

/// Something in a disk that speaks for a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// The format that it is of; raw: a partition table.
    pub format: Format,
    /// Where in the disk it is.
    pub offset: u64,
}

/// Everything in a layer's disk that speaks for a format, from its start on. More than one format: whoever looks at the
/// disk otherwise takes it for something else.
///
/// # Errors
/// A window past its disk; those of the reads.
pub fn signs(io: &mut dyn ReadAt, id: LayerId, layer: &Layer) -> Result<Vec<Sign>, Error> {
    let len = Part::of(io, id, layer)?.len;
    with_evidence(io, id, layer, |Evidence { head, trailer, iso }| {
        let is_vdi = le32(head, VDI_MAGIC_AT) == Some(VDI_MAGIC);
        let at_start = from_head(head).filter(|&format| format != Format::Vdi);
        let trailer_at = len.saturating_sub(trailer.len() as u64);
        let at_end = trailer_at_end(trailer).map(|(format, at)| (format, trailer_at.saturating_add(at as u64)));
        let found = [
            at_start.map(|format| (format, 0)),
            is_partitioned(head).then_some((Format::Raw, 0)),
            is_vdi.then_some((Format::Vdi, VDI_MAGIC_AT as u64)),
            iso.then_some((Format::Iso, ISO_IDENTIFIER.start)),
            at_end,
        ];
        found.into_iter().flatten().map(|(format, offset)| Sign { format, offset }).collect()
    })
}

/// Shows `look` what is known of a layer's disk.
fn with_evidence<T>(
    io: &mut dyn ReadAt,
    id: LayerId,
    layer: &Layer,
    look: impl FnOnce(&Evidence<'_>) -> T,
) -> Result<T, Error> {
    let disk = layer.disk;
    let part = Part::of(io, id, layer)?;
    let io: &mut dyn ReadAt = &mut part.view(io);
    let len = io.len(disk);
    let head_len = usize::try_from(len).unwrap_or(HEAD_LEN).min(HEAD_LEN);
    let trailer = len.saturating_sub(TRAILER_LEN)..len;
    io.prefetch(&[(disk, 0..head_len as u64), (disk, trailer.clone()), (disk, ISO_IDENTIFIER)])?;
    let head = read_prefix(io, disk, 0, &mut [0; HEAD_LEN], head_len)?;
    let trailer_len = usize::try_from(len.min(TRAILER_LEN)).unwrap_or(0);
    let trailer = read_prefix(io, disk, trailer.start, &mut [0; TRAILER_LEN as usize], trailer_len)?;
    let mut iso = [0; 5];
    io.read_padded(disk, ISO_IDENTIFIER.start, &mut iso)?;
    Ok(look(&Evidence {
        head: head.0.get(..head.1).unwrap_or_default(),
        trailer: trailer.0.get(..trailer.1).unwrap_or_default(),
        iso: iso == *b"CD001",
    }))
}

/// Reads `len` bytes into `buf`, and hands both back.
fn read_prefix<const N: usize>(
    io: &mut dyn ReadAt,
    disk: DiskId,
    offset: u64,
    buf: &mut [u8; N],
    len: usize,
) -> Result<([u8; N], usize), Error> {
    if let Some(bytes) = buf.get_mut(..len) {
        io.read_padded(disk, offset, bytes)?;
    }
    Ok((*buf, len))
}

impl Evidence<'_> {
    /// The format that head or trailer names; `None`: nothing known.
    fn known(&self) -> Option<Format> {
        from_head(self.head).or_else(|| from_trailer(self.trailer)).or(self.iso.then_some(Format::Iso))
    }

    /// The format that qemu-img 10.0's probes find. They know no trailer, no ISO, no seSparse and no LUKS 2.
    fn as_qemu_probes(&self) -> Format {
        match from_head(self.head) {
            Some(Format::Luks) if be16(self.head, 6) != Some(1) => Format::Raw,
            Some(Format::Vmdk) if self.head.starts_with(SESPARSE_MAGIC) => Format::Raw,
            Some(format) => format,
            None => Format::Raw,
        }
    }
}

fn from_head(head: &[u8]) -> Option<Format> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"QFI\xfb") {
        return match be32(head, 4)? {
            0 => None,
            1 => Some(Format::Qcow),
            _ => Some(Format::Qcow2),
        };
    }
    if starts(b"KDMV") || starts(b"COWD") || starts(SESPARSE_MAGIC) || is_vmdk_descriptor(head) {
        return Some(Format::Vmdk);
    }
    if starts(CONECTIX) {
        return Some(Format::Vpc);
    }
    if starts(b"vhdxfile") {
        return Some(Format::Vhdx);
    }
    if le32(head, VDI_MAGIC_AT) == Some(VDI_MAGIC) {
        return Some(Format::Vdi);
    }
    if starts(LUKS_MAGIC) && matches!(be16(head, 6), Some(1 | 2)) {
        return Some(Format::Luks);
    }
    if (starts(b"WithoutFreeSpace") || starts(b"WithouFreSpacExt")) && le32(head, 16) == Some(2) {
        return Some(Format::Parallels);
    }
    if starts(b"QED\0") {
        return Some(Format::Qed);
    }
    if is_bochs(head) {
        return Some(Format::Bochs);
    }
    if starts(CLOOP_MAGIC) {
        return Some(Format::Cloop);
    }
    None
}

fn from_trailer(trailer: &[u8]) -> Option<Format> {
    trailer_at_end(trailer).map(|(format, _)| format)
}

/// The format and where the trailer starts. A fixed VHD has its footer only at the end: 512 bytes, or 511 as older writers left it. A DMG trailer has
/// 512 bytes and may be followed by up to 511 more.
fn trailer_at_end(trailer: &[u8]) -> Option<(Format, usize)> {
    let starts = |backs: RangeInclusive<usize>| backs.rev().filter_map(|back| trailer.len().checked_sub(back));
    let bytes = |at: usize| trailer.get(at..).unwrap_or_default();
    if let Some(at) = starts(511..=512).find(|&at| bytes(at).starts_with(CONECTIX)) {
        return Some((Format::Vpc, at));
    }
    // koly, version 4, header size 512: all of them big-endian.
    let is_koly = |bytes: &[u8]| bytes.starts_with(KOLY) && be32(bytes, 4) == Some(4) && be32(bytes, 8) == Some(512);
    starts(512..=1023).find(|&at| is_koly(bytes(at))).map(|at| (Format::Dmg, at))
}

/// VMware's text descriptor, as QEMU's probe reads it: comments, lines of spaces, then a version of 1 to 3.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    for line in head.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { return false };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let blank = line.first() == Some(&b' ') && line.iter().all(|&byte| byte == b' ');
        if !line.starts_with(b"#") && !blank {
            return matches!(line, b"version=1" | b"version=2" | b"version=3");
        }
    }
    false
}

/// Magic of 32 bytes, then type "Redolog" and subtype "Growing" of 16 bytes each, then version 1.0 or 2.0.
fn is_bochs(head: &[u8]) -> bool {
    let field = |at: usize, text: &[u8]| head.get(at..).is_some_and(|bytes| bytes.starts_with(text));
    field(0, BOCHS_MAGIC)
        && field(32, b"Redolog\0")
        && field(48, b"Growing\0")
        && matches!(le32(head, 64), Some(0x0001_0000 | 0x0002_0000))
}

/// Whether the head is a disk's: an MBR with at least one partition and sound boot flags, or a GPT behind its
/// protective MBR.
///
/// # Source
/// UEFI specification, section 5.2; the gate's rule is `docs/architecture.md`, "Raw gate".
#[must_use]
pub fn is_partitioned(head: &[u8]) -> bool {
    let record = head.first_chunk().and_then(Record::parse);
    record.is_some_and(|record| !record.is_protective() || head.get(512..520) == Some(b"EFI PART"))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests;
