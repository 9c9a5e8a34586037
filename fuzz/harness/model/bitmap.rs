//! The bitmap directory of a qcow2, byte by byte.

use super::place::be;
use crate::image::FuzzImage;
use instar_parsers::qcow2::Bitmap;

/// Every entry of the directory that `bitmaps` was read from is what its bytes say, and they say nothing that a [`Bitmap`] has no
/// room for; so does each word of its table.
///
/// # Panics
/// One is not.
pub fn check_directory(image: &FuzzImage<'_>, (start, len): (u64, u64), bitmaps: &[Bitmap], cluster: u64) {
    let mut at = start;
    for (index, bitmap) in bitmaps.iter().enumerate() {
        let [table, flags] = [be::<8>(image, at), be::<4>(image, at + 12)];
        let [count, name_len, extra] = [be::<4>(image, at + 8), be::<2>(image, at + 18), be::<4>(image, at + 20)];
        let [kind, granularity] = [16, 17].map(|field| be::<1>(image, at + field));
        let mut name = vec![0; name_len as usize];
        image.fill(at + 24, &mut name);
        name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
        let written = Bitmap {
            name,
            granularity_bits: granularity as u8,
            in_use: flags & 1 != 0,
            auto: flags & 2 != 0,
            table_offset: table,
            table_count: count as u32,
        };
        assert_eq!(*bitmap, written, "bitmap {index} is not what is written");
        let is_sound = kind == 1 && extra == 0 && flags & !3 == 0 && name_len <= 1023;
        assert!(is_sound, "bitmap {index} is accepted");
        if !bitmap.in_use {
            let words = (0..count).map(|word| be::<8>(image, table.saturating_add(8 * word)));
            assert!(words.into_iter().all(|word| is_word(word, cluster)), "a word of bitmap {index} is accepted");
        }
        at = (at + 24 + name_len).next_multiple_of(8);
    }
    assert_eq!(at, start + len, "the directory ends elsewhere");
}

/// A cluster, or zeros, or ones.
fn is_word(word: u64, cluster: u64) -> bool {
    let offset = word & 0x00ff_ffff_ffff_fe00;
    word & 0xff00_0000_0000_01fe == 0 && offset.is_multiple_of(cluster) && (offset == 0 || word & 1 == 0)
}
