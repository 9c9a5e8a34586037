//! Device 0 behind vhost-user: its queue is set up and kicked by the messages of a machine that another program makes.

use super::{MEMORY_LEN, Registers};
use crate::layout::Script;
use instar::disk::Disk;
use instar::vmm::block::GuestFault;
use instar::vmm::vhost_user::{Device, Fault};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserMemoryRegion, VhostUserVringAddrFlags};
use vhost::vhost_user::{Result, VhostUserBackendReqHandlerMut as _};

/// Where the machine's own process has the memory, or says so.
const USER: u64 = 0x7000_0000_0000;

/// The back end's device, and this side's end of its kicks.
pub struct BackEnd {
    device: Device,
    memory: File,
    kicks: UnixStream,
    kick: File,
}

/// What a message leaves of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// All is as it was: a well-behaved machine may do this at any time.
    AsBefore,
    /// Something else, perhaps.
    Else,
}

impl BackEnd {
    /// A device on a disk, without any message yet.
    pub fn new(disk: Arc<dyn Disk>, memory: &File) -> Self {
        let (kicks, kick) = UnixStream::pair().expect("sockets");
        let kick = File::from(OwnedFd::from(kick));
        Self { device: Device::new(0, disk, 2), memory: memory.try_clone().expect("a descriptor"), kicks, kick }
    }

    /// The messages of a well-behaved machine whose guest has set a queue up so.
    pub fn set_up(&mut self, registers: Registers) -> Result<()> {
        let features = self.device.get_features()?;
        self.device.set_features(features)?;
        self.set_memory(0, MEMORY_LEN, 0)?;
        self.device.set_vring_num(0, registers.size.into())?;
        let [descriptors, available, used] = [registers.descriptors, registers.driver_area, registers.device_area];
        self.set_rings(USER.wrapping_add(descriptors), USER.wrapping_add(used), USER.wrapping_add(available))?;
        self.device.set_vring_base(0, 0)?;
        self.give_kick()?;
        self.device.set_vring_enable(0, true)
    }

    fn set_memory(&mut self, guest: u64, len: u64, offset: u64) -> Result<()> {
        let region = VhostUserMemoryRegion::new(guest, len, USER.wrapping_add(guest), offset);
        let file = self.memory.try_clone().expect("a descriptor");
        self.device.set_mem_table(&[region], vec![file], None).map(drop)
    }

    fn set_rings(&mut self, descriptors: u64, used: u64, available: u64) -> Result<()> {
        self.device.set_vring_addr(0, VhostUserVringAddrFlags::empty(), descriptors, used, available, 0)
    }

    fn give_kick(&mut self) -> Result<()> {
        let kick = self.kick.try_clone().expect("a descriptor");
        self.device.set_vring_kick(0, Some(kick))
    }

    /// The guest kicks.
    ///
    /// # Errors
    /// The guest broke the contract.
    pub fn serve(&mut self) -> std::result::Result<(), GuestFault> {
        let _ = self.kicks.write_all(&1u64.to_ne_bytes());
        let Some(ring) = self.device.rings().first() else { return Ok(()) };
        let mut ring = ring.lock().expect("no panic");
        let Some(kick) = ring.kick() else { return Ok(()) };
        let served = ring.take(&kick).and_then(|()| {
            while ring.serve()? || !ring.rest()? {}
            Ok(())
        });
        match served {
            Ok(()) => Ok(()),
            Err(Fault::Guest(fault)) => Err(fault),
            Err(fault) => panic!("a kick that is there: {fault:?}"),
        }
    }

    /// One message more, what it leaves of the queue, and whether it was taken; `None` at the end of the script.
    pub fn message(&mut self, script: &mut Script<'_>) -> Option<(Queue, Result<()>)> {
        let number = |script: &mut Script<'_>| script.u8().map(|index| u32::from(index % 3));
        let result = match script.u8()? % 10 {
            // Stopped, and on where it stood, as a machine that is paused does.
            0 => return Some((Queue::AsBefore, self.pause())),
            // A window of devices has come or gone.
            1 => return Some((Queue::AsBefore, self.set_memory(0, MEMORY_LEN, 0))),
            2 => self.device.set_vring_num(number(script)?, script.u16()?.into()),
            3 => {
                let [descriptors, used, available] = [script.u16()?, script.u16()?, script.u16()?].map(u64::from);
                self.set_rings(USER + descriptors, USER + used, USER + available)
            }
            4 => self.device.set_vring_base(number(script)?, script.u32()?),
            5 => self.device.set_vring_enable(number(script)?, script.u8()? & 1 != 0),
            6 => self.device.set_features(script.u64()?),
            7 => {
                let [guest, len, offset] = [script.u16()?, script.u16()?, script.u16()?].map(u64::from);
                self.set_memory(guest, len, offset)
            }
            8 => {
                let (offset, len) = (script.u32()?, script.u32()?);
                let config = self.device.get_config(offset, len, VhostUserConfigFlags::empty());
                config.map(|config| assert_eq!(config.len(), len as usize))
            }
            _ => self.device.get_vring_base(number(script)?).map(drop),
        };
        Some((Queue::Else, result))
    }

    fn pause(&mut self) -> Result<()> {
        let state = self.device.get_vring_base(0)?;
        self.device.set_vring_base(0, state.num)?;
        self.give_kick()
    }
}
