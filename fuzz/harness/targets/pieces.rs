//! Files of a few pieces, and the checksums of their formats.

use crate::image::FuzzImage;
use crate::layout::Script;
use crate::model::sums::crc32c;
use crate::model::vpc::complement;
use instar_abi::format::Format;

const FORMATS: [Format; 7] =
    [Format::Vmdk, Format::Vdi, Format::Vpc, Format::Vhdx, Format::Parallels, Format::Qed, Format::Qcow];
const SECTOR_LEN: u64 = 512;
/// Largest entry of a log that gets its checksum.
const LOG_ENTRY_LEN_MAX: u32 = 64 << 10;

/// The image that an input describes, of at most `len_max` bytes.
pub fn image_of<'a>(script: &mut Script<'a>, len_max: u64) -> Option<(Format, FuzzImage<'a>)> {
    let (first, sectors) = (script.u8()?, script.u32()?);
    let format = FORMATS[usize::from(first & 0x7f) % FORMATS.len()];
    let len = u64::from(sectors) * SECTOR_LEN;
    let image = pieces(script, len.min(len_max));
    Some((format, if first & 0x80 == 0 { image } else { signed(format, image) }))
}

/// A file of `len` bytes, of what is left of a script: sector (4), length (2), bytes.
pub fn pieces<'a>(script: &mut Script<'a>, len: u64) -> FuzzImage<'a> {
    let mut image = FuzzImage::placed(len);
    while let (Some(sector), Some(len)) = (script.u32(), script.u16()) {
        image = image.with(u64::from(sector) * SECTOR_LEN, script.bytes(len.into()));
    }
    image
}

/// The image with the checksums that its format has.
pub fn signed(format: Format, image: FuzzImage<'_>) -> FuzzImage<'_> {
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
            let sum = complement(&footer);
            footer[64..68].copy_from_slice(&sum);
            let image = image.with(0, footer.clone());
            let at = u64::from_be_bytes(footer[16..24].try_into().expect("eight bytes"));
            if !(512..1 << 20).contains(&at) {
                return image;
            }
            let mut header = vec![0; 1024];
            image.fill(at, &mut header);
            header[36..40].fill(0);
            let sum = complement(&header);
            image.with(at + 36, sum.to_vec())
        }
        Format::Vhdx => {
            let mut image = image;
            for at in (0..32).map(|index| (1 << 20) + index * 4096) {
                let mut front = [0; 12];
                image.fill(at, &mut front);
                let len = u32::from_le_bytes(front[8..].try_into().expect("four bytes"));
                if front.starts_with(b"loge") && (64..=LOG_ENTRY_LEN_MAX).contains(&len) {
                    let bytes = crc(image.clone(), at, len as usize);
                    image = image.with(at, bytes);
                }
            }
            [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536)].into_iter().fold(
                image,
                |image, (at, len)| {
                    let bytes = crc(image.clone(), at, len);
                    image.with(at, bytes)
                },
            )
        }
        _ => image,
    }
}

/// A file of what is left of a script: its length in sectors (4), then its pieces.
pub fn pieces_of<'a>(script: &mut Script<'a>) -> Option<FuzzImage<'a>> {
    let sectors = script.u32()?;
    Some(pieces(script, u64::from(sectors) * SECTOR_LEN))
}

/// The image as it is, and with the checksums that its format has.
pub fn both_ways(format: Format, image: &FuzzImage<'_>, judge: &dyn Fn(&FuzzImage<'_>)) {
    judge(image);
    judge(&signed(format, image.clone()));
}
