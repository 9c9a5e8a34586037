//! VHDX with an empty log, one block at a time.

use super::place::{Place, le};
use super::sums::crc32c;
use crate::image::FuzzImage;
use std::ops::Range;

const MIB: u64 = 1 << 20;
const BAT: [u8; 16] = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
const METADATA: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
const FILE: [u8; 16] = *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
const LOGICAL_SECTOR: [u8; 16] = *b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f";

/// What is needed of an image to find its bytes.
pub struct Model<'a> {
    image: &'a FuzzImage<'a>,
    table: u64,
    block: u64,
    sector: u64,
    has_parent: bool,
    taken: Vec<Range<u64>>,
}

impl<'a> Model<'a> {
    /// Reads an image that is open, of a disk of `size` bytes; `None`: its log is not empty.
    ///
    /// # Panics
    /// There is no sound header or region table, an item is missing, or the table is too short: it could not be opened.
    #[must_use]
    pub fn new(image: &'a FuzzImage<'a>, size: u64) -> Option<Self> {
        let headers = [64 << 10, 128 << 10].into_iter().filter(|&at| is_signed(image, at, 4096, b"head"));
        let header = headers.filter(|&at| le::<2>(image, at + 66) == 1).max_by_key(|&at| le::<8>(image, at + 8));
        let header = header.expect("a sound header");
        if (48..64).any(|field| le::<1>(image, header + field) != 0) {
            return None;
        }
        let (log, log_len) = (le::<8>(image, header + 72), le::<4>(image, header + 68));
        let front: Range<u64> = 0..MIB;
        let mut taken = Vec::from([front]);
        taken.extend((log_len > 0).then(|| log..log.saturating_add(log_len)));
        let mut tables = [192 << 10, 256 << 10].into_iter();
        let regions = tables.find(|&at| is_signed(image, at, 65536, b"regi")).expect("a sound region table");
        let (mut table, mut metadata) = (None, None);
        for index in 0..le::<4>(image, regions + 8) {
            let at = regions + 16 + 32 * index;
            let start = le::<8>(image, at + 16);
            taken.push(start..start.saturating_add(le::<4>(image, at + 24)));
            match id(image, at) {
                BAT => table = Some((start, le::<4>(image, at + 24))),
                METADATA => metadata = Some(start),
                _ => {}
            }
        }
        let ((table, table_len), metadata) = (table.expect("a table"), metadata.expect("metadata"));
        let item = |wanted| {
            let mut items = (0..le::<2>(image, metadata + 10)).map(|index| metadata + 32 + 32 * index);
            let at = items.find(|&at| id(image, at) == wanted).expect("an item");
            metadata + le::<4>(image, at + 16)
        };
        let [block, flags] = [0, 4].map(|field| le::<4>(image, item(FILE) + field));
        let sector = le::<4>(image, item(LOGICAL_SECTOR));
        let last = (size - 1) / block;
        let chunk = (1 << 23) * sector / block;
        let entries = if flags & 2 == 0 { last + last / chunk + 1 } else { (last / chunk + 1) * (chunk + 1) };
        assert!(entries <= table_len / 8, "{table_len} bytes for {entries} entries");
        Some(Self { image, table, block, sector, has_parent: flags & 2 != 0, taken })
    }

    /// Where a byte of the disk is.
    #[must_use]
    pub fn place(&self, at: u64) -> Place {
        let (index, within) = (at / self.block, at % self.block);
        let chunk = (1 << 23) * self.sector / self.block;
        let entry = le::<8>(self.image, self.table + 8 * (index + index / chunk));
        let offset = entry / MIB * MIB;
        match entry & 7 {
            6 | 7 if !self.is_block(offset, self.block) => Place::Broken,
            6 => Place::Data(offset + within),
            7 if !self.has_parent => Place::Broken,
            7 => {
                let bitmap = le::<8>(self.image, self.table + 8 * (index / chunk * (chunk + 1) + chunk));
                if bitmap & 7 != 6 || !self.is_block(bitmap / MIB * MIB, MIB) {
                    return Place::Broken;
                }
                let bit = (index % chunk * self.block + within) / self.sector;
                let byte = le::<1>(self.image, bitmap / MIB * MIB + bit / 8);
                if byte >> (bit % 8) & 1 == 1 { Place::Data(offset + within) } else { Place::Hole }
            }
            0 if self.has_parent => Place::Hole,
            _ => Place::Zero,
        }
    }

    fn is_block(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        offset < self.image.len() && self.taken.iter().all(|taken| end <= taken.start || taken.end <= offset)
    }
}

fn id(image: &FuzzImage<'_>, at: u64) -> [u8; 16] {
    let mut id = [0; 16];
    image.fill(at, &mut id);
    id
}

fn is_signed(image: &FuzzImage<'_>, at: u64, len: usize, signature: &[u8; 4]) -> bool {
    let mut bytes = vec![0; len];
    image.fill(at, &mut bytes);
    let sum = le::<4>(image, at + 4);
    bytes[4..8].fill(0);
    bytes.starts_with(signature) && u64::from(crc32c(&bytes)) == sum
}
