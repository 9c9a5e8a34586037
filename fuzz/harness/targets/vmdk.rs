//! Targets of VMDK.

use super::pieces::pieces_of;
use super::walk::{check_lookups, walk};
use crate::image::FuzzImage;
use crate::layout::{Script, dyn_offset};
use crate::model::place::Place;
use crate::model::vmdk::place;
use instar_abi::format::Format;

/// A text that describes a VMDK, over a file that all its extents are in; and that file alone. Length of the text (2), the text,
/// length of the file in sectors (4), then pieces: sector (4), length (2), bytes.
pub fn vmdk_header(data: &[u8]) {
    let mut script = Script::new(data);
    let Some(len) = script.u16() else { return };
    let text = FuzzImage::new(script.bytes(len.into()));
    let file = pieces_of(&mut script).unwrap_or_else(|| FuzzImage::placed(0));
    walk(Format::Vmdk, vec![file.clone()], &|_, _| {});
    walk(Format::Vmdk, vec![text, file], &|_, _| {});
}

/// The input as a sparse extent: grains at 0, 64 KiB, 1 MiB, 1 GiB, the number at bytes 512 to 519, and the disk's last.
pub fn vmdk_grain(data: &[u8]) {
    if data.len() < 512 {
        return;
    }
    let image = FuzzImage::new(data);
    let offset = dyn_offset(data).unwrap_or(0);
    walk(Format::Vmdk, vec![image.clone()], &|blocks, reader| {
        let size = blocks.facts().virtual_size;
        // A text names other files.
        if size > 0 && place(&image, 0).is_some() {
            let places = [0, 64 << 10, 1 << 20, 1 << 30, offset, offset % size, size - 1];
            check_lookups(blocks, reader, &places, &|at| place(&image, at).unwrap_or(Place::Broken));
        }
    });
}
