//! Setting up a device that runs already, for guests that misbehave on purpose.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use instar_abi::table::offset;

/// Where a device's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On a page of memory.
    Table,
    /// virtio-mmio.
    Mmio,
    /// `virtio_pci_common_cfg`.
    Pci,
}

static KIND: AtomicU64 = AtomicU64::new(0);
static ADDRESSES: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static COUNT: AtomicUsize = AtomicUsize::new(0);

pub(super) fn note(kind: Kind, address: u64) {
    KIND.store(kind as u64, Relaxed);
    if let Some(place) = ADDRESSES.get(COUNT.fetch_add(1, Relaxed)) {
        place.store(address, Relaxed);
    }
}

/// What is told to disk 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its status.
    Status(u8),
    /// Queue 0's length.
    Size(u16),
    /// Queue 0's descriptor table.
    Descriptors(u64),
    /// Queue 0 is ready.
    Ready(u16),
}

/// Tells disk 0, which is the second device.
pub fn change_disk_0(change: Change) {
    let base = ADDRESSES[1].load(Relaxed);
    let pointer = |at: u64| core::ptr::with_exposed_provenance_mut::<u32>((base + at) as usize);
    // Offsets: `instar_abi::table`; virtio 1.2, 4.2.2; and 4.1.4.3. Queue 0 is selected, or will be: there is one lane.
    // SAFETY: aligned registers of a device that was opened, mapped for good; what the device makes of it is the point.
    unsafe {
        let write = |at: u64, value: u32| pointer(at).write_volatile(value);
        let write_16 = |at: u64, value: u16| pointer(at).cast::<u16>().write_volatile(value);
        let queue = offset::QUEUE as u64;
        match (KIND.load(Relaxed), change) {
            (kind, Change::Status(status)) if kind == Kind::Table as u64 => write(offset::STATUS as u64, status.into()),
            (kind, Change::Size(size)) if kind == Kind::Table as u64 => write_16(queue, size),
            (kind, Change::Ready(ready)) if kind == Kind::Table as u64 => write_16(queue + 2, ready),
            (kind, Change::Descriptors(at)) if kind == Kind::Table as u64 => {
                pointer(queue + 8).cast::<u64>().write_volatile(at);
            }
            (kind, Change::Status(status)) if kind == Kind::Mmio as u64 => write(0x70, status.into()),
            (kind, Change::Size(size)) if kind == Kind::Mmio as u64 => write(0x38, size.into()),
            (kind, Change::Ready(ready)) if kind == Kind::Mmio as u64 => write(0x44, ready.into()),
            (kind, Change::Descriptors(at)) if kind == Kind::Mmio as u64 => {
                write(0x80, at as u32);
                write(0x84, (at >> 32) as u32);
            }
            (_, Change::Status(status)) => pointer(0x14).cast::<u8>().write_volatile(status),
            (_, Change::Size(size)) => write_16(0x18, size),
            (_, Change::Ready(ready)) => write_16(0x1c, ready),
            (_, Change::Descriptors(at)) => {
                write(0x20, at as u32);
                write(0x24, (at >> 32) as u32);
            }
        }
    }
}
