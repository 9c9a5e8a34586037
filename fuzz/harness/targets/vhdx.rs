//! Targets of VHDX.

use super::parent::check_beside;
use super::pieces::{both_ways, pieces_of};
use super::walk::{check_lookups, walk};
use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::Script;
use crate::model::vhdx::Model;
use instar_abi::format::Format;
use instar_parsers::image::{Blocks, Layered};
use instar_parsers::vhdx::Metadata;
use instar_parsers::vhdx::invariants::check_metadata;

/// A disk with its log, as it is and with its checksums put right. Length of the file in sectors (4), then pieces: sector (4), length
/// (2), bytes.
pub fn vhdx_header(data: &[u8]) {
    let Some(image) = pieces_of(&mut Script::new(data)) else { return };
    judge(&image, &[0, 1 << 20, 3 << 20], &|_| {});
}

/// A disk, as it is and with its checksums put right: blocks at 0, 4 MiB, 64 MiB, 1 GiB, the offset of the input, and the disk's last;
/// and what stands at 0, 64 KiB and 192 KiB as metadata. An offset (8), length of the file in sectors (4), then pieces: sector (4),
/// length (2), bytes.
pub fn vhdx_metadata(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(offset), Some(image)) = (script.u64(), pieces_of(&mut script)) else { return };
    judge(&image, &[0, 4 << 20, 64 << 20, 1 << 30, offset], &|_| {});
    let layered = Layered { layer: LAYER, format: Format::Vhdx };
    for at in [0, 64 << 10, 192 << 10] {
        let mut reader = FuzzReader::new(vec![image.clone()]);
        match Metadata::read(&mut reader, layered, DISK, &(at..at + (1 << 20))) {
            Ok(metadata) => check_metadata(&metadata),
            Err(error) => check_error(&error),
        }
    }
}

/// A differencing disk: its file parameters stand at byte 64 KiB of a metadata region at 2 MiB, with the flag set. As it is and with
/// its checksums put right; the input is as for [`vhdx_header`].
pub fn vhdx_parent(data: &[u8]) {
    let Some(image) = pieces_of(&mut Script::new(data)) else { return };
    let image = image.with((2 << 20) + (64 << 10) + 4, vec![2, 0, 0, 0]);
    judge(&image, &[0, 4096, 1 << 20, (1 << 20) + 8192, 2 << 20, 3 << 20], &|blocks| {
        // Elsewhere the flag may be another field's.
        if blocks.facts().backing.is_some() {
            check_beside(blocks);
        }
    });
}

fn judge(image: &FuzzImage<'_>, places: &[u64], further: &dyn Fn(&dyn Blocks)) {
    both_ways(Format::Vhdx, image, &|image| {
        walk(Format::Vhdx, vec![image.clone()], &|blocks, reader| {
            further(blocks);
            let size = blocks.facts().virtual_size;
            // What a log changes is held against the image without one in the reader's own tests.
            let Some(model) = Model::new(image, size) else { return };
            check_lookups(blocks, reader, places, &|at| model.place(at));
            check_lookups(blocks, reader, &[size - 1], &|at| model.place(at));
        });
    });
}
