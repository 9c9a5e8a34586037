//! Processor state at entry, and the exit loop of one vCPU.

use super::block::GuestFault;
use super::memory::Memory;
use super::queue::{LaneQueues, Registers};
use super::registers::Effect;
use super::shared::{Bus, Shared, Start, Stop};
use instar_abi::layout;
use instar_abi::table;
use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use zerocopy::FromBytes;

/// The status of a device whose driver is done with setting it up (virtio 1.2, 2.1).
const DRIVER_OK: u32 = 15;

/// Entry state by PVH: 32-bit protected mode, flat segments, paging off, ebx = start info.
///
/// # Errors
/// KVM's.
pub fn enter(vcpu: &VcpuFd, entry: u64) -> Result<(), kvm_ioctls::Error> {
    const PE_ET: u64 = 0x11;
    let flat = |selector, type_| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let mut sregs: kvm_sregs = vcpu.get_sregs()?;
    sregs.cs = flat(0x08, 0xb);
    let data = flat(0x10, 3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, type_: 0xb, present: 1, ..Default::default() };
    sregs.cr0 = PE_ET;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: entry, rbx: layout::START_INFO, rflags: 2, ..Default::default() })
}

/// Lane 0's mode and tables, another place and stack.
fn enter_lane(vcpu: &VcpuFd, start: &Start) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let from = &start.sregs;
    (sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) =
        (from.cs, from.ds, from.es, from.fs, from.gs, from.ss);
    (sregs.tr, sregs.gdt, sregs.idt) = (from.tr, from.gdt, from.idt);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (from.cr0, from.cr3, from.cr4, from.efer);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: start.rip, rsp: start.rsp, rflags: 2, ..Default::default() })?;
    vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
}

/// One vCPU with its lane's queues.
pub struct Vcpu {
    /// Which lane it runs.
    pub lane: u32,
    /// KVM's side.
    pub fd: VcpuFd,
    /// Its queues.
    pub queues: LaneQueues,
}

impl Vcpu {
    /// Runs lane 0 from the entry point to the end of the run.
    pub fn run_first(mut self, shared: &Shared) -> Stop {
        self.run(shared)
    }

    /// Runs this lane each time the guest starts it, until the run is over.
    pub fn run_other(mut self, shared: &Shared, starts: &std::sync::mpsc::Receiver<Start>) {
        let mut is_new = true;
        while let Ok(start) = starts.recv() {
            // No other run follows one that has started lanes, so the devices are known for good.
            if std::mem::take(&mut is_new) {
                self.queues = LaneQueues::new(&shared.devices());
            }
            let stop = match enter_lane(&self.fd, &start) {
                Ok(()) => self.run(shared),
                Err(error) => Stop::Kvm(error.errno()),
            };
            if stop != Stop::LaneEnd {
                return shared.stop(stop);
            }
        }
    }

    fn run(&mut self, shared: &Shared) -> Stop {
        loop {
            if let Some(stop) = shared.stopped() {
                return stop;
            }
            let step = match self.fd.run() {
                Ok(VcpuExit::IoOut(port, data)) => {
                    let (len, value) = (data.len(), word(data));
                    self.port_write(shared, port, len, value)
                }
                Ok(VcpuExit::IoIn(port, data)) => {
                    let value = match &shared.bus {
                        Bus::Pci(bus) => bus.read_port(port, data.len()),
                        Bus::Table | Bus::Mmio(_) => Ok(None),
                    };
                    value.map(|value| {
                        put(data, value.map_or(u64::MAX, u64::from));
                        None
                    })
                }
                Ok(VcpuExit::MmioRead(address, data)) => {
                    let value = match &shared.bus {
                        Bus::Table => Ok(u64::MAX),
                        Bus::Mmio(bus) => bus.check_width(address, data.len()).map(|()| bus.read(address).into()),
                        Bus::Pci(bus) => bus.read(address, data.len()),
                    };
                    value.map(|value| {
                        put(data, value);
                        None
                    })
                }
                Ok(VcpuExit::MmioWrite(address, data)) => {
                    let effect = match &shared.bus {
                        Bus::Table => Ok(Effect::None),
                        Bus::Mmio(bus) => {
                            bus.check_width(address, data.len()).and_then(|()| bus.write(address, word(data)))
                        }
                        Bus::Pci(bus) => bus.write(address, data.len(), long(data)),
                    };
                    effect.and_then(|effect| self.perform(shared, effect)).map(|()| None)
                }
                Ok(VcpuExit::Shutdown) => Ok(Some(Stop::TripleFault)),
                Ok(VcpuExit::Hlt) => Ok(Some(Stop::Halted)),
                Ok(_) => Ok(Some(Stop::InternalError)),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                    Ok(shared.expired().then(|| Stop::TimeOut { rip: self.fd.get_regs().map_or(0, |regs| regs.rip) }))
                }
                Err(error) => Ok(Some(Stop::Kvm(error.errno()))),
            };
            match step {
                Ok(None) => {}
                Ok(Some(stop)) => return stop,
                Err(fault) => return Stop::GuestFault(fault),
            }
        }
    }

    fn port_write(&mut self, shared: &Shared, port: u16, len: usize, value: u32) -> Result<Option<Stop>, GuestFault> {
        let (power_off, needed) = shared.power_off;
        if port == power_off && needed.is_none_or(|needed| len == 1 && u32::from(needed) == value) {
            return Ok(Some(Stop::PowerOff));
        }
        match (&shared.bus, port) {
            (Bus::Pci(bus), _) => bus.write_port(port, len, value).map(|()| None),
            // Registers of their own tell such devices of work; other ports of this machine are the table's.
            (Bus::Mmio(_), _) => Ok(None),
            (Bus::Table, table::DOORBELL_PORT) => self.doorbell(shared, value),
            (Bus::Table, table::LANE_END_PORT) if value == self.lane => {
                shared.wake_others();
                Ok(Some(Stop::LaneEnd))
            }
            (Bus::Table, table::RELAX_PORT) => {
                shared.wait_for_others();
                Ok(None)
            }
            (Bus::Table, table::LANE_PORT) => self.start_lane(shared, value),
            (Bus::Table, _) => Ok(None),
        }
    }

    /// The table transport's doorbell: adopts what has been set up since, and serves this lane.
    fn doorbell(&mut self, shared: &Shared, lane: u32) -> Result<Option<Stop>, GuestFault> {
        if lane != self.lane {
            return Err(GuestFault::Lane { index: lane });
        }
        shared.wake_others();
        for device in 0..self.queues.devices() {
            match (self.queues.adopted(device), table_registers(&shared.memory, device, lane)) {
                (None, None) => {}
                (None, Some(registers)) => self.queues.adopt(device, registers, &shared.memory)?,
                (Some(adopted), now) if now == Some(adopted) => {}
                // A queue that runs is not set up anew. Nothing would come of it; but no guest of ours does it.
                (Some(_), _) => return Err(GuestFault::QueueSetup { device: device as u32 }),
            }
        }
        self.queues.serve_all(&shared.memory)?;
        Ok(None)
    }

    fn start_lane(&self, shared: &Shared, lane: u32) -> Result<Option<Stop>, GuestFault> {
        let start = || -> Result<Start, kvm_ioctls::Error> {
            let regs = self.fd.get_regs()?;
            Ok(Start { sregs: self.fd.get_sregs()?, rip: regs.rdi, rsp: regs.rsi })
        };
        match start() {
            Ok(start) => {
                let started = shared.start_lane(lane, start);
                if started { Ok(None) } else { Err(GuestFault::Lane { index: lane }) }
            }
            Err(error) => Ok(Some(Stop::Kvm(error.errno()))),
        }
    }

    fn perform(&mut self, shared: &Shared, effect: Effect) -> Result<(), GuestFault> {
        match effect {
            Effect::None => Ok(()),
            Effect::QueueReady { device, registers } => self.queues.adopt(device, registers, &shared.memory),
            Effect::Notify { device } => self.queues.serve(device, &shared.memory),
        }
    }
}

fn word(data: &[u8]) -> u32 {
    long(data) as u32
}

fn long(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = data.len().min(8);
    bytes[..len].copy_from_slice(&data[..len]);
    u64::from_le_bytes(bytes)
}

/// The low bytes of a value, as many as are asked for.
fn put(data: &mut [u8], value: u64) {
    let bytes = value.to_le_bytes();
    let len = data.len().min(bytes.len());
    data[..len].copy_from_slice(&bytes[..len]);
}

/// The registers of one queue on a table page, if the guest says that they are ready and the device is to run.
fn table_registers(memory: &Memory, device: usize, lane: u32) -> Option<Registers> {
    let page = layout::TABLE + device as u64 * layout::PAGE_LEN;
    let at = page + (table::offset::QUEUE + lane as usize * table::offset::QUEUE_LEN) as u64;
    let bytes: [u8; table::offset::QUEUE_LEN] = memory.read(at).ok()?;
    let queue = table::Queue::read_from_bytes(&bytes).ok()?;
    let status = u32::from_le_bytes(memory.read(page + table::offset::STATUS as u64).ok()?);
    (queue.ready.get() == 1 && status == DRIVER_OK).then(|| Registers {
        size: queue.size.get(),
        ready: true,
        descriptors: queue.descriptors.get(),
        driver_area: queue.driver_area.get(),
        device_area: queue.device_area.get(),
    })
}
