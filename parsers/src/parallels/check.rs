//! What is wrong with header and table of an image.

use super::{Parallels, TABLE_OFFSET, wire};
use crate::align;
use crate::image::Findings;
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::check::{Checked, Finding, ParallelsFinding};
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;
use instar_abi::format::Format;

/// What `in_use` says while a program writes to the image.
const IN_USE: u32 = 0x746f_6e59;
/// Entries of the table that are looked at together.
const CHUNK: u64 = 64 << 10;

/// A check as it goes on.
struct Check<'a> {
    image: &'a Parallels,
    file_len: u64,
    checked: Checked,
}

impl Parallels {
    /// Checks the header's marks, that every block lies within the file and is used once, and what of the file none uses.
    ///
    /// # Errors
    /// Those of the reads and of the listener; the heap's budget is used up.
    ///
    /// # Source
    /// `parallels_co_check` of QEMU 10.0.
    pub fn check(&self, io: &mut dyn Findings) -> Result<Checked, Error> {
        let header: wire::Header = (io as &mut dyn ReadAt).read_wire(self.disk, 0)?;
        let file_len = align::up(io.len(self.disk), SECTOR_LEN).unwrap_or(u64::MAX);
        let mut check = Check { image: self, file_len, checked: Checked::new(Format::Parallels) };
        if header.in_use.get() == IN_USE {
            check.corrupt(io, ParallelsFinding::Unclean)?;
        }
        let (data_start, is_sound) = check.data_start(&header);
        if !is_sound {
            check.corrupt(io, ParallelsFinding::DataOffset)?;
        }
        check.past_end(io, data_start)?;
        check.leaks(io)?;
        check.twice(io)?;
        check.statistics(io)?;
        Ok(check.checked)
    }
}

impl Check<'_> {
    fn corrupt(&mut self, io: &mut dyn Findings, finding: ParallelsFinding) -> Result<(), Error> {
        self.checked.corruptions = self.checked.corruptions.saturating_add(1);
        io.tell(Finding::Parallels(finding))
    }

    /// Where blocks start, in bytes, and whether the header says so.
    fn data_start(&self, header: &wire::Header) -> (u64, bool) {
        let table_end = TABLE_OFFSET.saturating_add(self.image.entries.saturating_mul(4));
        // Only in the newer form do blocks start at a block.
        let is_old = self.image.unit == 1 && header.magic == *b"WithoutFreeSpace";
        let unit = if is_old { SECTOR_LEN } else { self.image.block_size };
        let least = align::up(table_end, unit).unwrap_or(u64::MAX);
        let said = u64::from(header.data_offset.get()).saturating_mul(SECTOR_LEN);
        if said == 0 && is_old {
            return (least, true);
        }
        if said < least || said > self.file_len { (least, false) } else { (said, true) }
    }

    /// Tells of blocks past the end of the file; the image ends behind the last block within it.
    fn past_end(&mut self, io: &mut dyn Findings, data_start: u64) -> Result<(), Error> {
        let (block_size, file_len) = (self.image.block_size, self.file_len);
        let mut last = 0;
        let mut past = Vec::new();
        let mut index = 0;
        while index < self.image.entries {
            let offsets = self.chunk(io, index)?;
            for (offset, index) in offsets.iter().zip(index..) {
                if offset.saturating_add(block_size) > file_len {
                    past.push(u32::try_from(index).unwrap_or(u32::MAX));
                } else {
                    last = last.max(*offset);
                }
            }
            for index in past.drain(..) {
                self.corrupt(io, ParallelsFinding::PastEnd { index })?;
            }
            index = index.saturating_add(offsets.len() as u64);
        }
        self.checked.image_end_offset = if last == 0 { data_start } else { last.saturating_add(block_size) };
        Ok(())
    }

    /// Tells of what is behind the end of the image.
    fn leaks(&mut self, io: &mut dyn Findings) -> Result<(), Error> {
        let len = self.file_len.saturating_sub(self.checked.image_end_offset);
        if len == 0 {
            return Ok(());
        }
        self.checked.leaks = len.div_ceil(self.image.block_size);
        io.tell(Finding::Parallels(ParallelsFinding::Leaked { len }))
    }

    /// Tells of entries whose block another one before them has.
    fn twice(&mut self, io: &mut dyn Findings) -> Result<(), Error> {
        // Blocks may be anywhere: in sectors, each is noted by its first.
        let block_size = self.image.block_size;
        let bits = self.checked.image_end_offset.div_ceil(block_size);
        let mut used = io.budget().zeroed(usize::try_from(bits.div_ceil(8)).unwrap_or(usize::MAX))?;
        let mut twice = Vec::new();
        let mut index = 0;
        while index < self.image.entries {
            let offsets = self.chunk(io, index)?;
            for (offset, index) in offsets.iter().zip(index..).filter(|(offset, _)| **offset > 0) {
                let block = align::units(*offset, block_size);
                let Some(byte) = usize::try_from(block / 8).ok().and_then(|at| used.get_mut(at)) else { continue };
                let bit = 1u8.wrapping_shl((block & 7) as u32);
                if *byte & bit != 0 {
                    twice.push(u32::try_from(index).unwrap_or(u32::MAX));
                }
                *byte |= bit;
            }
            for index in twice.drain(..) {
                self.corrupt(io, ParallelsFinding::Twice { index })?;
            }
            index = index.saturating_add(offsets.len() as u64);
        }
        io.budget().give_heap(used.len() as u64);
        Ok(())
    }

    fn statistics(&mut self, io: &mut dyn Findings) -> Result<(), Error> {
        let block_size = self.image.block_size;
        self.checked.total_clusters = self.image.entries;
        let (mut before, mut index) = (0u64, 0u64);
        while index < self.image.entries {
            let offsets = self.chunk(io, index)?;
            for offset in &offsets {
                if *offset == 0 || offset.saturating_add(block_size) > self.checked.image_end_offset {
                    before = 0;
                    continue;
                }
                if before != 0 && before.saturating_add(block_size) != *offset {
                    self.checked.fragmented_clusters = self.checked.fragmented_clusters.saturating_add(1);
                }
                before = *offset;
                self.checked.allocated_clusters = self.checked.allocated_clusters.saturating_add(1);
            }
            index = index.saturating_add(offsets.len() as u64);
        }
        Ok(())
    }

    /// Where the blocks of some entries are, from `index` on; 0: nowhere. At least one entry, where there is one.
    fn chunk(&self, io: &mut dyn Findings, index: u64) -> Result<Vec<u64>, Error> {
        let count = self.image.entries.saturating_sub(index).min(CHUNK);
        let at = TABLE_OFFSET.saturating_add(index.saturating_mul(4));
        let read = io.read_each(self.image.disk, &[at], usize::try_from(count.saturating_mul(4)).unwrap_or(0))?;
        let entries = read.first().map_or(&[][..], |bytes| bytes.as_chunks::<4>().0);
        let unit = self.image.unit.saturating_mul(SECTOR_LEN);
        Ok(entries.iter().map(|raw| u64::from(u32::from_le_bytes(*raw)).saturating_mul(unit)).collect())
    }
}
