//! Targets of VHD.

use super::parent::check_beside;
use super::pieces::{both_ways, pieces_of, signed};
use super::walk::{check_lookups, walk};
use crate::image::FuzzImage;
use crate::layout::{Script, dyn_offset, le64};
use crate::model::vpc::{complement, footer, is_signed, place, size};
use instar_abi::format::Format;
use instar_parsers::vpc::check_geometry;

/// Sectors of the largest disk: 2040 GiB.
const SECTORS_MAX: u64 = 0xff00_0000;

/// The input as a file, as it is, with the checksum of its first sector put right, and with that of its last, which may lack its
/// last byte; the number at bytes 0 to 7 as a size.
pub fn vhd_footer(data: &[u8]) {
    check_geometry(le64(data, 0).unwrap_or(0));
    let file = FuzzImage::new(data);
    judge_footer(&file);
    judge_footer(&signed(Format::Vpc, file.clone()));
    judge_footer(&signed_last(file.clone()));
    if file.len().is_multiple_of(512) && file.len() > 0 {
        let len = file.len() - 1;
        judge_footer(&signed_last(file.with_len(len)));
    }
}

fn judge_footer(image: &FuzzImage<'_>) {
    walk(Format::Vpc, vec![image.clone()], &|blocks, _| {
        let footer = footer(image).expect("a footer");
        assert!(is_signed(&footer), "accepted without its checksum");
        let facts = blocks.facts();
        assert_eq!(facts.virtual_size, size(&footer), "of another size than the footer says");
        assert!(facts.virtual_size / 512 <= SECTORS_MAX, "a disk of {} bytes", facts.virtual_size);
        let is_dynamic = facts.cluster_size.is_some();
        assert_eq!(facts.backing.is_some(), is_dynamic && footer[60..64] == [0, 0, 0, 4], "the parent");
    });
}

/// The file with the checksum of its last sector.
fn signed_last(file: FuzzImage<'_>) -> FuzzImage<'_> {
    let Some(at) = file.len().next_multiple_of(512).checked_sub(512) else { return file };
    let mut bytes = vec![0; 512];
    file.fill(at, &mut bytes);
    bytes[64..68].fill(0);
    let sum = complement(&bytes);
    file.with(at + 64, sum.to_vec())
}

/// The input as a dynamic disk, as it is and with its checksums put right: blocks at 0, 2 MiB, 16 MiB, 256 MiB, the number at bytes
/// 512 to 519, and the disk's last.
pub fn vhd_bat(data: &[u8]) {
    if data.len() < 512 {
        return;
    }
    let offset = dyn_offset(data).unwrap_or(0);
    both_ways(Format::Vpc, &FuzzImage::new(data), &|image| {
        walk(Format::Vpc, vec![image.clone()], &|blocks, reader| {
            let size = blocks.facts().virtual_size.max(1);
            let places = [0, 2 << 20, 16 << 20, 256 << 20, offset, offset % size, size - 1];
            check_lookups(blocks, reader, &places, &|at| place(image, at));
        });
    });
}

/// A differencing disk, as it is and with its checksums put right. Length of the file in sectors (4), then pieces: sector (4), length
/// (2), bytes.
pub fn vhd_parent(data: &[u8]) {
    let Some(image) = pieces_of(&mut Script::new(data)) else { return };
    let image = image.with(60, vec![0, 0, 0, 4]);
    both_ways(Format::Vpc, &image, &|image| {
        walk(Format::Vpc, vec![image.clone()], &|blocks, reader| {
            if blocks.facts().cluster_size.is_some() {
                check_beside(blocks);
            }
            let places = [0, 512, 4096, 128 << 10, 130 << 10, 256 << 10, 1 << 20];
            check_lookups(blocks, reader, &places, &|at| place(image, at));
        });
    });
}
