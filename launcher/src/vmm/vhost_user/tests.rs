//! The back end against a machine made up by hand: one that behaves, and ones that don't.

use super::*;
use crate::disk::file::SourceFile;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::vhost_user::{Frontend, VhostUserFrontend as _, VhostUserProtocolFeatures};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

const MEMORY_LEN: u64 = 1 << 20;
/// Where the machine's own process has the memory, or says so.
const USER: u64 = 0x7000_0000_0000;
const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER: u64 = 0x4000;
const DATA: u64 = 0x5000;
const STATUS: u64 = 0x6000;
const PROTOCOL: u64 = 1 << 30;

type Served = JoinHandle<Result<Stop, Fault>>;

/// A machine that speaks to device 0 of a back end.
struct Machine {
    frontend: Frontend,
    /// The queue that it uses.
    queue: usize,
    memory: File,
    kick: EventFd,
    end: Option<io::PipeWriter>,
    path: std::path::PathBuf,
    _directory: tempfile::TempDir,
    served: Served,
}

/// A read-only disk of 1000 bytes, 7 each.
fn disk() -> Arc<dyn Disk> {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&[7; 1000]).expect("written");
    Arc::new(SourceFile::new(file, 1000))
}

impl Machine {
    fn new(queues: usize) -> Self {
        Self::on(0, queues)
    }

    /// A machine that speaks to this device; nobody connects to those before it.
    fn on(device: usize, queues: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |index: usize| directory.path().join(index.to_string());
        let listen = |index| (UnixListener::bind(path(index)).expect("bound"), disk());
        let devices = (0..=device).map(listen).collect();
        let path = path(device);
        let (ended, end) = io::pipe().expect("a pipe");
        let (output, _) = io::pipe().expect("a pipe");
        let program = Program { end: ended.into(), output: File::from(OwnedFd::from(output)) };
        let mut backend = Backend::new(devices, queues, program).expect("descriptors");
        backend.start_threads().expect("threads");
        let served = std::thread::spawn(move || {
            let outcome = backend.serve(Duration::from_secs(60), &|| false);
            outcome.map(|outcome| outcome.stop).map_err(|(fault, _)| fault)
        });
        let stream = UnixStream::connect(&path).expect("it listens");
        let frontend = Frontend::from_stream(stream, 8);
        let memory = tempfile::tempfile().expect("a file");
        memory.set_len(MEMORY_LEN).expect("set");
        let kick = EventFd::new(0).expect("made");
        Self { frontend, queue: 0, memory, kick, end: Some(end), path, _directory: directory, served }
    }

    /// Features, memory, and its queue at these places; goes on until something is refused. What is sent last is
    /// answered, so that it has been taken.
    fn set_up(&mut self, memory_len: u64, places: [u64; 3]) {
        let offered = self.frontend.get_features().expect("answered");
        self.frontend.set_features(offered).expect("sent");
        self.frontend.get_protocol_features().expect("answered");
        self.frontend.set_protocol_features(VhostUserProtocolFeatures::CONFIG).expect("sent");
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: memory_len,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: self.memory.as_raw_fd(),
        };
        let _ = self.frontend.set_mem_table(&[region]);
        let _ = self.frontend.set_vring_num(self.queue, 8);
        let [descriptors, available, used] = places;
        let ring = VringConfigData {
            queue_max_size: 8,
            queue_size: 8,
            flags: 0,
            desc_table_addr: descriptors,
            used_ring_addr: used,
            avail_ring_addr: available,
            log_addr: None,
        };
        let _ = self.frontend.set_vring_addr(self.queue, &ring);
        let _ = self.frontend.set_vring_base(self.queue, 0);
        let _ = self.frontend.set_vring_kick(self.queue, &self.kick);
        let _ = self.frontend.set_vring_enable(self.queue, true);
        let _ = self.frontend.get_features();
    }

    fn set_up_well(&mut self) {
        self.set_up(MEMORY_LEN, [DESCRIPTORS, AVAILABLE, USED].map(|place| USER + place));
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, address).expect("written");
    }

    fn descriptor(&self, index: u64, address: u64, len: u32, flags: u16, next: u16) {
        let bytes =
            [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat();
        self.put(DESCRIPTORS + index * 16, &bytes);
    }

    /// Reads a sector through the queue for the `count`th time; returns status and data, once used.
    fn read_sector(&self, count: u16, sector: u64) -> (u8, Vec<u8>) {
        const NEXT: u16 = 1;
        const WRITE: u16 = 2;
        self.put(HEADER, &[&[0; 8][..], &sector.to_le_bytes()].concat());
        self.put(STATUS, &[0xff]);
        self.descriptor(0, HEADER, 16, NEXT, 1);
        self.descriptor(1, DATA, 512, NEXT | WRITE, 2);
        self.descriptor(2, STATUS, 1, WRITE, 0);
        self.put(AVAILABLE + 2, &count.to_le_bytes());
        self.kick.write(1).expect("kicked");
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut index = [0; 2];
        while u16::from_le_bytes(index) != count {
            assert!(Instant::now() < deadline, "the request is not answered");
            self.memory.read_exact_at(&mut index, USED + 2).expect("read");
            std::thread::yield_now();
        }
        // All is done, so kicks are asked for again.
        let mut flags = [1; 2];
        while flags != [0; 2] {
            assert!(Instant::now() < deadline, "no kicks are asked for");
            self.memory.read_exact_at(&mut flags, USED).expect("read");
        }
        let (mut status, mut data) = ([0], vec![0; 512]);
        self.memory.read_exact_at(&mut status, STATUS).expect("read");
        self.memory.read_exact_at(&mut data, DATA).expect("read");
        (status[0], data)
    }

    /// Ends the machine and tells what the back end makes of it all.
    fn end(mut self) -> Result<Stop, Fault> {
        // The reader is ready at its end.
        drop(self.end.take());
        self.served.join().expect("no panic")
    }

    /// What the back end makes of it, which ends it by itself.
    fn fault(self) -> Fault {
        self.served.join().expect("no panic").expect_err("a fault")
    }
}

#[test]
fn a_request_is_served_without_a_call_descriptor() {
    let mut machine = Machine::new(1);
    machine.set_up_well();
    assert_eq!(machine.read_sector(1, 0), (0, vec![7; 512]));
    assert_eq!(machine.read_sector(2, 1), (0, [vec![7; 488], vec![0; 24]].concat()), "a partial last sector");
    assert_eq!(machine.read_sector(3, 2).0, 1, "past the end");
    assert!(matches!(machine.end(), Ok(Stop::PowerOff)));
}

/// Device 0 is served by the thread that hears the machine, the others have threads of their own.
#[test]
fn every_queue_is_served_and_its_faults_end_the_run() {
    for (device, queue) in [(0, 0), (0, 3), (1, 0), (1, 3), (9, 1)] {
        let using = || {
            let mut machine = Machine { queue, ..Machine::on(device, 4) };
            machine.set_up_well();
            assert_eq!(machine.read_sector(1, 0), (0, vec![7; 512]));
            machine
        };
        assert!(matches!(using().end(), Ok(Stop::PowerOff)));
        let machine = using();
        // A ring with more entries than it has places.
        machine.put(AVAILABLE + 2, &100u16.to_le_bytes());
        machine.kick.write(1).expect("kicked");
        let fault = machine.fault();
        let is_ours = |index: u32| index as usize == device;
        assert!(matches!(fault, Fault::Guest(GuestFault::Ring { device }) if is_ours(device)), "{fault:?}");
    }
}

#[test]
fn a_guest_is_called_unless_it_looks_by_itself() {
    let mut machine = Machine::new(1);
    machine.set_up_well();
    let call = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).expect("made");
    machine.frontend.set_vring_call(0, &call).expect("sent");
    machine.frontend.get_features().expect("answered");
    assert_eq!(machine.read_sector(1, 0).0, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while call.read().is_err() {
        assert!(Instant::now() < deadline, "no call");
    }
    // VIRTQ_AVAIL_F_NO_INTERRUPT. A message that is answered comes after the call that there might be.
    machine.put(AVAILABLE, &1u16.to_le_bytes());
    assert_eq!(machine.read_sector(2, 0).0, 0);
    machine.frontend.get_features().expect("answered");
    assert!(call.read().is_err(), "called all the same");
    assert!(matches!(machine.end(), Ok(Stop::PowerOff)));
}

#[test]
fn what_is_offered_is_the_disk_s_and_no_event_index() {
    let mut machine = Machine::new(2);
    let offered = machine.frontend.get_features().expect("answered");
    assert_eq!(offered, 1 << 32 | 1 << 28 | 1 << 12 | 1 << 9 | 1 << 5 | PROTOCOL);
    machine.frontend.set_features(offered).expect("sent");
    let protocol = machine.frontend.get_protocol_features().expect("answered");
    assert!(protocol.contains(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ));
    machine.frontend.set_protocol_features(VhostUserProtocolFeatures::CONFIG).expect("sent");
    let (_, config) = machine.frontend.get_config(0, 60, VhostUserConfigFlags::WRITABLE, &[0; 60]).expect("answered");
    assert_eq!(config[..8], 2u64.to_le_bytes(), "sectors, the partial one counted");
    assert_eq!(config[34..36], 2u16.to_le_bytes(), "queues");
    assert!(config[8..34].iter().chain(&config[36..]).all(|&byte| byte == 0));
    assert!(matches!(machine.end(), Ok(Stop::PowerOff)));
}

#[test]
fn features_that_were_not_offered_end_the_run() {
    let mut machine = Machine::new(1);
    let offered = machine.frontend.get_features().expect("answered");
    machine.frontend.get_protocol_features().expect("answered");
    machine.frontend.set_features(offered | 1 << 29).expect("sent");
    let _ = machine.frontend.get_features();
    assert!(matches!(machine.fault(), Fault::Protocol { device: 0, error: Error::FeatureMismatch }));
}

#[test]
fn a_queue_stops_and_goes_on_where_it_stood() {
    let mut machine = Machine::new(1);
    machine.set_up_well();
    assert_eq!(machine.read_sector(1, 0).0, 0);
    assert_eq!(machine.frontend.get_vring_base(0).expect("answered"), 1);
    machine.frontend.set_vring_kick(0, &machine.kick).expect("sent");
    machine.frontend.get_features().expect("answered");
    assert_eq!(machine.read_sector(2, 0).0, 0);
    // The same memory again, while the queue runs.
    machine.set_up_well();
    assert!(matches!(machine.end(), Ok(Stop::PowerOff)));
}

#[test]
fn rings_outside_memory_end_the_run() {
    for places in [
        [USER - 16, USER + AVAILABLE, USER + USED],
        [USER + MEMORY_LEN, USER + AVAILABLE, USER + USED],
        [USER + DESCRIPTORS, 0, USER + USED],
        [USER + DESCRIPTORS, USER + AVAILABLE, u64::MAX - 8],
    ] {
        let mut machine = Machine::new(1);
        machine.set_up(MEMORY_LEN, places);
        assert!(matches!(machine.fault(), Fault::Protocol { device: 0, .. }), "{places:x?}");
    }
    // In memory, but not to its end: the guest's own fault.
    let mut machine = Machine::new(1);
    machine.set_up(MEMORY_LEN, [USER + MEMORY_LEN - 16, USER + AVAILABLE, USER + USED]);
    assert!(matches!(machine.fault(), Fault::Guest(GuestFault::QueueSetup { device: 0 })));
}

#[test]
fn memory_past_its_file_is_refused() {
    let mut machine = Machine::new(1);
    machine.set_up(2 * MEMORY_LEN, [DESCRIPTORS, AVAILABLE, USED].map(|place| USER + place));
    assert!(matches!(machine.fault(), Fault::Protocol { .. }));
}

#[test]
fn a_queue_that_is_too_long_or_is_not_there_is_refused() {
    for (index, size) in [(0, 128), (0, 3), (0, 0), (1, 8), (7, 8)] {
        let machine = Machine::new(1);
        machine.frontend.get_features().expect("answered");
        machine.frontend.set_vring_num(index, size).expect("sent");
        let _ = machine.frontend.get_features();
        assert!(matches!(machine.fault(), Fault::Protocol { .. }), "{index} {size}");
    }
}

#[test]
fn a_device_is_connected_to_once() {
    let mut machine = Machine::new(1);
    machine.set_up_well();
    // The first connection has been answered on, so the door is shut.
    let again = UnixStream::connect(&machine.path);
    assert!(again.is_err() || Frontend::from_stream(again.expect("checked"), 1).get_features().is_err());
    assert_eq!(machine.read_sector(1, 0).0, 0);
    assert!(matches!(machine.end(), Ok(Stop::PowerOff)));
}

#[test]
fn a_machine_that_hangs_up_is_waited_for_and_no_longer_served() {
    let machine = Machine::new(1);
    machine.frontend.get_features().expect("answered");
    let Machine { frontend, end, served, _directory, .. } = machine;
    drop(frontend);
    drop(end);
    assert!(matches!(served.join().expect("no panic"), Ok(Stop::PowerOff)));
}
