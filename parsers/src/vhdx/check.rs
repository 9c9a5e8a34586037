//! What is wrong with headers and table of an image.

use super::log::Replayed;
use super::{ALIGNMENT, Vhdx, headers, region_table, state, wire};
use crate::align;
use crate::image::{Findings, Occupied, Scope, padded_len};
use crate::store::ReadAt;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::check::{Checked, Finding, VhdxFinding};
use instar_abi::error::Error;
use instar_abi::format::Format;

/// Entries of the table that are looked at together.
const CHUNK: u64 = 64 << 10;
/// Bits of an entry between its state and its place.
const RESERVED: u64 = 0xf_fff8;

/// A check as it goes on.
struct Check<'a> {
    image: &'a Vhdx,
    scope: Scope,
    file_len: u64,
    /// Blocks that QEMU looks at before it takes one for a bitmap.
    until_bitmap: u64,
    /// In units of [`ALIGNMENT`].
    used: Occupied,
    /// Blocks of the chunk that are there in part; its bitmap's entry follows them.
    partial: Vec<u64>,
    checked: Checked,
}

/// A block that has a place.
struct Block {
    index: u64,
    offset: u64,
    /// Bytes of it that hold content.
    len: u64,
    /// Bytes.
    size: u64,
}

impl Vhdx {
    /// Checks that every block is in the file and in no other region. As a whole, too: both headers and region tables, the
    /// log, states, and that no two blocks are in one place.
    ///
    /// # Errors
    /// Those of the reads and of the listener; the heap's budget is used up.
    ///
    /// # Source
    /// `vhdx_check_bat_entries` of QEMU 10.0; MS-VHDX, section 2.5.1.
    pub fn check(&self, io: &mut dyn Findings, scope: Scope) -> Result<Checked, Error> {
        let file_len = padded_len(&Replayed::new(io, self.disk, self.log.as_ref()), self.disk);
        let units = if scope == Scope::Whole { file_len.div_ceil(ALIGNMENT) } else { 0 };
        let used = Occupied::new(io.budget(), units)?;
        let checked = Checked::new(Format::Vhdx);
        let until_bitmap = self.chunk_blocks;
        let mut check = Check { image: self, scope, file_len, until_bitmap, used, partial: Vec::new(), checked };
        if scope == Scope::Whole {
            check.copies(io)?;
        }
        loop {
            check.table(io)?;
            if !check.used.next_window() {
                break;
            }
        }
        check.used.drop_into(io.budget());
        Ok(check.checked)
    }
}

impl Check<'_> {
    fn corrupt(&mut self, io: &mut dyn Findings, finding: VhdxFinding) -> Result<(), Error> {
        self.checked.corruptions = self.checked.corruptions.saturating_add(1);
        io.tell(Finding::Vhdx(finding))
    }

    /// Looks at what is there twice, and at the log.
    fn copies(&mut self, io: &mut dyn Findings) -> Result<(), Error> {
        let disk = self.image.disk;
        for (header, number) in headers(io, disk)?.iter().zip(1..) {
            if header.is_none() {
                self.corrupt(io, VhdxFinding::Header { number })?;
            }
        }
        if self.image.log.is_some() {
            self.corrupt(io, VhdxFinding::Log)?;
        }
        let mut tables = Vec::new();
        for (offset, number) in wire::REGION_OFFSETS.into_iter().zip(1..) {
            let replayed: &mut dyn ReadAt = &mut Replayed::new(io, disk, self.image.log.as_ref());
            let table = region_table(replayed, disk, offset)?;
            match table {
                Some(bytes) => tables.push(bytes),
                None => self.corrupt(io, VhdxFinding::RegionTable { number })?,
            }
        }
        io.budget().give_heap((wire::TABLE_LEN as u64).saturating_mul(tables.len() as u64));
        match tables.as_slice() {
            [a, b] if a != b => self.corrupt(io, VhdxFinding::RegionTablesDiffer),
            _ => Ok(()),
        }
    }

    /// Goes through the table.
    fn table(&mut self, io: &mut dyn Findings) -> Result<(), Error> {
        let image = self.image;
        let len = usize::try_from(image.entries.min(CHUNK).saturating_mul(8)).unwrap_or(0);
        let mut bytes = io.budget().zeroed(len)?;
        let mut first = 0;
        while first < image.entries {
            let count = image.entries.saturating_sub(first).min(CHUNK);
            let chunk = bytes.get_mut(..usize::try_from(count.saturating_mul(8)).unwrap_or(0)).unwrap_or_default();
            let at = image.table_offset.saturating_add(first.saturating_mul(8));
            let replayed: &mut dyn ReadAt = &mut Replayed::new(io, image.disk, image.log.as_ref());
            replayed.read_padded(image.disk, at, chunk)?;
            for (raw, index) in chunk.as_chunks::<8>().0.iter().zip(first..) {
                self.entry(io, index, u64::from_le_bytes(*raw))?;
            }
            first = first.saturating_add(count);
        }
        io.budget().give_heap(bytes.len() as u64);
        Ok(())
    }

    fn entry(&mut self, io: &mut dyn Findings, index: u64, found: u64) -> Result<(), Error> {
        let (kind, offset) = (found & state::MASK, align::down(found, ALIGNMENT));
        match self.scope {
            Scope::AsQemuImg if kind == state::FULLY_PRESENT => {
                let (size, bitmaps_too) = (self.image.block_size, index.wrapping_mul(self.image.block_size));
                // QEMU counts bitmaps as blocks here.
                let len = size.min(self.image.facts.virtual_size.wrapping_sub(bitmaps_too));
                let block = Block { index, offset, len, size };
                self.place(io, &block)?;
                let Some(until_bitmap) = self.until_bitmap.checked_sub(1) else {
                    self.until_bitmap = self.image.chunk_blocks;
                    return Ok(());
                };
                self.until_bitmap = until_bitmap;
                // The front of the file is no region to QEMU.
                self.region(io, &block, 1)
            }
            Scope::AsQemuImg => Ok(()),
            Scope::Whole => self.entry_as_a_whole(io, index, found),
        }
    }

    /// Tells of a block that is not in the file.
    fn place(&mut self, io: &mut dyn Findings, block: &Block) -> Result<bool, Error> {
        let Block { index, offset, len, size } = *block;
        let file_len = self.file_len;
        let mut is_inside = true;
        if offset > (i64::MAX as u64).saturating_sub(size) {
            self.corrupt(io, VhdxFinding::Overflow { index })?;
            is_inside = false;
        }
        let end = offset.wrapping_add(len);
        if offset >= file_len {
            self.corrupt(io, VhdxFinding::StartPastEnd { index, offset, file_len })?;
            is_inside = false;
        } else if end > file_len {
            self.corrupt(io, VhdxFinding::EndPastEnd { index, last: end.wrapping_sub(1), file_len })?;
            is_inside = false;
        }
        Ok(is_inside)
    }

    /// Tells of a block that is in a region, which are looked at from the last to the one after `first`.
    fn region(&mut self, io: &mut dyn Findings, block: &Block, first: usize) -> Result<(), Error> {
        let (start, end) = (block.offset, block.offset.wrapping_add(block.size));
        let meets = |region: &&Range<u64>| start < region.end && end > region.start;
        let met = self.image.taken.iter().skip(first).rev().find(meets).cloned();
        let Some(Range { start: region_start, end: region_end }) = met else { return Ok(()) };
        self.corrupt(io, VhdxFinding::RegionOverlap { start, end, region_start, region_end })
    }

    fn entry_as_a_whole(&mut self, io: &mut dyn Findings, index: u64, found: u64) -> Result<(), Error> {
        let image = self.image;
        let (kind, offset) = (found & state::MASK, align::down(found, ALIGNMENT));
        let (chunk, within) = (align::units(index, image.chunk_len()), align::within(index, image.chunk_len()));
        let is_bitmap = within == image.chunk_blocks;
        let is_known = match kind {
            state::NOT_PRESENT | state::FULLY_PRESENT => true,
            state::PARTIALLY_PRESENT => !is_bitmap && image.parent.is_some(),
            state::UNDEFINED | state::ZERO | state::UNMAPPED => !is_bitmap,
            _ => false,
        };
        if self.used.is_first() {
            if !is_known {
                self.corrupt(io, VhdxFinding::State { index, state: u8::try_from(kind).unwrap_or(u8::MAX) })?;
            }
            if found & RESERVED != 0 {
                self.corrupt(io, VhdxFinding::Reserved { index, entry: found })?;
            }
            self.bitmap_of(io, index, kind, is_bitmap)?;
        }
        if !is_known || !matches!(kind, state::FULLY_PRESENT | state::PARTIALLY_PRESENT) {
            return Ok(());
        }
        let block = match is_bitmap {
            true => Block { index, offset, len: ALIGNMENT, size: ALIGNMENT },
            false => {
                let start = index.saturating_sub(chunk).saturating_mul(image.block_size);
                let len = image.block_size.min(image.facts.virtual_size.saturating_sub(start));
                Block { index, offset, len, size: image.block_size }
            }
        };
        if self.used.is_first() {
            if !self.place(io, &block)? {
                return Ok(());
            }
            self.region(io, &block, 0)?;
        }
        if let Some(at) = self.used.take(align::units(offset, ALIGNMENT), align::units(block.size, ALIGNMENT)) {
            self.corrupt(io, VhdxFinding::Shared { index, offset: at.saturating_mul(ALIGNMENT) })?;
        }
        Ok(())
    }

    /// Notes blocks that are there in part, and tells of them where their chunk's bitmap is not there.
    fn bitmap_of(&mut self, io: &mut dyn Findings, index: u64, kind: u64, is_bitmap: bool) -> Result<(), Error> {
        if !is_bitmap {
            if kind == state::PARTIALLY_PRESENT && self.image.parent.is_some() {
                self.partial.push(index);
            }
            return Ok(());
        }
        let partial = core::mem::take(&mut self.partial);
        if kind == state::FULLY_PRESENT {
            return Ok(());
        }
        for index in partial {
            self.corrupt(io, VhdxFinding::NoBitmap { index })?;
        }
        Ok(())
    }
}
