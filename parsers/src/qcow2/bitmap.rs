//! The bitmap directory, entry by entry, and the tables it points at.

use super::extensions::{BitmapsPlace, until_nul};
use super::header::Header;
use super::limits;
use super::wire::{self, entry};
use crate::align;
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::error::{Error, Qcow2Error};
use instar_abi::request::{DiskId, LayerId};

/// A persistent dirty bitmap. Having one proves what QEMU's `check_dir_entry` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Name, up to its NUL.
    pub name: Vec<u8>,
    /// Bytes that a bit stands for, log2.
    pub granularity_bits: u8,
    /// It was not saved properly, or is being modified.
    pub in_use: bool,
    /// It is to be enabled when the image is opened.
    pub auto: bool,
    /// Offset of its table, cluster-aligned.
    pub table_offset: u64,
    /// Entries of its table.
    pub table_count: u32,
}

/// Reads the whole directory, and checks each bitmap as opening the image in QEMU does.
///
/// # Errors
/// The first thing that QEMU does not accept; those of the reads.
pub fn read_all(
    io: &mut dyn ReadAt,
    layer: LayerId,
    disk: DiskId,
    header: &Header,
    place: &BitmapsPlace,
) -> Result<Vec<Bitmap>, Error> {
    let refuse = |error| Error::Qcow2 { layer, error };
    let end = place.offset.saturating_add(place.len);
    let mut bitmaps = Vec::new();
    let mut at = place.offset;
    while at < end {
        io.budget().take_steps(1)?;
        let index = u32::try_from(bitmaps.len()).unwrap_or(u32::MAX);
        let wire: wire::BitmapEntry = io.read_wire(disk, at)?;
        let extra_at = at.saturating_add(size_of_val(&wire) as u64);
        let name_at = extra_at.saturating_add(wire.extra_data_size.get().into());
        let next = align::up(name_at.saturating_add(wire.name_size.get().into()), 8).unwrap_or(u64::MAX);
        if next > end || index >= place.count {
            return Err(refuse(Qcow2Error::BitmapDirectory { index }));
        }
        if wire.extra_data_size.get() != 0 {
            return Err(refuse(Qcow2Error::BitmapExtraData { index }));
        }
        check_entry(&wire, index, header).map_err(refuse)?;
        let name = io.read_vec(disk, name_at, wire.name_size.get().into())?;
        bitmaps.push(Bitmap {
            name: until_nul(&name).to_vec(),
            granularity_bits: wire.granularity_bits,
            in_use: wire.flags.get() & FLAG_IN_USE != 0,
            auto: wire.flags.get() & FLAG_AUTO != 0,
            table_offset: wire.table_offset.get(),
            table_count: wire.table_size.get(),
        });
        at = next;
    }
    let found = u32::try_from(bitmaps.len()).unwrap_or(u32::MAX);
    if found != place.count {
        return Err(refuse(Qcow2Error::BitmapDirectory { index: found }));
    }
    check_loadable(io, layer, disk, header, &bitmaps)?;
    #[cfg(any(test, feature = "invariants"))]
    super::invariants::check_bitmaps(header, place, &bitmaps);
    Ok(bitmaps)
}

const FLAG_IN_USE: u32 = 1 << 0;
const FLAG_AUTO: u32 = 1 << 1;
const FLAGS_KNOWN: u32 = FLAG_IN_USE | FLAG_AUTO;
const KIND_DIRTY_TRACKING: u8 = 1;

fn check_entry(wire: &wire::BitmapEntry, index: u32, header: &Header) -> Result<(), Qcow2Error> {
    let granularity = limits::BITMAP_GRANULARITY_BITS_MIN..=limits::BITMAP_GRANULARITY_BITS_MAX;
    let table_count = wire.table_size.get();
    let table_offset = wire.table_offset.get();
    // At most 2^27 entries of at most 2^21 bytes, and at most 2^29 bytes of bitmap of 2^34 bytes a byte.
    let bitmap_len = u64::from(table_count).saturating_mul(header.cluster_size().into());
    let covered = u128::from(bitmap_len).saturating_mul(8).checked_shl(wire.granularity_bits.into()).unwrap_or(0);
    let sound = table_count != 0
        && table_count <= limits::BITMAP_TABLE_SIZE_MAX
        && table_offset != 0
        && table_offset.is_multiple_of(header.cluster_size().into())
        && granularity.contains(&wire.granularity_bits)
        && wire.flags.get() & !FLAGS_KNOWN == 0
        && wire.name_size.get() <= limits::BITMAP_NAME_LEN_MAX
        && wire.kind == KIND_DIRTY_TRACKING
        && bitmap_len <= limits::BITMAP_LEN_MAX
        && (wire.flags.get() & FLAG_IN_USE != 0 || u128::from(header.virtual_size) <= covered);
    if sound { Ok(()) } else { Err(Qcow2Error::BitmapConstraint { index }) }
}

/// QEMU loads each bitmap when it opens an image: names differ, and the table of one that is in order fits.
fn check_loadable(
    io: &mut dyn ReadAt,
    layer: LayerId,
    disk: DiskId,
    header: &Header,
    bitmaps: &[Bitmap],
) -> Result<(), Error> {
    let refuse = |error| Error::Qcow2 { layer, error };
    let twice = name_twice(bitmaps);
    for (index, bitmap) in bitmaps.iter().enumerate() {
        let is_twice = twice == Some(index);
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        if is_twice {
            return Err(refuse(Qcow2Error::BitmapNameTwice { index }));
        }
        if bitmap.in_use {
            continue;
        }
        let bits = header.virtual_size.div_ceil(1u64.checked_shl(bitmap.granularity_bits.into()).unwrap_or(1));
        // QEMU stores bitmaps in words of 64 bits.
        let bytes = bits.div_ceil(64).saturating_mul(8);
        let expected = bytes.div_ceil(header.cluster_size().into());
        if u64::from(bitmap.table_count) != expected || !is_table_sound(io, disk, header, bitmap)? {
            return Err(refuse(Qcow2Error::BitmapTable { index }));
        }
    }
    Ok(())
}

/// The first bitmap whose name one before it has.
fn name_twice(bitmaps: &[Bitmap]) -> Option<usize> {
    let mut names: Vec<(&[u8], usize)> = bitmaps.iter().map(|bitmap| bitmap.name.as_slice()).zip(0..).collect();
    names.sort_unstable();
    let pairs = names.iter().zip(names.iter().skip(1));
    pairs.filter(|((before, _), (name, _))| before == name).map(|(_, (_, index))| *index).min()
}

/// Whether every entry of a bitmap's table is one that QEMU accepts.
fn is_table_sound(io: &mut dyn ReadAt, disk: DiskId, header: &Header, bitmap: &Bitmap) -> Result<bool, Error> {
    let mut at = bitmap.table_offset;
    let mut left = u64::from(bitmap.table_count).saturating_mul(8);
    let mut buf = [0; 2048];
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let Some(piece) = buf.get_mut(..len) else { break };
        io.budget().take_steps(len as u64 / 8)?;
        io.read_padded(disk, at, piece)?;
        for raw in piece.as_chunks().0 {
            let raw = u64::from_be_bytes(*raw);
            let offset = raw & entry::OFFSET;
            let ones = raw & entry::BITMAP_ONES != 0;
            let aligned = offset.is_multiple_of(header.cluster_size().into());
            if raw & entry::BITMAP_RESERVED != 0 || (offset != 0 && ones) || !aligned {
                return Ok(false);
            }
        }
        at = at.saturating_add(len as u64);
        left = left.saturating_sub(len as u64);
    }
    Ok(true)
}
