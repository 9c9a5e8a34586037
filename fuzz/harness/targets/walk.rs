//! A disk in blocks, from its start to its end.

use super::lookup::check_lookup;
use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::model::place::Place;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::request::{DiskId, Layer, RawGate};
use instar_parsers::codec::Codecs;
use instar_parsers::image::{Blocks, Driver, Extent, Image as _, Kind, open};
use instar_parsers::store::ReadAt;

/// Most extents of a disk that are looked at.
const EXTENTS_MAX: usize = 48;
/// Largest block that is decoded.
const CLUSTER_LEN_MAX: u32 = 1 << 20;
/// A file with content that an image names.
const PART: DiskId = DiskId(1);

/// What looks at an image that was opened.
pub(super) type Judge<'a> = &'a dyn Fn(&dyn Blocks, &mut FuzzReader<'_>);

/// What is known of an image before it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing.
    Anything,
    /// It was checked: every block is in the file, and has a place of its own.
    Clean,
}

/// [`walk_to`] of what may be anything.
pub(super) fn walk(format: Format, files: Vec<FuzzImage<'_>>, judge: Judge<'_>) {
    walk_to(format, files, Expected::Anything, judge);
}

/// Opens the first of the files; every name that it holds for its content is the second. `judge` sees what was opened. Then all of
/// the disk is mapped, as far as it goes.
pub(super) fn walk_to(format: Format, files: Vec<FuzzImage<'_>>, expected: Expected, judge: Judge<'_>) {
    let is_clean = expected == Expected::Clean;
    let layer = Layer::new(DISK, Some(format), RawGate::Open);
    let second = (files.len() > 1).then_some(PART);
    let mut reader = FuzzReader::new(files);
    let mut opened = match open(&mut reader, LAYER, &layer) {
        Ok(opened) => opened,
        Err(error) => return check_error(&error),
    };
    let Driver::Blocks(blocks) = &mut opened.driver else { panic!("opened as another format") };
    if let Err(error) = blocks.attach(&mut reader, &|_| second) {
        return check_error(&error);
    }
    judge(&**blocks, &mut reader);
    let facts = blocks.facts();
    assert_eq!(facts.format, format);
    let size = blocks.virtual_size();
    assert!(size == facts.virtual_size && i64::try_from(size).is_ok(), "a disk of {size} bytes");
    assert!(facts.cluster_size.is_none_or(|size| size > 0), "blocks of no length");
    let mut at = 0;
    let mut places = Vec::new();
    for _ in 0..EXTENTS_MAX {
        if at >= size {
            break;
        }
        let extent = match blocks.map(&mut reader, at..size) {
            Ok(extent) => extent,
            Err(error) => {
                assert!(!is_clean, "clean, and {error:?}");
                return check_error(&error);
            }
        };
        if let Kind::Data { offset, .. } = extent.kind {
            places.push(offset..offset + extent.len);
        }
        decode(&mut reader, &extent);
        // What starts within it goes on in the same way.
        let middle = at + extent.len / 2;
        let within = match blocks.map(&mut reader, middle..extent.end()) {
            Ok(within) => within,
            Err(Error::OutOfBudget(_)) => return,
            Err(error) => panic!("sound a moment ago: {error:?}"),
        };
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

/// Holds bytes at these places of a disk of one file against the model, and decodes what is compressed.
pub(super) fn check_lookups(
    image: &dyn Blocks,
    reader: &mut FuzzReader<'_>,
    places: &[u64],
    place: &dyn Fn(u64) -> Place,
) {
    for &at in places.iter().filter(|at| **at < image.virtual_size()) {
        if let Some(extent) = check_lookup(image, reader, DISK, at, place) {
            decode(reader, &extent);
        }
    }
}

/// Decodes a compressed block, as the mover would.
fn decode(reader: &mut FuzzReader<'_>, extent: &Extent) {
    let Kind::Encoded { disk, offset, len, padding: _, codec, cluster_size, skip: _ } = extent.kind else { return };
    if cluster_size <= CLUSTER_LEN_MAX {
        let io: &mut dyn ReadAt = reader;
        let mut stream = vec![0; len as usize];
        if io.read_padded(disk, offset, &mut stream).is_ok() {
            let _ = Codecs::SMALL.decoder().decode(codec, &stream, &mut vec![0; cluster_size as usize]);
        }
    }
}

/// The same place, of the shorter one's length.
fn starts_alike(a: Extent, b: Extent) -> bool {
    let len = a.len.min(b.len);
    a.split(len).0 == b.split(len).0
}
