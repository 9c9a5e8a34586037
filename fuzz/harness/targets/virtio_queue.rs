mod back_end;

use crate::layout::Script;
use back_end::{BackEnd, Queue};
use instar::disk::{Disk, Segments};
use instar::vmm::block::GuestFault;
use instar::vmm::memory::{Memory, Piece};
use instar::vmm::mmio::{BASE, Bus, Effect};
use instar::vmm::queue::{LaneQueues, QUEUE_SIZE_MAX, Registers};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes of guest memory.
const MEMORY_LEN: u64 = 32 << 10;
/// Where a well-behaved guest has its rings: apart, below the data.
const PLAUSIBLE: Registers =
    Registers { size: 16, ready: true, descriptors: 0x1000, driver_area: 0x2000, device_area: 0x3000 };
/// First byte that the requests of a well-behaved guest use.
const DATA: u64 = 0x4000;
/// Sectors of the disks; the second one is read-only.
const SECTORS: u64 = 64;
/// What a status byte holds before the device writes it.
const NO_STATUS: u8 = 0xA5;
/// Unit in which memory is compared.
const PAGE_LEN: usize = 256;
/// Steps of a script.
const STEPS_MAX: usize = 128;

/// A script of a hostile guest against two block devices: writes to memory, descriptors, doorbells, registers.
/// Byte 0: bit 0 raw queue registers, from bytes 8 to 33, instead of sound ones; bits 1 to 3 the disk's request
/// that fails, 7 none; bit 4: device 0 is behind vhost-user, and messages take the place of registers.
pub fn virtio_queue(data: &[u8]) {
    let mut script = Script::new(data);
    let Some(flags) = script.u8() else { return };
    let registers = match flags & 1 {
        0 => PLAUSIBLE,
        _ => match raw_registers(&mut script) {
            Some(registers) => registers,
            None => return,
        },
    };
    MEMORY.with_borrow(|(memory, file)| {
        memory.write(0, &[0; MEMORY_LEN as usize]).expect("all of memory");
        let behind = (flags & 0x10 != 0).then_some(file);
        let mut guest = Guest::new(memory, registers, u64::from(flags >> 1 & 7), behind);
        for _ in 0..STEPS_MAX {
            match guest.step(&mut script) {
                Some(Ok(())) => {}
                Some(Err(_)) | None => break,
            }
        }
    });
}

thread_local! {
    static MEMORY: RefCell<(Memory, File)> = RefCell::new(shared_memory().expect("a file and address space"));
}

/// Memory that two sides can map.
fn shared_memory() -> io::Result<(Memory, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("instar-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    file.set_len(MEMORY_LEN)?;
    let piece = Piece { address: 0, len: MEMORY_LEN, file: file.try_clone()?, offset: 0 };
    Ok((Memory::shared(vec![piece])?, file))
}

fn raw_registers(script: &mut Script<'_>) -> Option<Registers> {
    Some(Registers {
        size: script.u16()?,
        ready: true,
        descriptors: script.u64()?,
        driver_area: script.u64()?,
        device_area: script.u64()?,
    })
}

struct Guest<'m> {
    memory: &'m Memory,
    disks: [Arc<CheckedDisk>; 2],
    queues: LaneQueues,
    /// Device 0's, in place of its queue.
    back_end: Option<BackEnd>,
    bus: Bus,
    registers: Registers,
    /// Next index of the available ring of device 0.
    available: u16,
    /// Nothing but sound requests so far: every answer is known.
    is_sound: bool,
    /// No message has moved rings or memory.
    rings_known: bool,
}

impl<'m> Guest<'m> {
    fn new(memory: &'m Memory, registers: Registers, fault: u64, behind: Option<&File>) -> Self {
        let disks = [false, true].map(|read_only| Arc::new(CheckedDisk::new(read_only, fault)));
        let devices: Vec<Arc<dyn Disk>> =
            disks.iter().map(|disk| Arc::<CheckedDisk>::clone(disk) as Arc<dyn Disk>).collect();
        let mut queues = LaneQueues::new(&devices);
        let mut back_end = behind.map(|file| BackEnd::new(Arc::clone(&devices[0]), file));
        if let Some(set_up) = back_end.as_mut().map(|back_end| back_end.set_up(registers)) {
            assert!(registers != PLAUSIBLE || set_up.is_ok(), "a sound queue is refused: {set_up:?}");
        }
        let adopted = queues.adopt(0, registers, memory);
        let fits = |start: u64, len: u64| start.checked_add(len).is_some_and(|end| end <= MEMORY_LEN);
        let size = u64::from(registers.size);
        let sound = registers.size.is_power_of_two()
            && registers.size <= QUEUE_SIZE_MAX
            && fits(registers.descriptors, size * 16)
            && fits(registers.driver_area, 6 + size * 2)
            && fits(registers.device_area, 6 + size * 8);
        // Alignment is asked for as well, so sound ones may be refused; the opposite never.
        assert!(adopted.is_err() || sound, "{registers:?} are adopted");
        assert_eq!(queues.adopted(0), adopted.is_ok().then_some(registers));
        let _ = queues.adopt(1, PLAUSIBLE, memory);
        let bus = Bus::new([(0, SECTORS), (1 << 5, SECTORS)].into_iter());
        Self {
            memory,
            disks,
            queues,
            back_end,
            bus,
            rings_known: true,
            registers,
            available: 0,
            is_sound: registers == PLAUSIBLE,
        }
    }

    /// One step of the script; `None` at its end.
    fn step(&mut self, script: &mut Script<'_>) -> Option<Result<(), GuestFault>> {
        let operation = script.u8()? % 8;
        // What a message does to the queue, it tells itself.
        if operation != 0 && (operation != 7 || self.back_end.is_none()) {
            self.is_sound = false;
        }
        match operation {
            0 => return self.request(script),
            1 => {
                let (address, len) = (script.u16()?, script.u8()?);
                let _ = self.memory.write(address.into(), script.bytes(len.into()));
            }
            2 => {
                // A descriptor: index, address, length, flags, next.
                let index = u64::from(script.u8()? % 64);
                let (address, len, flags, next) = (script.u16()?, script.u16()?, script.u8()?, script.u8()?);
                self.descriptor(index, address.into(), len.into(), flags.into(), next.into());
            }
            3 => {
                let head = script.u8()?;
                self.offer(head.into());
            }
            4 => {
                self.available = script.u16()?;
                let _ = self.memory.write(self.registers.driver_area.wrapping_add(2), &self.available.to_le_bytes());
            }
            5 => {
                let index = usize::from(script.u8()? % 4);
                return Some(self.serve_queue(index));
            }
            6 => return Some(self.serve(|guest| guest.queues.serve_all(guest.memory))),
            _ if self.back_end.is_some() => return self.message(script),
            _ => return self.register(script),
        }
        Some(Ok(()))
    }

    fn descriptor(&self, index: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut raw = address.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        let _ = self.memory.write(self.registers.descriptors.wrapping_add(index * 16), &raw);
    }

    /// Puts a head into the available ring of device 0.
    fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available % self.registers.size.max(1));
        let ring = self.registers.driver_area;
        let _ = self.memory.write(ring.wrapping_add(4 + slot * 2), &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        let _ = self.memory.write(ring.wrapping_add(2), &self.available.to_le_bytes());
    }

    /// A whole request: kind, sector, sectors of data, in one to three segments. Served at once, and the answer
    /// checked as long as the guest did nothing else.
    fn request(&mut self, script: &mut Script<'_>) -> Option<Result<(), GuestFault>> {
        let (kind, sector, shape) = (u32::from(script.u8()? % 6), u64::from(script.u8()?), script.u8()?);
        let sectors = u64::from(shape % 8);
        let segments = if sectors == 0 { 0 } else { (u64::from(shape / 8) % 3 + 1).min(sectors) };
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let _ = self.memory.write(DATA, &header);
        let status_at = DATA + 16;
        let _ = self.memory.write(status_at, &[NO_STATUS]);
        let data_at = DATA + 512;
        let _ = self.memory.write(data_at, &[shape; 4096]);
        self.descriptor(0, DATA, 16, NEXT, 1);
        let (mut at, mut left, mut index) = (data_at, sectors, 1);
        for segment in (1..=segments).rev() {
            let len = left / segment * 512;
            let write = if kind == 0 { WRITE } else { 0 };
            self.descriptor(index, at, u32::try_from(len).expect("at most 4096"), NEXT | write, index as u16 + 1);
            at += len;
            left -= len / 512;
            index += 1;
        }
        self.descriptor(index, status_at, 1, WRITE, 0);
        self.offer(0);
        let before = self.disks[0].state();
        let result = self.serve_queue(0);
        if self.is_sound {
            assert_eq!(result, Ok(()), "a sound request ends the run");
            self.check_answer(kind, sector, sectors, shape, &before);
        }
        Some(result)
    }

    fn check_answer(&self, kind: u32, sector: u64, sectors: u64, shape: u8, before: &State) {
        let fails = |action: bool| action && before.requests == self.disks[0].fault;
        let in_range = sector + sectors <= SECTORS;
        let expected = match kind {
            0 | 1 => u8::from(!in_range || fails(in_range)),
            4 => u8::from(sectors != 0 || fails(sectors == 0)),
            _ => 2,
        };
        let [status] = self.memory.read(DATA + 16).expect("in memory");
        assert_eq!(status, expected, "kind {kind}, {sectors} sectors at {sector}");
        let len = (sectors * 512) as usize;
        let after = self.disks[0].state();
        assert!(after.requests <= before.requests + 1, "a request is served again");
        let data: [u8; 4096] = self.memory.read(DATA + 512).expect("in memory");
        let range = (sector * 512) as usize..(sector * 512) as usize + len;
        match (kind, status) {
            (0, 0) => assert!(data[..len] == before.bytes[range], "other data than the disk's"),
            (1, 0) => assert!(after.bytes[range].iter().all(|byte| *byte == shape), "not what was written"),
            _ => assert!(after.bytes == before.bytes && data.iter().all(|byte| *byte == shape)),
        }
        assert!(data[len..].iter().all(|byte| *byte == shape), "written past the request");
        let used: [u8; 2] = self.memory.read(PLAUSIBLE.device_area + 2).expect("in memory");
        assert_eq!(u16::from_le_bytes(used), self.available, "one used entry a request");
        let slot = u64::from(self.available.wrapping_sub(1) % PLAUSIBLE.size);
        let entry: [u8; 8] = self.memory.read(PLAUSIBLE.device_area + 4 + slot * 8).expect("in memory");
        let written = 1 + if (kind, status) == (0, 0) { len as u64 } else { 0 };
        assert_eq!(u64::from_le_bytes(entry), written << 32, "head 0 and the bytes written");
    }

    /// Serves, and checks that only memory that the guest gave for writing has changed.
    fn serve(&mut self, work: impl FnOnce(&mut Self) -> Result<(), GuestFault>) -> Result<(), GuestFault> {
        let before = self.snapshot();
        let served = self.requests();
        let result = work(self);
        let after = self.snapshot();
        assert!(self.requests() - served <= 2 * u64::from(QUEUE_SIZE_MAX), "more requests than two rings hold");
        // Whole pages first: a comparison of single bytes is dear under the engine.
        let changed = |page: usize| before[page..page + PAGE_LEN] != after[page..page + PAGE_LEN];
        let changed: Vec<usize> = (0..before.len()).step_by(PAGE_LEN).filter(|page| changed(*page)).collect();
        if let Some(writable) = self.writable(&before).filter(|_| !changed.is_empty()) {
            for at in changed.into_iter().flat_map(|page| page..page + PAGE_LEN) {
                let given = writable.iter().any(|range| range.contains(&(at as u64)));
                assert!(before[at] == after[at] || given, "byte {at:#x} was not for writing");
            }
        }
        result
    }

    fn serve_queue(&mut self, index: usize) -> Result<(), GuestFault> {
        self.serve(|guest| match &mut guest.back_end {
            Some(back_end) if index == 0 => back_end.serve(),
            _ => guest.queues.serve(index, guest.memory),
        })?;
        if index == 0 && self.is_sound && self.rings_known && self.registers == PLAUSIBLE {
            let flags: [u8; 2] = self.memory.read(PLAUSIBLE.device_area).expect("in memory");
            assert_eq!(flags, [0; 2], "kicks are asked for again");
        }
        Ok(())
    }

    fn requests(&self) -> u64 {
        self.disks.iter().map(|disk| disk.requests.load(Ordering::Relaxed)).sum()
    }

    /// A message to the back end; one that it refuses ends the run.
    fn message(&mut self, script: &mut Script<'_>) -> Option<Result<(), GuestFault>> {
        match self.back_end.as_mut()?.message(script)? {
            (Queue::AsBefore, Ok(())) => Some(Ok(())),
            (Queue::Else, Ok(())) => {
                (self.is_sound, self.rings_known) = (false, false);
                Some(Ok(()))
            }
            (kind, Err(_)) => {
                assert!(!self.is_sound || kind == Queue::Else, "a sound message is refused");
                None
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let bytes: Box<[u8; MEMORY_LEN as usize]> = Box::new(self.memory.read(0).expect("all of memory"));
        bytes.to_vec()
    }

    /// What a device may write to: used rings and writable descriptors. `None` where the device can change the
    /// descriptors themselves, where they lead to more of them, or where rings may have moved.
    fn writable(&self, memory: &[u8]) -> Option<Vec<std::ops::Range<u64>>> {
        if !self.rings_known {
            return None;
        }
        let tables = [self.registers, PLAUSIBLE].map(|registers| {
            let size = u64::from(registers.size.min(QUEUE_SIZE_MAX));
            (registers.descriptors..registers.descriptors.saturating_add(size * 16), registers.device_area, size)
        });
        let mut ranges: Vec<_> =
            tables.iter().map(|(_, used, size)| *used..used.saturating_add(6 + size * 8)).collect();
        for (table, ..) in &tables {
            let start = usize::try_from(table.start).unwrap_or(usize::MAX).min(memory.len());
            let end = usize::try_from(table.end).unwrap_or(usize::MAX).min(memory.len());
            for raw in memory[start..end].as_chunks::<16>().0 {
                let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, ..] = *raw;
                let address = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
                let flags = u16::from_le_bytes([f0, f1]);
                if flags & INDIRECT != 0 {
                    return None;
                }
                if flags & WRITE != 0 {
                    ranges.push(address..address.saturating_add(u32::from_le_bytes([l0, l1, l2, l3]).into()));
                }
            }
        }
        let overlaps = |range: &std::ops::Range<u64>| {
            tables.iter().any(|(table, ..)| range.start < table.end && table.start < range.end)
        };
        if ranges.iter().any(overlaps) { None } else { Some(ranges) }
    }

    /// A register of virtio-mmio, read or written, and what follows from it.
    fn register(&mut self, script: &mut Script<'_>) -> Option<Result<(), GuestFault>> {
        let (at, value) = (u64::from(script.u16()?), script.u32()?);
        let address = if at & 0x8000 == 0 { BASE + at } else { at << 48 };
        let _ = self.bus.read(address);
        Some(match self.bus.write(address, value) {
            Err(fault) => Err(fault),
            Ok(Effect::None) => Ok(()),
            Ok(Effect::QueueReady { device, registers }) => {
                let adopted = self.queues.adopt(device, registers, self.memory);
                if device == 0 && adopted.is_ok() {
                    self.registers = registers;
                }
                if device == 1 {
                    // `writable` knows one queue of device 1 only.
                    return None;
                }
                adopted
            }
            Ok(Effect::Notify { device }) => self.serve(|guest| guest.queues.serve(device, guest.memory)),
        })
    }
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A disk in memory that holds the machine to its word.
struct CheckedDisk {
    read_only: bool,
    bytes: Mutex<Vec<u8>>,
    requests: AtomicU64,
    fault: u64,
}

struct State {
    bytes: Vec<u8>,
    requests: u64,
}

impl CheckedDisk {
    fn new(read_only: bool, fault: u64) -> Self {
        let bytes = (0..SECTORS * 512).map(|at| (at % 253) as u8).collect();
        let fault = if fault == 7 { u64::MAX } else { fault };
        Self { read_only, bytes: Mutex::new(bytes), requests: AtomicU64::new(0), fault }
    }

    fn state(&self) -> State {
        State { bytes: self.bytes.lock().expect("one thread").clone(), requests: self.requests.load(Ordering::Relaxed) }
    }

    fn place(&self, offset: u64, len: u64) -> io::Result<std::ops::Range<usize>> {
        let end = offset.checked_add(len).filter(|end| *end <= SECTORS * 512).expect("the machine checks the range");
        assert!(offset.is_multiple_of(512) && len.is_multiple_of(512), "the machine checks sectors");
        self.count()?;
        Ok(offset as usize..end as usize)
    }

    fn count(&self) -> io::Result<()> {
        match self.requests.fetch_add(1, Ordering::Relaxed) == self.fault {
            true => Err(io::ErrorKind::Other.into()),
            false => Ok(()),
        }
    }
}

impl Disk for CheckedDisk {
    fn sectors(&self) -> u64 {
        SECTORS
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<()> {
        let place = self.place(offset, into.len())?;
        into.put(0, &self.bytes.lock().expect("one thread")[place]);
        Ok(())
    }

    fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        assert!(!self.read_only, "a read-only device is written");
        let place = self.place(offset, from.len())?;
        self.bytes.lock().expect("one thread")[place].copy_from_slice(&from.to_vec());
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.count()
    }
}
