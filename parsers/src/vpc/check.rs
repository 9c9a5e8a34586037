//! What is wrong with footers, header and table of an image. QEMU has no such check.

use super::wire::{self, DynamicHeader, Footer};
use super::{Dynamic, UNALLOCATED, Vpc, complement};
use crate::image::{Findings, Occupied, padded_len};
use crate::store::ReadAt;
use instar_abi::check::{Checked, Finding, VpcFinding};
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;
use instar_abi::format::Format;
use zerocopy::IntoBytes;

/// A check as it goes on.
struct Check<'a> {
    image: &'a Vpc,
    file_len: u64,
    checked: Checked,
}

impl Vpc {
    /// Checks footers and header, and that every block is in the file and none in the place of something else. The image was
    /// opened with [`Vpc::open_for_check`].
    ///
    /// # Errors
    /// Those of the reads and of the listener; the heap's budget is used up.
    ///
    /// # Source
    /// Microsoft, "Virtual Hard Disk Image Format Specification", 2006.
    pub fn check(&self, io: &mut dyn Findings) -> Result<Checked, Error> {
        let file_len = padded_len(io, self.disk);
        let mut check = Check { image: self, file_len, checked: Checked::new(Format::Vpc) };
        let bytes: &mut dyn ReadAt = io;
        // The last sector, perhaps without its last byte.
        let end: Footer = bytes.read_wire(self.disk, file_len.saturating_sub(SECTOR_LEN))?;
        match &self.dynamic {
            None => check.fixed(io, &end)?,
            Some(dynamic) => check.dynamic(io, dynamic, &end)?,
        }
        Ok(check.checked)
    }
}

impl Check<'_> {
    fn corrupt(&mut self, io: &mut dyn Findings, finding: VpcFinding) -> Result<(), Error> {
        self.checked.corruptions = self.checked.corruptions.saturating_add(1);
        io.tell(Finding::Vpc(finding))
    }

    fn version(&mut self, io: &mut dyn Findings, found: u32) -> Result<(), Error> {
        if found == wire::VERSION { Ok(()) } else { self.corrupt(io, VpcFinding::Version { found }) }
    }

    fn fixed(&mut self, io: &mut dyn Findings, footer: &Footer) -> Result<(), Error> {
        self.version(io, footer.version.get())?;
        let (found, expected) = (self.file_len.saturating_sub(SECTOR_LEN), self.image.facts.virtual_size);
        match found < expected {
            true => self.corrupt(io, VpcFinding::FixedShort { found, expected }),
            false => Ok(()),
        }
    }

    fn dynamic(&mut self, io: &mut dyn Findings, dynamic: &Dynamic, end: &Footer) -> Result<(), Error> {
        let disk = self.image.disk;
        let bytes: &mut dyn ReadAt = io;
        let front: Footer = bytes.read_wire(disk, 0)?;
        let header: DynamicHeader = bytes.read_wire(disk, front.data_offset.get())?;
        self.version(io, front.version.get())?;
        let kind = front.kind.get();
        if !matches!(kind, wire::DYNAMIC | wire::DIFFERENCING) {
            self.corrupt(io, VpcFinding::Kind { found: kind })?;
        }
        // Of 511 bytes the last one reads as zero, which it is.
        let has_end = front.as_bytes() == end.as_bytes();
        if !has_end {
            self.corrupt(io, VpcFinding::FooterCopy)?;
        }
        self.version(io, header.version.get())?;
        if header.checksum.get() != complement(DynamicHeader { checksum: 0.into(), ..header }.as_bytes()) {
            self.corrupt(io, VpcFinding::HeaderChecksum)?;
        }
        let footer_len = if has_end { SECTOR_LEN } else { 0 };
        let sectors = |len: u64| len.div_ceil(SECTOR_LEN);
        let fixed = [
            (0, 1),
            (sectors(front.data_offset.get()), sectors(size_of::<DynamicHeader>() as u64)),
            (dynamic.table_offset / SECTOR_LEN, sectors(dynamic.entries.saturating_mul(4))),
            (sectors(self.file_len.saturating_sub(footer_len)), footer_len / SECTOR_LEN),
        ];
        let mut used = Occupied::new(io.budget(), sectors(self.file_len))?;
        loop {
            for (first, count) in fixed {
                if let Some(at) = used.take(first, count) {
                    self.corrupt(io, VpcFinding::MetadataShared { at })?;
                }
            }
            self.table(io, dynamic, &mut used)?;
            if !used.next_window() {
                break;
            }
        }
        used.drop_into(io.budget());
        Ok(())
    }

    /// Goes through the table.
    fn table(&mut self, io: &mut dyn Findings, dynamic: &Dynamic, used: &mut Occupied) -> Result<(), Error> {
        let mut first = 0;
        while first < dynamic.entries {
            let chunk = dynamic.chunk(io, self.image.disk, first)?;
            for (found, index) in chunk.iter().zip(first..).filter(|(found, _)| **found != UNALLOCATED) {
                let (at, len) = (u64::from(*found), dynamic.block_len());
                if at.saturating_mul(SECTOR_LEN).saturating_add(len) > self.file_len {
                    if used.is_first() {
                        self.corrupt(io, VpcFinding::PastEnd { index })?;
                    }
                    continue;
                }
                if let Some(at) = used.take(at, len / SECTOR_LEN) {
                    self.corrupt(io, VpcFinding::Shared { index, at })?;
                }
            }
            first = first.saturating_add(chunk.len().max(1) as u64);
        }
        Ok(())
    }
}
