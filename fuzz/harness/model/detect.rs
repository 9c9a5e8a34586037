//! What a format's first or last bytes must be.

use crate::image::FuzzImage;
use instar_abi::format::Format;

const CLOOP: &[u8; 83] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

/// Checks that a detected format has the bytes that make it that format.
///
/// # Panics
/// It has not.
pub fn check_magic(format: Format, image: &FuzzImage<'_>) {
    let len = image.len();
    let at = |offset: u64, magic: &[u8]| holds(image, offset, magic);
    let le32 = |offset: u64| u32::from_be_bytes(number(image, offset)).swap_bytes();
    let found = match format {
        Format::Raw => is_partitioned(image),
        Format::Qcow2 => at(0, b"QFI\xfb") && u32::from_be_bytes(number(image, 4)) >= 2,
        Format::Qcow => at(0, b"QFI\xfb\0\0\0\x01"),
        Format::Vmdk => at(0, b"KDMV") || at(0, b"COWD") || at(0, b"\xbe\xba\xfe\xca\0\0\0\0") || descriptor(image),
        Format::Vpc => at(0, b"conectix") || [512, 511].iter().any(|back| len >= *back && at(len - back, b"conectix")),
        Format::Vhdx => at(0, b"vhdxfile"),
        Format::Vdi => len >= 0x44 && le32(0x40) == 0xbeda_107f,
        Format::Luks => at(0, b"LUKS\xba\xbe\0\x01") || at(0, b"LUKS\xba\xbe\0\x02"),
        Format::Parallels => (at(0, b"WithoutFreeSpace") || at(0, b"WithouFreSpacExt")) && le32(16) == 2,
        Format::Qed => at(0, b"QED\0"),
        Format::Dmg => (512..=1023).any(|back| len >= back && at(len - back, b"koly\0\0\0\x04\0\0\x02\0")),
        Format::Bochs => at(0, b"Bochs Virtual HD Image\0") && at(32, b"Redolog\0") && at(48, b"Growing\0"),
        Format::Cloop => at(0, CLOOP),
        Format::Iso => at(32769, b"CD001"),
    };
    assert!(found, "detected as {} without its magic", format.name());
}

/// A format that these bytes can't but be; `None`: no such statement.
#[must_use]
pub fn surely(image: &FuzzImage<'_>) -> Option<Format> {
    let at = |magic: &[u8]| holds(image, 0, magic);
    match () {
        () if at(b"QFI\xfb\0\0\0\x01") => Some(Format::Qcow),
        () if at(b"QFI\xfb\0\0\0\x02") || at(b"QFI\xfb\0\0\0\x03") => Some(Format::Qcow2),
        () if at(b"KDMV") || at(b"COWD") => Some(Format::Vmdk),
        () if at(b"conectix") => Some(Format::Vpc),
        () if at(b"vhdxfile") => Some(Format::Vhdx),
        () => None,
    }
}

/// Whether detection went by the end of the image, which appending changes.
#[must_use]
pub fn is_by_trailer(format: Format, image: &FuzzImage<'_>) -> bool {
    format == Format::Dmg || (format == Format::Vpc && !holds(image, 0, b"conectix"))
}

/// The raw gate, worked out field by field: an MBR with a partition, or a GPT behind its protective one.
#[must_use]
pub fn is_partitioned(image: &FuzzImage<'_>) -> bool {
    let mut mbr = [0; 520];
    image.fill(0, &mut mbr);
    if image.len() < 512 || mbr[510] != 0x55 || mbr[511] != 0xAA {
        return false;
    }
    let mut used = false;
    let mut protective = false;
    for entry in 0..4 {
        let base = 446 + 16 * entry;
        if mbr[base] != 0x00 && mbr[base] != 0x80 {
            return false;
        }
        let sectors = u32::from_le_bytes([mbr[base + 12], mbr[base + 13], mbr[base + 14], mbr[base + 15]]);
        if mbr[base + 4] != 0 && sectors != 0 {
            used = true;
            protective |= mbr[base + 4] == 0xEE;
        }
    }
    used && (!protective || (image.len() >= 520 && mbr[512..] == *b"EFI PART"))
}

/// Whether there is a line `version=1`, 2 or 3 in the first 4 KiB.
fn descriptor(image: &FuzzImage<'_>) -> bool {
    let mut head = [0; 4096];
    image.fill(0, &mut head);
    head.split(|&byte| byte == b'\n')
        .any(|line| matches!(line.strip_suffix(b"\r").unwrap_or(line), b"version=1" | b"version=2" | b"version=3"))
}

fn holds(image: &FuzzImage<'_>, offset: u64, magic: &[u8]) -> bool {
    let mut buf = vec![0; magic.len()];
    image.fill(offset, &mut buf);
    offset.checked_add(magic.len() as u64).is_some_and(|end| end <= image.len()) && buf == magic
}

fn number<const N: usize>(image: &FuzzImage<'_>, offset: u64) -> [u8; N] {
    let mut raw = [0; N];
    image.fill(offset, &mut raw);
    raw
}
