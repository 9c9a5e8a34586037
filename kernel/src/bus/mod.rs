//! Device discovery: the table of the built-in machine, virtio-mmio from the command line, virtio-pci by a scan.
//!
//! The order of the devices is the launcher's: control first, then the job's disks.

mod mmio;
mod pci;
#[cfg(feature = "provoke")]
pub mod provoke;
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
    /// The same on PCI, where it is written as 16 bits.
    PciRegister {
        /// Its address.
        address: u64,
        /// The queue's index, which is what is written.
        queue: u16,
    },
}

/// Device windows lie in the fourth GiB on every machine; nothing else of the kind is mapped.
const WINDOWS: u64 = 3 << 30;
const WINDOWS_END: u64 = 4 << 30;

impl Notify {
    /// Rings.
    pub fn ring(self) {
        match self {
            Self::Doorbell { lane } => crate::arch::port::write_u32(instar_abi::table::DOORBELL_PORT, lane),
            Self::Register { address, queue } => mmio::notify(address, queue),
            Self::PciRegister { address, queue } => pci::notify(address, queue),
        }
    }
}

impl BusError {
    /// A few words, for the epitaph.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NoDevice => "no device",
            Self::Magic => "no virtio device",
            Self::Window => "a window outside 3 to 4 GiB",
            Self::Kind => "no block device",
            Self::Setup => "set-up",
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
    /// A device outside the windows that are mapped, 3 to 4 GiB.
    Window,
    /// Not a block device.
    Kind,
    /// The device refused the features, or offers too short a queue.
    Setup,
}

/// What [`discover`] does with each device: its transport, and how lane `n` notifies it.
pub trait Adopt {
    /// Takes one device, in order. `notify` gives `None` for a queue that can't be notified.
    ///
    /// # Errors
    /// [`BusError`] ends the discovery.
    fn adopt<T: Transport>(&mut self, transport: T, notify: impl Fn(u32) -> Option<Notify>) -> Result<(), BusError>;
}

/// Finds the devices of the command line, in order.
///
/// # Errors
/// The first device that can't be used.
pub fn discover(line: &CommandLine, adopter: &mut impl Adopt) -> Result<(), BusError> {
    for index in 0..line.table {
        #[cfg(feature = "provoke")]
        provoke::note(provoke::Kind::Table, instar_abi::layout::TABLE + index * instar_abi::layout::PAGE_LEN);
        adopter.adopt(table::Table::new(index)?, |lane| Some(Notify::Doorbell { lane }))?;
    }
    for &(address, len) in &line.mmio {
        let register = mmio::notify_register(address);
        #[cfg(feature = "provoke")]
        provoke::note(provoke::Kind::Mmio, address);
        adopter.adopt(mmio::open(address, len)?, |queue| Some(Notify::Register { address: register, queue }))?;
    }
    if let Some(access) = line.pci {
        let config = pci::Config::new(access)?;
        for slot in pci::block_devices(&config) {
            let (transport, registers) = pci::open(config, slot)?;
            #[cfg(feature = "provoke")]
            provoke::note(provoke::Kind::Pci, registers.common());
            adopter.adopt(transport, |queue| {
                let queue = u16::try_from(queue).ok()?;
                Some(Notify::PciRegister { address: registers.of_queue(queue)?, queue })
            })?;
        }
    }
    Ok(())
}
