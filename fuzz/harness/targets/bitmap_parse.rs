use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::Script;
use crate::model::bitmap::check_directory;
use instar_parsers::qcow2::Qcow2;
use instar_parsers::qcow2::invariants::check_bitmaps_len;

/// The bitmaps of a qcow2. Bytes 0 to 7: where their directory is; 8 to 11: its bytes; 12: bitmaps (mod 64); 13: log2 of the cluster
/// size (9 plus mod 13); 14: log2 of the virtual size (9 plus mod 29); 15: bit 0: the directory is where the number says, else at one
/// of 16 clusters. Then the file from its second cluster on: the first holds the header and the extension.
pub fn bitmap_parse(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(offset), Some(len), Some(count)) = (script.u64(), script.u32(), script.u8()) else { return };
    let (Some(cluster), Some(size), Some(how)) = (script.u8(), script.u8(), script.u8()) else { return };
    let cluster_bits = u32::from(9 + cluster % 13);
    let (cluster, size) = (1u64 << cluster_bits, 1u64 << (9 + size % 29));
    let offset = if how & 1 == 1 { offset } else { (offset % 16 + 1) * cluster };
    let (count, len) = (u32::from(count % 64), u64::from(len));
    let l1_count = size.div_ceil(cluster * (cluster / 8)) as u32;
    let head = [
        &b"QFI\xfb\0\0\0\x03"[..],
        &[0; 12],
        &cluster_bits.to_be_bytes(),
        &size.to_be_bytes(),
        &[0; 4],
        &l1_count.to_be_bytes(),
        &(cluster << 10).to_be_bytes(),
        &(cluster << 12).to_be_bytes(),
        &1u32.to_be_bytes(),
        &[0; 28],
        // The bitmaps are consistent; refcounts of 16 bits.
        &1u64.to_be_bytes(),
        &[4u32, 104, 0x2385_2875, 24, count, 0].map(u32::to_be_bytes).concat(),
        &[len, offset].map(u64::to_be_bytes).concat(),
    ]
    .concat();
    let rest = script.rest();
    let image = FuzzImage::placed(cluster + rest.len() as u64).with(0, head).with(cluster, rest);
    let mut reader = FuzzReader::new(vec![image.clone()]);
    let opened = match Qcow2::open(&mut reader, LAYER, DISK) {
        Ok(opened) => opened,
        Err(error) => return check_error(&error),
    };
    check_directory(&image, (offset, len), opened.bitmaps(), cluster);
    for size in [0, 1, size, u64::MAX] {
        check_bitmaps_len(opened.bitmaps(), size);
    }
}
