//! The *table* transport of the built-in machine: virtio's registers as a page of guest memory.
//!
//! A register access over MMIO is an exit (60 µs here), 33 a disk. On this transport the guest
//! fills in the same registers as plain memory and rings one doorbell; the machine adopts the
//! queues it finds ready. The split queue itself is unchanged.
//!
//! ```text
//! out DOORBELL_PORT, eax = lane      serve queue `lane` of every device
//! out LANE_PORT,     eax = lane      start vCPU `lane` at rip = rdi, rsp = rsi
//! out LANE_END_PORT, eax = lane      vCPU `lane` has no more work
//! out RELAX_PORT,    al = 0          this vCPU waits for another one's lane
//! out POWER_OFF_PORT, al = 0         the run is over
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "serve queue eax of every device" (32-bit write).
pub const DOORBELL_PORT: u16 = 0xf9;
/// "start vCPU eax" (32-bit write).
pub const LANE_PORT: u16 = 0xf7;
/// "vCPU eax is done" (32-bit write).
pub const LANE_END_PORT: u16 = 0xf5;
/// "let others run" (8-bit write).
pub const RELAX_PORT: u16 = 0xf4;
/// "the run is over" (8-bit write).
pub const POWER_OFF_PORT: u16 = 0xf6;

/// First four bytes of a device page.
pub const MAGIC: u32 = u32::from_le_bytes(*b"vtbl");
/// Most queues of a device: one a lane.
pub const QUEUES_MAX: usize = crate::layout::LANES_MAX;
/// Entries of each queue.
pub const QUEUE_SIZE: u16 = 64;

/// Registers of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Queue {
    /// Entries, a power of two up to [`QUEUE_SIZE`].
    pub size: U16,
    /// 1 when the addresses are valid.
    pub ready: U16,
    /// Zero.
    pub reserved: U32,
    /// Guest address of the descriptor table.
    pub descriptors: U64,
    /// Guest address of the available ring.
    pub driver_area: U64,
    /// Guest address of the used ring.
    pub device_area: U64,
}

/// Registers of one device, at [`crate::layout::TABLE`] + index × 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Device {
    /// [`MAGIC`], written by the machine.
    pub magic: U32,
    /// Queues that the machine serves, written by the machine.
    pub queues: U32,
    /// Features offered, written by the machine.
    pub device_features: U64,
    /// Features taken, written by the guest.
    pub driver_features: U64,
    /// virtio device status, written by the guest.
    pub status: U32,
    /// Zero.
    pub reserved: U32,
    /// `virtio_blk_config`, written by the machine; the capacity in sectors comes first.
    pub config: [u8; 64],
    /// One set of registers a queue, written by the guest.
    pub queue: [Queue; QUEUES_MAX],
}

/// Byte offsets of the registers within a device page.
pub mod offset {
    /// Of [`super::Device::queues`].
    pub const QUEUES: usize = 4;
    /// Of [`super::Device::device_features`].
    pub const DEVICE_FEATURES: usize = 8;
    /// Of [`super::Device::driver_features`].
    pub const DRIVER_FEATURES: usize = 16;
    /// Of [`super::Device::status`].
    pub const STATUS: usize = 24;
    /// Of [`super::Device::config`].
    pub const CONFIG: usize = 32;
    /// Of [`super::Device::queue`].
    pub const QUEUE: usize = 96;
    /// Bytes of one [`super::Queue`].
    pub const QUEUE_LEN: usize = 32;
}

const _: () = assert!(size_of::<Queue>() == offset::QUEUE_LEN);
const _: () = assert!(size_of::<Device>() == offset::QUEUE + QUEUES_MAX * offset::QUEUE_LEN);
const _: () = assert!(core::mem::offset_of!(Device, queues) == offset::QUEUES);
const _: () = assert!(core::mem::offset_of!(Device, device_features) == offset::DEVICE_FEATURES);
const _: () = assert!(core::mem::offset_of!(Device, driver_features) == offset::DRIVER_FEATURES);
const _: () = assert!(core::mem::offset_of!(Device, status) == offset::STATUS);
const _: () = assert!(core::mem::offset_of!(Device, config) == offset::CONFIG);
const _: () = assert!(core::mem::offset_of!(Device, queue) == offset::QUEUE);
const _: () = assert!(size_of::<Device>() <= crate::layout::PAGE_LEN as usize);
