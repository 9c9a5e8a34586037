//! What the machine has put into guest memory for the kernel to read.

use alloc::vec::Vec;
use instar_abi::layout;

/// Copies the control area, which lies between the table pages and the image.
#[must_use]
pub fn placed(address: u64, len: u64) -> Option<Vec<u8>> {
    let end = address.checked_add(len)?;
    if address < layout::CONTROL || end > layout::IMAGE {
        return None;
    }
    let area = core::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: inside the control area, which is mapped and which nothing else in the guest uses; the
    // machine wrote it before the first instruction and does not write it again.
    Some(unsafe { core::slice::from_raw_parts(area, len as usize) }.to_vec())
}
