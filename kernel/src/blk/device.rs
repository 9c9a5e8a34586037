//! Setting up one virtio-blk device, with a queue for every lane.

use super::queue::{Chains, Queue};
use crate::bus::{BusError, Notify};
use alloc::vec::Vec;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};

/// Feature bits (virtio 1.2, 5.2.3 and 6).
mod feature {
    /// The device is only read; the job says so too.
    pub const READ_ONLY: u64 = 1 << 5;
    /// The device has a flush request.
    pub const FLUSH: u64 = 1 << 9;
    /// The device has several queues.
    pub const MQ: u64 = 1 << 12;
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// The modern interface.
    pub const VERSION_1: u64 = 1 << 32;
}

/// Offset of `num_queues` in `virtio_blk_config`.
const CONFIG_NUM_QUEUES: usize = 34;

/// A device that is ready: its queues, one a lane.
pub struct Device {
    /// Queue `n` belongs to lane `n`.
    pub queues: Vec<Queue>,
}

impl Device {
    /// Initialises the device behind `transport` with up to `lanes` queues. Without indirect descriptors its requests are
    /// chains that are `direct`.
    ///
    /// The status goes up one bit at a time: some machines refuse two in one write.
    ///
    /// # Errors
    /// No block device, no modern interface, or too short a queue.
    pub fn new<T: Transport>(
        mut transport: T,
        lanes: usize,
        direct: Chains,
        notify: impl Fn(u32) -> Option<Notify>,
    ) -> Result<Self, BusError> {
        if transport.device_type() != DeviceType::Block {
            return Err(BusError::Kind);
        }
        transport.set_status(DeviceStatus::empty());
        transport.set_status(DeviceStatus::ACKNOWLEDGE);
        transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
        let offered = transport.read_device_features();
        let wanted = feature::READ_ONLY | feature::FLUSH | feature::MQ | feature::INDIRECT_DESC | feature::VERSION_1;
        let features = offered & wanted;
        if features & feature::VERSION_1 == 0 {
            return Err(BusError::Setup);
        }
        transport.write_driver_features(features);
        let accepted = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
        transport.set_status(accepted);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(BusError::Setup);
        }
        // Configuration space is only aligned to four bytes, and some machines answer to four at a time only.
        let low = transport.read_config_space::<u32>(0).map_err(|_| BusError::Setup)?;
        let high = transport.read_config_space::<u32>(4).map_err(|_| BusError::Setup)?;
        let sectors = u64::from(low) | u64::from(high) << 32;
        let offered_queues = if features & feature::MQ == 0 {
            1
        } else {
            transport.read_config_space::<u16>(CONFIG_NUM_QUEUES).map_err(|_| BusError::Setup)?
        };
        let indirect = features & feature::INDIRECT_DESC != 0;
        let count = lanes.min(usize::from(offered_queues)).max(1) as u16;
        let mut queues = Vec::with_capacity(usize::from(count));
        for index in 0..count {
            let mut ring = VirtQueue::new(&mut transport, index, indirect, false).map_err(|_| BusError::Setup)?;
            ring.set_dev_notify(false);
            let notify = notify(u32::from(index)).ok_or(BusError::Setup)?;
            queues.push(Queue::new(ring, notify, sectors, if indirect { Chains::Indirect } else { direct }));
        }
        transport.set_status(accepted | DeviceStatus::DRIVER_OK);
        // The device lives as long as the guest: dropping a transport would reset it.
        core::mem::forget(transport);
        Ok(Self { queues })
    }
}
