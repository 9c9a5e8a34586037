//! What of a volume is past the end of its file. QEMU has no such check.

use super::Header;
use crate::align;
use crate::image::{Findings, padded_len};
use crate::store::ReadAt;
use alloc::vec::Vec;
use instar_abi::check::{Checked, Finding, LuksFinding};
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{Error, LuksError};
use instar_abi::format::Format;
use instar_abi::request::DiskId;

/// Checks a volume: the header as when it is opened, and that key material and payload are in the file.
///
/// # Errors
/// `refused`, of a header that no volume has. Those of the reads and of the listener.
pub fn check(io: &mut dyn Findings, disk: DiskId, refused: impl FnOnce(LuksError) -> Error) -> Result<Checked, Error> {
    let bytes: [u8; Header::LEN] = (io as &mut dyn ReadAt).read_wire(disk, 0)?;
    let header = Header::parse(&bytes).map_err(refused)?;
    let file_len = padded_len(io, disk);
    let mut found = Vec::new();
    if header.slots.iter().all(|slot| !slot.active) {
        found.push(LuksFinding::NoSlot);
    }
    for (slot, number) in header.slots.iter().zip(0..).filter(|(slot, _)| slot.active) {
        let len = u64::from(header.key_len).saturating_mul(slot.stripes.into());
        let end = slot.key_offset.saturating_add(align::up(len, SECTOR_LEN).unwrap_or(u64::MAX));
        if end > file_len {
            found.push(LuksFinding::SlotPastEnd { slot: number });
        }
    }
    // A volume may be empty; its header may not.
    if header.payload_offset > file_len {
        found.push(LuksFinding::PayloadPastEnd { offset: header.payload_offset, file_len });
    }
    let checked = Checked { corruptions: found.len() as u64, ..Checked::new(Format::Luks) };
    for finding in found {
        io.tell(Finding::Luks(finding))?;
    }
    Ok(checked)
}
