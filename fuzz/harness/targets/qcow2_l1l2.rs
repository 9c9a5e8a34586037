use super::{DISK, LAYER, check_error};
use crate::blocks::FuzzBlocks;
use crate::image::{BUDGET, FuzzImage, FuzzReader};
use crate::layout::dyn_offset;
use crate::model::qcow2::{Byte, check_extent, check_header, lookup};
use instar_abi::error::Error;
use instar_abi::request::DiskId;
use instar_parsers::codec::Codecs;
use instar_parsers::image::{Extent, Image as _, Kind};
use instar_parsers::qcow2::Qcow2;
use instar_parsers::store::{Cache, Queue, ReadAt, Store};

/// The disk on which an external data file would be.
const DATA_DISK: DiskId = DiskId(1);
/// Extents of the walk from the start.
const WALK_MAX: usize = 64;

/// The input as an image: lookups at 0, 4 KiB, 64 KiB, 1 MiB, 1 GiB and the number at bytes 512 to 519, and a
/// walk from the start. The same through the guest's own cache and queue, and with a read that fails.
pub fn qcow2_l1l2(data: &[u8]) {
    if data.len() < 512 {
        return;
    }
    let disks = || vec![FuzzImage::new(data), FuzzImage::placed(1 << 20)];
    let mut reader = FuzzReader::new(disks());
    let image = match open(&mut reader) {
        Ok(image) => image,
        Err(error) => return check_error(&error),
    };
    check_header(image.header(), &FuzzImage::new(data));
    let offset = dyn_offset(data).unwrap_or(0);
    let size = image.virtual_size();
    let fixed = [0, 4 << 10, 64 << 10, 1 << 20, 1 << 30, offset];
    for at in fixed.into_iter().filter(|at| *at < size) {
        for end in [size, at.saturating_add(1 + offset % 65536).min(size)] {
            if let Some(extent) = map(&image, &mut reader, data, at, end) {
                read_content(&mut reader, &extent);
            }
        }
    }
    walk(&image, &mut reader, data);
    check_store(&image, &disks(), &fixed);
    // The fault of an I/O error anywhere is an error, and nothing else.
    let mut faulty = FuzzReader::new(disks()).with_fault(offset % 16);
    if let Ok(image) = open(&mut faulty)
        && size > 0
    {
        let _ = image.map(&mut faulty, 0..size);
    }
}

fn open(io: &mut dyn ReadAt) -> Result<Qcow2, Error> {
    let mut image = Qcow2::open(io, LAYER, DISK)?;
    if image.header().has_data_file() {
        image.set_data_disk(DATA_DISK);
    }
    Ok(image)
}

/// One lookup, held against the tables.
fn map(image: &Qcow2, reader: &mut FuzzReader<'_>, data: &[u8], at: u64, end: u64) -> Option<Extent> {
    let bytes = FuzzImage::new(data);
    let expected = lookup(&bytes, image.header(), at);
    match image.map(reader, at..end) {
        Ok(extent) => {
            assert_ne!(expected, Byte::Broken, "{at:#x} is mapped as {extent:?}");
            check_extent(&bytes, image.header(), &extent, at, end);
            Some(extent)
        }
        Err(Error::OutOfBudget(_)) => None,
        Err(error) => {
            check_error(&error);
            assert_eq!(expected, Byte::Broken, "{at:#x}: {error:?}");
            None
        }
    }
}

fn walk(image: &Qcow2, reader: &mut FuzzReader<'_>, data: &[u8]) {
    let (mut at, size) = (0, image.virtual_size());
    for _ in 0..WALK_MAX {
        if at == size {
            return;
        }
        match map(image, reader, data, at, size) {
            Some(extent) => at = extent.end(),
            None => return,
        }
    }
}

/// Reads the first bytes of an extent, as the mover would.
fn read_content(reader: &mut FuzzReader<'_>, extent: &Extent) {
    let io: &mut dyn ReadAt = reader;
    match extent.kind {
        Kind::Data { disk, offset } => {
            let mut buf = [0; 4096];
            let len = extent.len.min(4096) as usize;
            let _ = io.read_padded(disk, offset, &mut buf[..len]).inspect_err(check_error);
        }
        Kind::Encoded { disk, offset, len, codec, cluster_size, .. } => {
            if let Ok(stream) = io.read_vec(disk, offset, len as usize).inspect_err(check_error) {
                let mut cluster = vec![0; cluster_size as usize];
                let _ = Codecs::SMALL.decoder().decode(codec, &stream, &mut cluster);
            }
        }
        Kind::Zero | Kind::Hole | Kind::Reserved { .. } => {}
    }
}

/// The guest's cache and queue give what plain reads give, unless the budget, counted in windows there, is gone.
fn check_store(image: &Qcow2, disks: &[FuzzImage<'_>], places: &[u64]) {
    let mut blocks = FuzzBlocks::new(disks);
    let described = blocks.disks();
    let mut queue = Queue::new(&mut blocks);
    let (mut cache, mut budget) = (Cache::new(), BUDGET.into());
    let mut store = Store { queue: &mut queue, cache: &mut cache, budget: &mut budget, disks: &described };
    match open(&mut store) {
        Ok(again) => assert_eq!(again.header(), image.header()),
        Err(error) => return assert!(matches!(error, Error::OutOfBudget(_)), "through the store: {error:?}"),
    }
    let size = image.virtual_size();
    let mut reader = FuzzReader::new(disks.to_vec());
    for &at in places.iter().filter(|at| **at < size) {
        match (image.map(&mut store, at..size), image.map(&mut reader, at..size)) {
            (Err(Error::OutOfBudget(_)), _) | (_, Err(Error::OutOfBudget(_))) => return,
            (through_store, plain) => assert_eq!(through_store, plain, "at {at:#x}"),
        }
    }
}
