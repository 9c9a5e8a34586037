//! What is wrong with the table of an image.

use super::{UNALLOCATED_MIN, Vdi, wire};
use crate::image::Findings;
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::check::{Checked, Finding, VdiFinding};
use instar_abi::error::Error;
use instar_abi::format::Format;

/// Entries of the table that are looked at together.
const CHUNK: u64 = 64 << 10;

impl Vdi {
    /// Checks that every block is used once, within bounds, and that as many are in use as the header says.
    ///
    /// # Errors
    /// Those of the reads and of the listener; the heap's budget is used up.
    ///
    /// # Source
    /// `vdi_co_check` of QEMU 10.0.
    pub fn check(&self, io: &mut dyn Findings) -> Result<Checked, Error> {
        let header: wire::Header = (io as &mut dyn ReadAt).read_wire(self.disk, 0)?;
        let entries = u64::from(header.blocks_in_image.get());
        let mut used = io.budget().zeroed(usize::try_from(entries.div_ceil(8)).unwrap_or(usize::MAX))?;
        let mut checked = Checked::new(Format::Vdi);
        let mut found = Vec::new();
        let (mut allocated, mut index) = (0u32, 0u64);
        while index < entries {
            let count = entries.saturating_sub(index).min(CHUNK);
            let at = self.table_offset.saturating_add(index.saturating_mul(4));
            let len = usize::try_from(count.saturating_mul(4)).unwrap_or(0);
            let read = io.read_each(self.disk, &[at], len)?;
            for (raw, index) in read.first().map_or(&[][..], |bytes| bytes.as_chunks::<4>().0).iter().zip(index..) {
                let block = u32::from_le_bytes(*raw);
                if block >= UNALLOCATED_MIN {
                    continue;
                }
                if u64::from(block) >= entries {
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    found.push(VdiFinding::BlockTooLarge { index, block });
                    continue;
                }
                allocated = allocated.saturating_add(1);
                let bit = 1u8.wrapping_shl(block & 7);
                if let Some(byte) = usize::try_from(block / 8).ok().and_then(|at| used.get_mut(at)) {
                    if *byte & bit != 0 {
                        found.push(VdiFinding::BlockTwice { block });
                    }
                    *byte |= bit;
                }
            }
            for finding in found.drain(..) {
                checked.corruptions = checked.corruptions.saturating_add(1);
                io.tell(Finding::Vdi(finding))?;
            }
            index = index.saturating_add(count);
        }
        io.budget().give_heap(used.len() as u64);
        let expected = header.blocks_allocated.get();
        if allocated != expected {
            checked.corruptions = checked.corruptions.saturating_add(1);
            io.tell(Finding::Vdi(VdiFinding::Allocated { found: allocated, expected }))?;
        }
        Ok(checked)
    }
}
