//! Device discovery: the table of the built-in machine, or virtio-mmio from the command line.
//!
//! The order of the devices is the launcher's: control first, then the job's disks.

mod mmio;
mod table;

use crate::command_line::CommandLine;
use virtio_drivers::transport::Transport;

/// How a queue tells its device that there is work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// One doorbell serves this lane's queue of every device.
    Doorbell {
        /// The lane.
        lane: u32,
    },
    /// A register of its own device.
    Register {
        /// Its address.
        address: u64,
        /// The queue's index, which is what is written.
        queue: u32,
    },
}

impl Notify {
    /// Rings.
    pub fn ring(self) {
        match self {
            Self::Doorbell { lane } => crate::arch::port::write_u32(instar_abi::table::DOORBELL_PORT, lane),
            Self::Register { address, queue } => mmio::notify(address, queue),
        }
    }
}

/// Why the devices can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusError {
    /// No device at all: no control device.
    NoDevice,
    /// A device page or register block without virtio's magic.
    Magic,
    /// Not a block device.
    Kind,
    /// The device refused the features, or offers too short a queue.
    Setup,
}

/// What [`discover`] does with each device: its transport, and how lane `n` notifies it.
pub trait Adopt {
    /// Takes one device, in order.
    ///
    /// # Errors
    /// [`BusError`] ends the discovery.
    fn adopt<T: Transport>(&mut self, transport: T, notify: impl Fn(u32) -> Notify) -> Result<(), BusError>;
}

/// Finds the devices of the command line, in order.
///
/// # Errors
/// The first device that can't be used.
pub fn discover(line: &CommandLine, adopter: &mut impl Adopt) -> Result<(), BusError> {
    for index in 0..line.table {
        adopter.adopt(table::Table::new(index)?, |lane| Notify::Doorbell { lane })?;
    }
    for &(address, len) in &line.mmio {
        let register = mmio::notify_register(address);
        adopter.adopt(mmio::open(address, len)?, |queue| Notify::Register { address: register, queue })?;
    }
    Ok(())
}
