//! The metadata region: what kind of disk it is.

use super::parent::{self, Parent};
use super::{check_sizes, wire};
use crate::align;
use crate::image::Layered;
use crate::store::ReadAt;
use core::ops::Range;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Structure};
use instar_abi::request::DiskId;
use wire::{Item, MetadataTable};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

/// Flag of an item: who does not know it may not open the file.
const REQUIRED: u32 = 4;
/// Flag of [`wire::ITEM_FILE`]: there is a parent.
const HAS_PARENT: u32 = 2;

/// What the items say. Having one proves: block and sector size are powers of two within their bounds.
pub struct Metadata {
    /// Bytes of a block.
    pub block_size: u64,
    /// Bytes of a sector that the machine sees.
    pub sector_size: u64,
    /// Virtual size in bytes.
    pub virtual_size: u64,
    /// The parent of a differencing disk.
    pub parent: Option<Parent>,
}

impl Metadata {
    /// Reads the items.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn read(io: &mut dyn ReadAt, layered: Layered, disk: DiskId, region: &Range<u64>) -> Result<Self, Error> {
        let bytes = io.read_vec(disk, region.start, wire::TABLE_LEN)?;
        let broken = BlockError::Magic { structure: Structure::Metadata };
        let Ok((table, entries)) = MetadataTable::read_from_prefix(&bytes) else { return Err(layered.error(broken)) };
        layered.check(table.signature == wire::METADATA_SIGNATURE, broken)?;
        let entries = entries.chunks_exact(size_of::<Item>());
        layered.check(usize::from(table.count.get()) <= entries.len(), broken)?;
        let mut found = [const { None::<Range<u64>> }; 6];
        for (index, entry) in (0u64..).zip(entries).take(table.count.get().into()) {
            let Ok(item) = Item::read_from_bytes(entry) else { break };
            let known = KNOWN.iter().position(|id| *id == item.id);
            match known.and_then(|known| found.get_mut(known)) {
                Some(slot @ None) => {
                    let start = region.start.saturating_add(item.offset.get().into());
                    *slot = Some(start..start.saturating_add(item.len.get().into()));
                }
                Some(Some(_)) => {
                    let found = item.offset.get().into();
                    return Err(layered.error(BlockError::Entry { structure: Structure::Metadata, index, found }));
                }
                None => {
                    layered.check(item.flags.get() & REQUIRED == 0, BlockError::Features { unknown: index })?;
                }
            }
        }
        let [Some(file), Some(size), Some(_), Some(logical), Some(_), locator] = found else {
            return Err(layered.error(BlockError::Truncated { structure: Structure::Metadata }));
        };
        let [block_size, flags] = io.read_wire::<[U32; 2]>(disk, file.start)?;
        let parent = match locator {
            _ if flags.get() & HAS_PARENT == 0 => None,
            Some(locator) => Some(parent::read(io, layered, disk, &locator)?),
            None => return Err(layered.error(BlockError::Differencing)),
        };
        let metadata = Self {
            block_size: block_size.get().into(),
            sector_size: io.read_wire::<U32>(disk, logical.start)?.get().into(),
            // Counted in sectors, as in QEMU.
            virtual_size: align::down(io.read_wire::<U64>(disk, size.start)?.get(), SECTOR_LEN),
            parent,
        };
        check_sizes(layered, &metadata)?;
        Ok(metadata)
    }
}

/// The items that are known; all but the last must be there.
const KNOWN: [[u8; 16]; 6] = [
    wire::ITEM_FILE,
    wire::ITEM_SIZE,
    wire::ITEM_PAGE_83,
    wire::ITEM_LOGICAL_SECTOR,
    wire::ITEM_PHYSICAL_SECTOR,
    wire::ITEM_PARENT,
];
