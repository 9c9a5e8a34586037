//! One run: everything that needs the host's good will first, then the guest.
//!
//! [`Prepared::new`] opens KVM and makes memory and vCPUs. After the process has locked itself
//! down (`sandbox`), [`Prepared::run`] boots the guest and tells how it stopped.

use super::block::Chains;
use super::elf::{Image, Segment};
use super::memory::Memory;
use super::processor::Processor;
use super::queue::LaneQueues;
use super::registers::Manners;
use super::shared::{Bus, Shared, Start, Stop, Turn};
use super::vcpu::{self, Vcpu};
use super::{mmio, pci};
use crate::disk::Disk;
use instar_abi::epitaph::{Death, Epitaph};
use instar_abi::{layout, table};
use kvm_bindings::{CpuId, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::fmt::Write as _;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Features of every device: the modern interface, flush; read-only where it is so.
const FEATURES: u64 = 1 << 32 | 1 << 9;
const FEATURE_INDIRECT: u64 = 1 << 28;
const FEATURE_MQ: u64 = 1 << 12;
const FEATURE_READ_ONLY: u64 = 1 << 5;

/// How the guest sees its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Registers in guest memory: no exit to set up.
    Table,
    /// virtio-mmio, as other machines have it. One lane.
    Mmio,
    /// The same by the rules of the narrowest machine: see [`Transport::is_strict`].
    StrictMmio,
    /// virtio-pci by these rules, with configuration space in memory. One lane.
    Pci,
    /// The same, with configuration space behind two ports.
    PciByPorts,
}

impl Transport {
    /// Whether the machine is as narrow as the narrowest of others: status one step at a time, registers in their own
    /// width, one data descriptor a request and no indirect ones, no partial last sector, switched off at a port of ACPI's.
    /// For tests: what runs here runs there.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        matches!(self, Self::StrictMmio | Self::Pci | Self::PciByPorts)
    }

    /// Port and value that switch the machine off; without a value, any.
    const fn power_off(self) -> (u16, Option<u8>) {
        if self.is_strict() { (0x600, Some(0x34)) } else { (table::POWER_OFF_PORT, None) }
    }

    const fn chains(self) -> Chains {
        if self.is_strict() { Chains::OneSegment } else { Chains::Any }
    }

    const fn features(self) -> u64 {
        if self.is_strict() { FEATURES } else { FEATURES | FEATURE_INDIRECT }
    }
}

/// What a run needs.
pub struct Setup<'a> {
    /// The op image.
    pub image: &'a Image<'a>,
    /// Guest memory in bytes, a multiple of 2 MiB.
    pub memory_len: u64,
    /// vCPUs, 1 to [`layout::LANES_MAX`].
    pub lanes: usize,
    /// Devices: the control device, then the job's disks.
    pub devices: Vec<Arc<dyn Disk>>,
    /// How the guest sees them.
    pub transport: Transport,
    /// The run's nonce, which the control header repeats.
    pub nonce: [u8; 16],
    /// Header and request as they lie on the control device; placed in memory as well where they fit.
    pub front: &'a [u8],
    /// Wall-clock limit.
    pub time_limit: Duration,
    /// Pages of guest memory that are large from the start: for jobs that move much data.
    pub large_pages: bool,
}

/// Why a run could not be prepared.
#[derive(Debug)]
pub enum PrepareError {
    /// `/dev/kvm` can't be opened.
    OpenKvm(io::Error),
    /// KVM refused a step.
    Kvm {
        /// Which.
        step: &'static str,
        /// Why.
        error: io::Error,
    },
    /// Guest memory could not be mapped.
    Memory(io::Error),
    /// Image, devices or command line don't fit the memory layout.
    Layout,
}

/// What a dying guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWords {
    /// How it died.
    pub death: Death,
    /// Vector of a fault, line of a panic.
    pub vector_or_line: u32,
    /// Error code of a fault.
    pub error_code: u64,
    /// Instruction pointer of a fault.
    pub rip: u64,
    /// Address of a page fault.
    pub cr2: u64,
    /// File of a panic, or the kernel's few words; the guest's bytes.
    pub text: Vec<u8>,
}

/// A machine that is ready to boot.
pub struct Prepared {
    vm: VmFd,
    cpuid: CpuId,
    vcpus: Vec<Vcpu>,
    next_vcpu: u64,
    waits: Vec<Receiver<Start>>,
    shared: Arc<Shared>,
}

impl Prepared {
    /// Opens KVM and makes the machine.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn new(setup: &Setup<'_>) -> Result<Self, PrepareError> {
        let kvm = Kvm::new().map_err(|error| PrepareError::OpenKvm(error.into()))?;
        let vm = kvm.create_vm().map_err(step("KVM_CREATE_VM"))?;
        let large_end = if setup.large_pages { setup.memory_len } else { layout::HEAP_SECOND_PAGE };
        let memory = Memory::new(setup.memory_len, layout::TEXT..large_end).map_err(PrepareError::Memory)?;
        let slot = kvm_userspace_memory_region {
            memory_size: memory.len(),
            userspace_addr: memory.host_address(),
            ..Default::default()
        };
        // SAFETY: the slot is the whole of `memory`'s mapping, which `Shared` keeps until after the last vCPU
        // has stopped: `Prepared` and `run` own both.
        unsafe { vm.set_user_memory_region(slot) }.map_err(step("KVM_SET_USER_MEMORY_REGION"))?;
        fill(&memory, setup, |_| true).ok_or(PrepareError::Layout)?;

        let lanes = match setup.transport {
            Transport::Table => setup.lanes.clamp(1, layout::LANES_MAX),
            Transport::Mmio | Transport::StrictMmio | Transport::Pci | Transport::PciByPorts => 1,
        };
        let processor = Processor::of_host();
        let cpuid = processor.cpuid();
        let (mut vcpus, mut waits, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        vcpus.push(first_vcpu(&vm, 0, &cpuid, setup)?);
        for lane in 1..lanes as u32 {
            let fd = create_vcpu(&vm, lane.into(), &cpuid)?;
            processor.enable_vector_state(&fd).map_err(step("KVM_SET_XCRS"))?;
            let (sender, receiver) = sync_channel(1);
            starts.push(sender);
            waits.push(receiver);
            vcpus.push(Vcpu { lane, fd, queues: LaneQueues::new(&[]) });
        }
        let offered = setup.devices.iter().map(|disk| (features(&**disk, setup.transport, 1), disk.sectors()));
        let bus = match setup.transport {
            Transport::Table => Bus::Table,
            Transport::Mmio => Bus::Mmio(mmio::Bus::new(offered)),
            Transport::StrictMmio => Bus::Mmio(mmio::Bus::with_manners(Manners::Strict, offered)),
            Transport::Pci | Transport::PciByPorts => Bus::Pci(pci::Bus::new(offered)),
        };
        let shared = Shared::new(memory, bus, setup.transport.power_off(), starts, Turn::of(setup));
        Ok(Self { vm, cpuid, vcpus, next_vcpu: lanes as u64, waits, shared: Arc::new(shared) })
    }

    /// Starts the threads of the other lanes and waits until each waits for the guest. Before the
    /// lock-down is complete: starting a thread needs calls that running one does not.
    ///
    /// # Errors
    /// The host's.
    pub fn start_threads(&mut self) -> io::Result<()> {
        let ready = Arc::new(Barrier::new(self.vcpus.len()));
        for (vcpu, wait) in self.vcpus.drain(1..).zip(self.waits.drain(..)) {
            let (shared, ready) = (Arc::clone(&self.shared), Arc::clone(&ready));
            std::thread::Builder::new().name(format!("lane {}", vcpu.lane)).spawn(move || {
                ready.wait();
                vcpu.run_other(&shared, &wait);
            })?;
        }
        ready.wait();
        Ok(())
    }

    /// Boots the guest on this thread and returns when the run is over, with the guest's last words if it
    /// left any. Another lane's thread may still be inside KVM then: the process ends next.
    pub fn run(&mut self) -> (Stop, Option<LastWords>) {
        let Some(first) = self.vcpus.pop() else { return (Stop::Halted, None) };
        let stop = first.run_first(&self.shared);
        self.shared.stop(stop);
        (stop, last_words(&self.shared.memory))
    }

    /// Whether another guest can follow in this machine: no thread but this one has run the last.
    #[must_use]
    pub fn can_follow(&self) -> bool {
        matches!(self.shared.bus, Bus::Table) && !self.shared.has_started_lanes() && self.next_vcpu < VCPUS_MAX
    }

    /// Makes the machine ready for another guest, of which nothing but time and place will be as they were for the last: all
    /// memory is cleared and filled anew, and the vCPU is one that has never run. Transport, lanes and memory are
    /// those of the machine.
    ///
    /// # Errors
    /// [`PrepareError`]; the machine is of no use then.
    pub fn follow(&mut self, setup: &Setup<'_>) -> Result<(), PrepareError> {
        if !self.can_follow() || setup.transport != Transport::Table || setup.memory_len != self.shared.memory.len() {
            return Err(PrepareError::Layout);
        }
        let memory = &self.shared.memory;
        // Neither ring 3 nor a device can write to the text. To look costs less than to write it again.
        let text = layout::TEXT..layout::STACK_0;
        let is_whole =
            |segment: &Segment<'_>| !text.contains(&segment.address) || memory.holds(segment.address, segment.bytes);
        if !setup.image.segments.iter().all(is_whole) {
            return Err(PrepareError::Layout);
        }
        memory.clear(&text).map_err(PrepareError::Memory)?;
        fill(memory, setup, |segment| !text.contains(&segment.address)).ok_or(PrepareError::Layout)?;
        self.vcpus.push(first_vcpu(&self.vm, self.next_vcpu, &self.cpuid, setup)?);
        self.next_vcpu += 1;
        self.shared.begin(Turn::of(setup));
        Ok(())
    }
}

/// Most vCPUs of one machine: any KVM has more (`KVM_CAP_MAX_VCPUS`).
const VCPUS_MAX: u64 = 32;

/// What a step that KVM refuses is to a preparation.
fn step(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> PrepareError {
    move |error| PrepareError::Kvm { step, error: error.into() }
}

fn create_vcpu(vm: &VmFd, id: u64, cpuid: &CpuId) -> Result<VcpuFd, PrepareError> {
    let fd = vm.create_vcpu(id).map_err(step("KVM_CREATE_VCPU"))?;
    fd.set_cpuid2(cpuid).map_err(step("KVM_SET_CPUID2"))?;
    Ok(fd)
}

/// The vCPU of lane 0, at the image's entry.
fn first_vcpu(vm: &VmFd, id: u64, cpuid: &CpuId, setup: &Setup<'_>) -> Result<Vcpu, PrepareError> {
    let fd = create_vcpu(vm, id, cpuid)?;
    vcpu::enter(&fd, setup.image.entry).map_err(step("KVM_SET_SREGS"))?;
    Ok(Vcpu { lane: 0, fd, queues: LaneQueues::new(&setup.devices).taking(setup.transport.chains()) })
}

impl Turn {
    /// What a run of this set-up has of its own.
    fn of(setup: &Setup<'_>) -> Self {
        Self::new(setup.time_limit, setup.devices.clone())
    }
}

fn features(disk: &dyn Disk, transport: Transport, lanes: usize) -> u64 {
    transport.features() | if disk.read_only() { FEATURE_READ_ONLY } else { 0 } | if lanes > 1 { FEATURE_MQ } else { 0 }
}

/// Puts those segments of the image that are missing, start info, command line, table pages and control area into memory.
fn fill(memory: &Memory, setup: &Setup<'_>, is_missing: impl Fn(&Segment<'_>) -> bool) -> Option<()> {
    for segment in setup.image.segments.iter().filter(|segment| is_missing(segment)) {
        memory.write(segment.address, segment.bytes).ok()?;
    }
    let mut line = String::new();
    let nonce = u128::from_be_bytes(setup.nonce);
    let _ = write!(line, "nonce={nonce:032x} lanes={}", setup.lanes);
    match setup.transport {
        Transport::Table => {
            if setup.devices.len() as u64 > layout::TABLE_DEVICES_MAX {
                return None;
            }
            let _ = write!(line, " table={}", setup.devices.len());
            for (index, disk) in (0u64..).zip(&setup.devices) {
                let page = table_page(&**disk, setup.lanes);
                memory.write(layout::TABLE + index * layout::PAGE_LEN, page.as_bytes()).ok()?;
            }
        }
        Transport::Mmio | Transport::StrictMmio => {
            for index in 0..setup.devices.len() as u64 {
                let address = mmio::BASE + index * mmio::STRIDE;
                let _ = write!(line, " virtio_mmio.device=4K@{address:#x}:{}", 5 + index);
            }
        }
        Transport::Pci | Transport::PciByPorts if setup.devices.len() > pci::DEVICES_MAX => return None,
        Transport::Pci => {
            let _ = write!(line, " ecam={:#x}", pci::ECAM);
        }
        Transport::PciByPorts => line.push_str(" pci=cf8"),
    }
    if setup.transport.is_strict() {
        let (port, value) = setup.transport.power_off();
        let _ = write!(line, " poff={port:x},{:x}", value.unwrap_or(0));
    }
    // Other machines place nothing.
    if !setup.transport.is_strict() && layout::CONTROL + setup.front.len() as u64 <= layout::HEAP {
        memory.write(layout::CONTROL, setup.front).ok()?;
        let _ = write!(line, " control={:#x},{:x}", layout::CONTROL, setup.front.len());
    }
    line.push('\0');
    if line.len() as u64 > layout::COMMAND_LINE_LEN_MAX {
        return None;
    }
    memory.write(layout::COMMAND_LINE, line.as_bytes()).ok()?;
    memory.write(layout::START_INFO, &start_info()).ok()?;
    let map: Vec<u8> = [0, memory.len(), 1].iter().flat_map(|field: &u64| field.to_le_bytes()).collect();
    memory.write(layout::MEMORY_MAP, &map).ok()
}

/// `hvm_start_info`, version 1: one memory-map entry, no modules, no ACPI.
fn start_info() -> [u8; 56] {
    const MAGIC: u32 = 0x336e_c578;
    let mut info = [0; 56];
    info[..4].copy_from_slice(&MAGIC.to_le_bytes());
    info[4..8].copy_from_slice(&1u32.to_le_bytes());
    info[24..32].copy_from_slice(&layout::COMMAND_LINE.to_le_bytes());
    info[40..48].copy_from_slice(&layout::MEMORY_MAP.to_le_bytes());
    info[48..52].copy_from_slice(&1u32.to_le_bytes());
    info
}

fn table_page(disk: &dyn Disk, lanes: usize) -> table::Device {
    /// Offset of `num_queues` in `virtio_blk_config`.
    const NUM_QUEUES: usize = 34;
    let mut page = table::Device::new_zeroed();
    page.magic.set(table::MAGIC);
    page.queues.set(lanes as u32);
    page.device_features.set(features(disk, Transport::Table, lanes));
    page.config[..8].copy_from_slice(&disk.sectors().to_le_bytes());
    page.config[NUM_QUEUES..NUM_QUEUES + 2].copy_from_slice(&(lanes as u16).to_le_bytes());
    page
}

/// What a guest has left in its memory, if it died.
#[must_use]
pub fn last_words(memory: &Memory) -> Option<LastWords> {
    let bytes: [u8; size_of::<Epitaph>()] = memory.read(layout::EPITAPH).ok()?;
    let page = Epitaph::read_from_bytes(&bytes).ok()?;
    let len = (page.text_len.get() as usize).min(page.text.len());
    Some(LastWords {
        death: Death::from_code(page.kind.get())?,
        vector_or_line: page.vector_or_line.get(),
        error_code: page.error_code.get(),
        rip: page.rip.get(),
        cr2: page.cr2.get(),
        text: page.text[..len].to_vec(),
    })
}
