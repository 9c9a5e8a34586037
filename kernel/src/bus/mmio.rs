//! virtio-mmio, version 2: virtio-drivers' transport on the addresses of the command line.

use super::{BusError, WINDOWS, WINDOWS_END};
use core::ptr::NonNull;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};

/// Offset of QueueNotify (virtio 1.2, 4.2.2).
const QUEUE_NOTIFY: u64 = 0x50;

/// The notify register of the device at `address`.
pub(super) fn notify_register(address: u64) -> u64 {
    address + QUEUE_NOTIFY
}

/// Opens the device at `address`.
pub(super) fn open(address: u64, len: u64) -> Result<MmioTransport<'static>, BusError> {
    if address < WINDOWS || address.saturating_add(len) > WINDOWS_END || !address.is_multiple_of(4) {
        return Err(BusError::Window);
    }
    let header = core::ptr::with_exposed_provenance_mut::<VirtIOHeader>(address as usize);
    let header = NonNull::new(header).ok_or(BusError::Magic)?;
    // SAFETY: the machine lists a device window of `len` bytes here, in the fourth GiB, which is mapped as
    // device memory for good (checked above); the kernel opens each window once. A wrong address reads
    // as something without the magic, and the machine answers every access.
    unsafe { MmioTransport::new(header, len as usize) }.map_err(|_| BusError::Magic)
}

/// Writes a queue's index to a notify register.
pub(super) fn notify(register: u64, queue: u32) {
    let register = core::ptr::with_exposed_provenance_mut::<u32>(register as usize);
    // SAFETY: `notify_register` of a device that was opened; the window stays mapped. The write is volatile
    // and the rings it announces were published with release stores.
    unsafe { register.write_volatile(queue) }
}
