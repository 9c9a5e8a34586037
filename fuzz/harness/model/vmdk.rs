//! Sparse extents of VMDK in one file, one grain at a time.

use super::place::{Place, le};
use crate::image::FuzzImage;

/// Where a byte of an extent is, which is open; `None`: the file is no extent that the model knows.
#[must_use]
pub fn place(image: &FuzzImage<'_>, at: u64) -> Option<Place> {
    let mut magic = [0; 4];
    image.fill(0, &mut magic);
    match &magic {
        b"KDMV" => hosted(image, at),
        b"COWD" => {
            let [grain, directory, entries] = [16, 20, 24].map(|field| le::<4>(image, field));
            let form = Form { grain, table_entries: 4096, directory, entries, has_zeros: false, stream: None };
            Some(form.place(image, at))
        }
        _ => None,
    }
}

fn hosted(image: &FuzzImage<'_>, at: u64) -> Option<Place> {
    let mut header = 0;
    if le::<8>(image, 56) == u64::MAX {
        header = image.len().next_multiple_of(512).checked_sub(1024)?;
    }
    let number = |field| le::<8>(image, header + field);
    let (flags, table_entries) = (le::<4>(image, header + 8), le::<4>(image, header + 44));
    if number(12) == 0 && number(28) != 0 && header == 0 {
        return None;
    }
    let marker = if flags & 1 << 17 == 0 { 0 } else { 12 };
    let form = Form {
        grain: number(20),
        table_entries,
        directory: number(56),
        entries: number(12).div_ceil(number(20) * table_entries),
        has_zeros: flags & 4 != 0,
        stream: (le::<2>(image, header + 77) == 1).then_some(marker),
    };
    Some(form.place(image, at))
}

/// What is in sectors, and what entries mean.
struct Form {
    grain: u64,
    table_entries: u64,
    directory: u64,
    entries: u64,
    has_zeros: bool,
    stream: Option<u64>,
}

impl Form {
    fn place(&self, image: &FuzzImage<'_>, at: u64) -> Place {
        let (grain, within) = (at / (self.grain * 512), at % (self.grain * 512));
        let index = grain / self.table_entries;
        if index >= self.entries {
            return Place::Broken;
        }
        let table = le::<4>(image, self.directory * 512 + 4 * index) * 512;
        if table == 0 {
            return Place::Hole;
        }
        if table >= image.len() {
            return Place::Broken;
        }
        match le::<4>(image, table + 4 * (grain % self.table_entries)) {
            0 => Place::Hole,
            1 if self.has_zeros => Place::Zero,
            sector if sector * 512 >= image.len() => Place::Broken,
            sector => match self.stream {
                Some(marker) => Place::Stream(sector * 512 + marker),
                None => Place::Data(sector * 512 + within),
            },
        }
    }
}
