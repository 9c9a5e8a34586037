//! What the machine has put into guest memory for the kernel to read.

use instar_abi::layout;

/// The control area, which lies between the table pages and the heap.
#[must_use]
pub fn placed(address: u64, len: u64) -> Option<&'static [u8]> {
    let end = address.checked_add(len)?;
    if address < layout::CONTROL || end > layout::HEAP {
        return None;
    }
    let area = core::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: inside the control area, which is mapped for good and which nothing in the guest writes; the
    // machine wrote it before the first instruction and does not write it again.
    Some(unsafe { core::slice::from_raw_parts(area, len as usize) })
}
