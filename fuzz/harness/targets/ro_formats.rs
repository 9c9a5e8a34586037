use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::Script;
use instar_abi::check::Checked;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::request::{Below, Layer, RawGate};
use instar_parsers::codec::Codecs;
use instar_parsers::image::{Blocks as _, Driver, Extent, Image as _, Kind, Scope, open};
use instar_parsers::parallels::Parallels;
use instar_parsers::qed::Qed;
use instar_parsers::store::ReadAt;
use instar_parsers::vdi::Vdi;
use instar_parsers::vhdx::Vhdx;
use instar_parsers::vmdk::Vmdk;
use instar_parsers::vpc::Vpc;

const FORMATS: [Format; 7] =
    [Format::Vmdk, Format::Vdi, Format::Vpc, Format::Vhdx, Format::Parallels, Format::Qed, Format::Qcow];
/// Most extents of a disk that are looked at.
const EXTENTS_MAX: usize = 48;
/// Largest block that is decoded.
const CLUSTER_LEN_MAX: u32 = 1 << 20;
const SECTOR_LEN: u64 = 512;
/// Longest file that is checked.
const CHECKED_LEN_MAX: u64 = 64 << 20;

/// Formats that are only read. Byte 0: which (mod 7), bit 7: checksums are put right; length of the file in sectors (4);
/// then pieces: sector (4), length (2), bytes.
pub fn ro_formats(data: &[u8]) {
    let Some((format, image)) = image_of(Script::new(data), u64::MAX) else { return };
    let is_clean = is_clean(format, &image);
    let layer =
        Layer { disk: DISK, format: Some(format), raw_gate: RawGate::Open, window: None, below: Below::AsNamed };
    let mut reader = FuzzReader::new(vec![image]);
    let opened = match open(&mut reader, LAYER, &layer) {
        Ok(opened) => opened,
        Err(error) => return check_error(&error),
    };
    let Driver::Blocks(blocks) = &opened.driver else { panic!("opened as another format") };
    let facts = blocks.facts();
    assert_eq!(facts.format, format);
    let size = opened.virtual_size();
    assert!(size == facts.virtual_size && i64::try_from(size).is_ok(), "a disk of {size} bytes");
    assert!(facts.cluster_size.is_none_or(|size| size > 0), "blocks of no length");
    let mut at = 0;
    let mut places = Vec::new();
    for _ in 0..EXTENTS_MAX {
        if at >= size {
            break;
        }
        let extent = match opened.map(&mut reader, at..size) {
            Ok(extent) => extent,
            Err(error) => {
                assert!(!is_clean, "clean, and {error:?}");
                return check_error(&error);
            }
        };
        check_extent(&mut reader, extent, at, size);
        if let Kind::Data { offset, .. } = extent.kind {
            places.push(offset..offset + extent.len);
        }
        // What starts within it goes on in the same way.
        let middle = at + extent.len / 2;
        let within = opened.map(&mut reader, middle..extent.end()).expect("was sound a moment ago");
        let (_, expected) = extent.split(middle - at);
        assert!(
            middle == at || expected.is_some_and(|expected| starts_alike(within, expected)),
            "{extent:?} {within:?}"
        );
        at = extent.end();
    }
    places.sort_by_key(|place| place.start);
    let is_twice = places.windows(2).any(|pair| pair[1].start < pair[0].end);
    assert!(!(is_clean && is_twice), "clean, and two places are one: {places:x?}");
}

/// Checks the image; whether that says that every block is in the file and has a place of its own.
fn is_clean(format: Format, image: &FuzzImage<'_>) -> bool {
    if image.len() > CHECKED_LEN_MAX {
        return false;
    }
    let run = |scope: Scope| {
        let mut reader = FuzzReader::new(vec![image.clone()]);
        let checked = check(format, &mut reader, scope);
        (checked, reader.told())
    };
    let (theirs, _) = run(Scope::AsQemuImg);
    if let Ok(theirs) = theirs {
        let is_first = format != Format::Vmdk || theirs.corruptions == u64::from(theirs.failure.is_some());
        assert!(is_first, "goes on behind what ends the check: {theirs:?}");
    }
    match run(Scope::Whole) {
        (Ok(checked), told) => {
            assert!(checked.format == format && checked.untold == 0 && checked.check_errors == 0, "{checked:?}");
            let is_told = matches!(format, Format::Vmdk | Format::Vhdx | Format::Vpc);
            assert!(!is_told || checked.corruptions == told, "{told} findings of {checked:?}");
            is_told && checked.corruptions == 0
        }
        (Err(error), _) => {
            check_error(&error);
            false
        }
    }
}

/// Opens and checks.
fn check(format: Format, io: &mut FuzzReader<'_>, scope: Scope) -> Result<Checked, Error> {
    match format {
        Format::Vmdk => {
            let image = Vmdk::open(io, LAYER, DISK)?;
            // A text's files are not there.
            if image.files().is_empty() { image.check(io, scope) } else { Err(Error::WrongOp) }
        }
        Format::Vdi => Vdi::open(io, LAYER, DISK)?.check(io),
        Format::Vpc => Vpc::open_for_check(io, LAYER, DISK)?.check(io),
        Format::Vhdx => Vhdx::open(io, LAYER, DISK)?.check(io, scope),
        Format::Parallels => Parallels::open(io, LAYER, DISK)?.check(io),
        Format::Qed => Qed::open(io, LAYER, DISK)?.check(io),
        format => Err(Error::NoCheck { format }),
    }
}

/// The image that an input describes, of at most `len_max` bytes.
pub(super) fn image_of(mut script: Script<'_>, len_max: u64) -> Option<(Format, FuzzImage<'_>)> {
    let (first, sectors) = (script.u8()?, script.u32()?);
    let format = FORMATS[usize::from(first & 0x7f) % FORMATS.len()];
    let len = u64::from(sectors) * SECTOR_LEN;
    let mut image = FuzzImage::placed(len.min(len_max));
    while let (Some(sector), Some(len)) = (script.u32(), script.u16()) {
        image = image.with(u64::from(sector) * SECTOR_LEN, script.bytes(len.into()));
    }
    Some((format, if first & 0x80 == 0 { image } else { signed(format, image) }))
}

fn check_extent(reader: &mut FuzzReader<'_>, extent: Extent, at: u64, size: u64) {
    assert!(extent.start == at && extent.len > 0 && extent.end() <= size, "{extent:?} of {at}..{size}");
    let disk_len = reader.len(DISK);
    match extent.kind {
        Kind::Data { disk, offset } => {
            assert!(disk == DISK && offset < disk_len.max(1), "data past the end: {extent:?}")
        }
        Kind::Encoded { disk, offset, len, padding: _, codec, cluster_size, skip } => {
            assert!(disk == DISK && skip < cluster_size, "{extent:?}");
            assert!(u64::from(cluster_size - skip) >= extent.len, "more than its cluster: {extent:?}");
            if cluster_size <= CLUSTER_LEN_MAX {
                let io: &mut dyn ReadAt = reader;
                let mut stream = vec![0; len as usize];
                if io.read_padded(disk, offset, &mut stream).is_ok() {
                    let _ = Codecs::SMALL.decoder().decode(codec, &stream, &mut vec![0; cluster_size as usize]);
                }
            }
        }
        Kind::Zero | Kind::Hole | Kind::Reserved { .. } => {}
    }
}

/// The same place, of the shorter one's length.
fn starts_alike(a: Extent, b: Extent) -> bool {
    let len = a.len.min(b.len);
    a.split(len).0 == b.split(len).0
}

/// The image with the checksums that its format has.
fn signed(format: Format, image: FuzzImage<'_>) -> FuzzImage<'_> {
    let crc = |image: FuzzImage<'_>, at: u64, len: usize| -> Vec<u8> {
        let mut bytes = vec![0; len];
        image.fill(at, &mut bytes);
        bytes[4..8].fill(0);
        let sum = crc32c(&bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    match format {
        Format::Vpc => {
            let mut footer = vec![0; 512];
            image.fill(0, &mut footer);
            footer[64..68].fill(0);
            let sum = !footer.iter().fold(0u32, |sum, &byte| sum.wrapping_add(byte.into()));
            footer[64..68].copy_from_slice(&sum.to_be_bytes());
            image.with(0, footer)
        }
        Format::Vhdx => {
            [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536)].into_iter().fold(image, |image, (at, len)| {
                let bytes = crc(image.clone(), at, len);
                image.with(at, bytes)
            })
        }
        _ => image,
    }
}

/// CRC-32C, bit by bit: another one than the reader's.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0x82f6_3b78 })
    })
}
