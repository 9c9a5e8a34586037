//! What is wrong with an image's extents.
//!
//! ```text
//! qemu-img's check   grain by grain along the disk: can its entry be read, is its place in the file?   up to the first that is not
//! ours               every extent: its header, its tables, what its file is used for, by whom           all of it
//! ```

mod extent;
mod walk;

use super::{Body, Vmdk};
use crate::image::{Findings, Scope, Tables, padded_len};
use alloc::vec::Vec;
use instar_abi::check::{CheckFailure, Checked, Finding, VmdkFinding};
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error};
use instar_abi::format::Format;
use instar_abi::request::DiskId;

/// A check as it goes on.
struct Check {
    tables: Tables,
    checked: Checked,
}

impl Check {
    fn corrupt(&mut self, io: &mut dyn Findings, finding: VmdkFinding) -> Result<(), Error> {
        self.checked.corruptions = self.checked.corruptions.saturating_add(1);
        io.tell(Finding::Vmdk(finding))
    }
}

impl Vmdk {
    /// Checks that every grain is in the file. As a whole, too: headers, the redundant directory, markers, and that no two
    /// things are in one place.
    ///
    /// # Errors
    /// [`BlockError::NoExtent`]: a file with content is not there. Those of the reads and of the listener; a budget that is
    /// used up.
    ///
    /// # Source
    /// `vmdk_co_check` of QEMU 10.0; VMware, "Virtual Disk Format 5.0".
    pub fn check(&self, io: &mut dyn Findings, scope: Scope) -> Result<Checked, Error> {
        let file_len = self.disks()?.into_iter().map(|disk| padded_len(io, disk)).fold(0, u64::saturating_add);
        let mut check = Check { tables: Tables::of(file_len), checked: Checked::new(Format::Vmdk) };
        match scope {
            Scope::AsQemuImg => self.walk(io, &mut check)?,
            Scope::Whole => {
                for (index, part) in (0u32..).zip(&self.extents) {
                    self.extent(io, &mut check, index, part)?;
                }
            }
        }
        Ok(check.checked)
    }

    /// The files with content, each once.
    fn disks(&self) -> Result<Vec<DiskId>, Error> {
        let mut disks = Vec::new();
        for (index, part) in (0u32..).zip(&self.extents) {
            let disk = match &part.body {
                Body::Zero => continue,
                Body::Flat { disk, .. } => *disk,
                Body::Grains(grains) => grains.disk,
                Body::Missing => return Err(self.layered.error(BlockError::NoExtent { index })),
            };
            if !disks.contains(&disk) {
                disks.push(disk);
            }
        }
        Ok(disks)
    }

    /// Goes along the disk as QEMU does: a grain at the end of an extent that is longer than what is left of it hides the
    /// front of the next one.
    fn walk(&self, io: &mut dyn Findings, check: &mut Check) -> Result<(), Error> {
        let mut sector = 0u64;
        for part in &self.extents {
            let (start, len) = (part.start / SECTOR_LEN, part.len / SECTOR_LEN);
            if sector >= start.saturating_add(len) {
                continue;
            }
            let met = match &part.body {
                Body::Zero | Body::Missing => None,
                Body::Flat { disk, offset } => {
                    let is_past = *offset >= padded_len(io, *disk);
                    is_past.then_some(VmdkFinding::GrainPastEnd { sector })
                }
                Body::Grains(grains) => grains.walk(io, &mut check.tables, start, sector)?,
            };
            if let Some(finding) = met {
                check.checked.failure = Some(match finding {
                    VmdkFinding::GrainUnreadable { .. } => CheckFailure::NotPermitted,
                    _ => CheckFailure::Invalid,
                });
                return check.corrupt(io, finding);
            }
            sector = match &part.body {
                Body::Grains(grains) => grains.end_of_walk(start, sector),
                _ => sector.saturating_add(len),
            };
        }
        Ok(())
    }
}
