//! A disk in blocks, mapped byte by byte and held against the model.

use super::check_error;
use crate::image::FuzzReader;
use crate::model::place::Place;
use instar_abi::error::Error;
use instar_abi::request::DiskId;
use instar_parsers::image::{Blocks, Extent, Image as _, Kind};

/// Maps byte `at` of the disk, and as much as follows in the same way, and holds its first and its last byte against `place`.
/// `None`: it can't be read, as the model says, or the budget is gone.
///
/// # Panics
/// The image maps it elsewhere, or refuses what is sound.
pub fn check_lookup(
    image: &dyn Blocks,
    reader: &mut FuzzReader<'_>,
    disk: DiskId,
    at: u64,
    place: &dyn Fn(u64) -> Place,
) -> Option<Extent> {
    let expected = place(at);
    match image.map(reader, at..image.virtual_size()) {
        Ok(extent) => {
            check_byte(&extent, at, disk, expected);
            check_byte(&extent, extent.end() - 1, disk, place(extent.end() - 1));
            Some(extent)
        }
        Err(Error::OutOfBudget(_)) => None,
        Err(error) => {
            check_error(&error);
            assert_eq!(expected, Place::Broken, "{at:#x} is refused: {error:?}");
            None
        }
    }
}

fn check_byte(extent: &Extent, at: u64, disk: DiskId, expected: Place) {
    let found = match extent.kind {
        Kind::Hole => Place::Hole,
        Kind::Zero => Place::Zero,
        Kind::Data { disk: on, offset } if on == disk => Place::Data(offset + (at - extent.start)),
        Kind::Encoded { disk: on, offset, .. } if on == disk => Place::Stream(offset),
        other => panic!("{at:#x} is on another disk: {other:?}"),
    };
    assert_eq!(found, expected, "{at:#x} is mapped elsewhere: {extent:?}");
}
