//! The machine as an operation sees it: lanes of queues, and the way out.

use crate::blk::{Chains, Device, Lane, Queue};
use crate::bus::{Adopt, BusError, Notify};
use crate::command_line::CommandLine;
use crate::death::die;
use crate::mailbox::Mailbox;
use crate::smp;
use alloc::vec::Vec;
use instar_abi::epitaph::Death;
use instar_abi::reply::Frame;
use instar_io::{Env, LaneWork, ReplyError};
use virtio_drivers::transport::Transport;

/// [`Env`] over virtio queues and the control device.
pub struct Machine {
    lanes: Vec<Lane>,
}

/// Collects the devices that the bus finds.
pub struct Devices {
    lanes: usize,
    /// How requests lie in the ring without indirect descriptors.
    direct: Chains,
    found: Vec<Device>,
}

impl Devices {
    /// An empty collection for the machine of this command line.
    #[must_use]
    pub fn of(line: &CommandLine) -> Self {
        let direct = if line.long_chains { Chains::Long } else { Chains::OneSegment };
        Self { lanes: line.lanes, direct, found: Vec::new() }
    }

    /// The control device's queue, and the disks' queues by lane, for at most `cores` lanes.
    #[must_use]
    pub fn into_queues(self, cores: usize) -> Option<(Queue, Vec<Lane>)> {
        let mut devices = self.found.into_iter();
        let control = devices.next()?.queues.into_iter().next()?;
        let mut disks: Vec<_> = devices.map(|device| device.queues.into_iter()).collect();
        let lanes = disks.iter().map(ExactSizeIterator::len).min().unwrap_or(1).min(cores);
        let lanes = (0..lanes).map(|_| Lane::new(disks.iter_mut().filter_map(Iterator::next).collect())).collect();
        Some((control, lanes))
    }
}

impl Adopt for Devices {
    fn adopt<T: Transport>(&mut self, transport: T, notify: impl Fn(u32) -> Option<Notify>) -> Result<(), BusError> {
        // The control device is lane 0's alone.
        let lanes = if self.found.is_empty() { 1 } else { self.lanes };
        self.found.push(Device::new(transport, lanes, self.direct, notify)?);
        Ok(())
    }
}

impl Machine {
    /// A machine over its queues; lane 0 gets the control device. `None` without a lane.
    #[must_use]
    pub fn new(mut lanes: Vec<Lane>, mailbox: Mailbox) -> Option<Self> {
        lanes.first_mut()?.set_mailbox(mailbox);
        Some(Self { lanes })
    }

    /// Sends the last frame and switches the machine off.
    pub fn end(&mut self, frame: &Frame) -> ! {
        match self.lanes.first_mut().and_then(Lane::mailbox) {
            Some(mailbox) => mailbox.end(frame),
            None => die(Death::BadControl, "no lane"),
        }
    }
}

impl Env for Machine {
    type Lane = Lane;

    fn lane(&mut self) -> &mut Lane {
        &mut self.lanes[0]
    }

    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn run_lanes(&mut self, work: LaneWork<'_, Lane>) {
        smp::run(&mut self.lanes, work);
    }

    fn reply(&mut self, batch: Vec<u8>) -> Result<(), ReplyError> {
        self.lanes.first_mut().and_then(Lane::mailbox).ok_or(ReplyError)?.reply(batch)
    }
}
