//! The queue against a device that is well-behaved, and against ones that are not.

use super::*;
use alloc::vec;
use core::cell::RefCell;
use std::rc::Rc;
use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const SIZE: u16 = QUEUE_SIZE;
const SECTORS: u64 = 64;

/// Addresses of the rings, and where the device is in them.
#[derive(Default)]
struct Rings {
    descriptors: u64,
    available: u64,
    used: u64,
    taken: u16,
    given: u16,
}

/// The transport's end: notes where the rings are.
#[derive(Clone, Default)]
struct FakeTransport(Rc<RefCell<Rings>>);

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }
    fn read_device_features(&mut self) -> u64 {
        0
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        SIZE.into()
    }
    fn notify(&mut self, _: u16) {}
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::empty()
    }
    fn set_status(&mut self, _: DeviceStatus) {}
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, _: u32, descriptors: PhysAddr, available: PhysAddr, used: PhysAddr) {
        *self.0.borrow_mut() = Rings { descriptors, available, used, ..Rings::default() };
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, _: usize) -> virtio_drivers::Result<T> {
        Err(virtio_drivers::Error::Unsupported)
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::Unsupported)
    }
}

/// Reads a value of the rings or of a buffer in flight.
fn peek<T: Copy + FromBytes>(address: u64) -> T {
    // SAFETY: an address the driver gave its device: rings that live as long as the queue, or a buffer in flight.
    unsafe { core::ptr::with_exposed_provenance::<T>(address as usize).read_volatile() }
}

/// Writes a value as the device does.
fn poke<T>(address: u64, value: T) {
    // SAFETY: as for `peek`; the driver gave the range to be written.
    unsafe { core::ptr::with_exposed_provenance_mut::<T>(address as usize).write_volatile(value) }
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    len: u32,
    writable: bool,
}

/// A request the device has taken and not yet answered.
#[derive(Debug)]
struct Taken {
    head: u16,
    chain: Vec<Descriptor>,
}

/// The device's end.
struct FakeDevice {
    rings: FakeTransport,
    disk: Vec<u8>,
}

impl FakeDevice {
    fn take(&mut self) -> Option<Taken> {
        let mut rings = self.rings.0.borrow_mut();
        if peek::<u16>(rings.available + 2) == rings.taken {
            return None;
        }
        let head = peek::<u16>(rings.available + 4 + 2 * u64::from(rings.taken % SIZE));
        rings.taken = rings.taken.wrapping_add(1);
        let (mut table, mut index, mut chain) = (rings.descriptors, head, Vec::new());
        loop {
            let at = table + 16 * u64::from(index);
            let (address, len) = (peek::<u64>(at), peek::<u32>(at + 8));
            let (flags, next) = (peek::<u16>(at + 12), peek::<u16>(at + 14));
            if flags & 4 != 0 {
                (table, index) = (address, 0);
                continue;
            }
            chain.push(Descriptor { address, len, writable: flags & 2 != 0 });
            if flags & 1 == 0 {
                return Some(Taken { head, chain });
            }
            index = next;
        }
    }

    /// Answers as the specification says: data moved, status written, length reported.
    fn answer(&mut self, taken: &Taken) {
        let [header, data @ .., status] = &taken.chain[..] else { panic!("no header or status") };
        assert!(!header.writable && header.len == 16 && status.writable && status.len == 1);
        let (kind, mut at) = (peek::<u32>(header.address), peek::<u64>(header.address + 8) as usize * 512);
        let mut written = 1;
        for part in data {
            assert_eq!(part.writable, kind == 0);
            for index in 0..u64::from(part.len) {
                match kind {
                    0 => poke(part.address + index, self.disk[at]),
                    _ => self.disk[at] = peek(part.address + index),
                }
                at += 1;
            }
            written += if kind == 0 { part.len } else { 0 };
        }
        poke(status.address, 0u8);
        self.give(taken.head, written);
    }

    /// Puts an entry into the used ring.
    fn give(&mut self, head: u16, len: u32) {
        let mut rings = self.rings.0.borrow_mut();
        let at = rings.used + 4 + 8 * u64::from(rings.given % SIZE);
        poke(at, u32::from(head));
        poke(at + 4, len);
        rings.given = rings.given.wrapping_add(1);
        poke(rings.used + 2, rings.given);
    }
}

fn pair(chains: Chains) -> (Queue, FakeDevice) {
    let mut rings = FakeTransport::default();
    let ring = Ring::new(&mut rings, 0, chains == Chains::Indirect, false).expect("memory");
    let disk = (0..SECTORS * 512).map(|at| (at / 512) as u8).collect();
    (Queue::new(ring, Notify::Doorbell { lane: 0 }, SECTORS, chains), FakeDevice { rings, disk })
}

fn read(sector: u64, lens: &[usize]) -> BlockRequest {
    let segments = lens.iter().map(|&len| vec![0xee; len]).collect();
    BlockRequest { disk: 0, action: Action::Read, offset: sector * 512, segments }
}

fn write(sector: u64, byte: u8, lens: &[usize]) -> BlockRequest {
    let segments = lens.iter().map(|&len| vec![byte; len]).collect();
    BlockRequest { disk: 0, action: Action::Write, offset: sector * 512, segments }
}

#[test]
fn data_moves_both_ways_through_many_segments() {
    for chains in [Chains::Indirect, Chains::Long, Chains::OneSegment] {
        let (mut queue, mut device) = pair(chains);
        queue.submit(1, write(2, 0xaa, &[512, 1024, 512])).expect("room");
        queue.submit(2, read(1, &[512; 17])).expect("room");
        queue.submit(3, BlockRequest { disk: 0, action: Action::Flush, offset: 0, segments: vec![] }).expect("room");
        assert_eq!(queue.take_notification(), Some(Notify::Doorbell { lane: 0 }));
        assert_eq!(queue.take_notification(), None);
        while let Some(taken) = device.take() {
            assert!(chains != Chains::OneSegment || taken.chain.len() <= 3, "one data descriptor a request");
            device.answer(&taken);
        }
        let ids: Vec<_> = core::iter::from_fn(|| queue.poll()).inspect(|f| assert_eq!(f.result, Ok(()))).collect();
        assert_eq!(ids.iter().map(|f| f.id).collect::<Vec<_>>(), [1, 2, 3]);
        let bytes = ids[1].request.segments.concat();
        let expected = |at: usize| if (512..2560).contains(&at) { 0xaa } else { (at / 512 + 1) as u8 };
        assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == expected(at)));
    }
}

#[test]
fn completions_may_come_in_any_order() {
    let (mut queue, mut device) = pair(Chains::Indirect);
    for id in 0..8 {
        queue.submit(id, read(id, &[512])).expect("room");
    }
    let taken: Vec<_> = core::iter::from_fn(|| device.take()).collect();
    for index in [7, 0, 6, 1, 5, 2, 4, 3] {
        device.answer(&taken[index]);
    }
    let finished: Vec<_> = core::iter::from_fn(|| queue.poll()).collect();
    assert_eq!(finished.iter().map(|f| f.id).collect::<Vec<_>>(), [7, 0, 6, 1, 5, 2, 4, 3]);
    assert!(finished.iter().all(|f| f.request.segments[0] == [f.id as u8; 512]));
}

#[test]
fn a_full_queue_gives_the_request_back() {
    let (mut queue, mut device) = pair(Chains::Indirect);
    for id in 0..u64::from(SIZE) {
        queue.submit(id, read(id % SECTORS, &[512])).expect("64 requests are in flight at once");
    }
    let Err(Refused::Full(request)) = queue.submit(99, read(0, &[512])) else { panic!("full") };
    assert_eq!(request.segments, [vec![0xee; 512]]);
    let taken = device.take().expect("submitted");
    device.answer(&taken);
    assert!(queue.poll().is_some());
    queue.submit(99, request).expect("room again");
}

#[test]
fn a_device_that_is_at_work_is_not_told() {
    let (mut queue, device) = pair(Chains::Indirect);
    let flags = device.rings.0.borrow().used;
    poke(flags, 1u16); // VIRTQ_USED_F_NO_NOTIFY
    queue.submit(1, read(1, &[512])).expect("room");
    assert_eq!(queue.take_notification(), None);
    poke(flags, 0u16);
    assert_eq!(queue.take_notification(), None, "it has looked before it rests");
    queue.submit(2, read(2, &[512])).expect("room");
    assert_eq!(queue.take_notification(), Some(Notify::Doorbell { lane: 0 }));
}

#[test]
fn malformed_requests_are_refused() {
    let (mut queue, _device) = pair(Chains::Indirect);
    let bad = [
        read(0, &[]),
        read(0, &[100]),
        read(0, &[0]),
        read(SECTORS, &[512]),
        read(SECTORS - 1, &[512, 512]),
        BlockRequest { offset: 7, ..read(0, &[512]) },
        BlockRequest { offset: u64::MAX - 511, ..read(0, &[512]) },
        BlockRequest { action: Action::Flush, ..read(0, &[512]) },
    ];
    for request in bad {
        assert!(matches!(queue.submit(0, request), Err(Refused::Malformed(_))));
    }
    assert_eq!(queue.take_notification(), None);
}

#[test]
fn an_error_status_fails_its_request_only() {
    let (mut queue, mut device) = pair(Chains::Indirect);
    for id in 0..3 {
        queue.submit(id, read(id, &[512])).expect("room");
    }
    for (status, len) in [(1u8, 1), (2, 1)] {
        let taken = device.take().expect("submitted");
        poke(taken.chain.last().expect("status").address, status);
        device.give(taken.head, len);
    }
    let taken = device.take().expect("submitted");
    device.answer(&taken);
    let results: Vec<_> = core::iter::from_fn(|| queue.poll()).map(|f| f.result).collect();
    assert_eq!(results, [Err(BlockError::Io), Err(BlockError::Unsupported), Ok(())]);
}

/// Submits two reads, lets the device misbehave, and expects both to fail without their buffers.
fn check_breakdown(misbehave: impl Fn(&mut FakeDevice, &[Taken])) {
    let (mut queue, mut device) = pair(Chains::Indirect);
    queue.submit(0, read(0, &[512])).expect("room");
    queue.submit(1, read(1, &[512])).expect("room");
    let taken: Vec<_> = core::iter::from_fn(|| device.take()).collect();
    misbehave(&mut device, &taken);
    let finished: Vec<_> = core::iter::from_fn(|| queue.poll()).collect();
    let failed: Vec<_> = finished.iter().filter(|f| f.result == Err(BlockError::Device)).collect();
    assert!(!failed.is_empty());
    assert!(failed.iter().all(|f| f.request.segments.is_empty()), "the device may still write to them");
    assert!(matches!(queue.submit(2, read(0, &[512])), Err(Refused::Full(_))));
    assert!(queue.poll().is_none());
    core::mem::forget(queue);
}

#[test]
fn an_answer_to_nothing_breaks_the_queue() {
    check_breakdown(|device, _| device.give(40, 513));
    check_breakdown(|device, _| device.give(SIZE, 513));
    check_breakdown(|device, _| device.give(u16::MAX, 513));
}

#[test]
fn a_second_answer_breaks_the_queue() {
    check_breakdown(|device, taken| {
        device.answer(&taken[0]);
        device.give(taken[0].head, 513);
    });
}

#[test]
fn a_short_answer_breaks_the_queue() {
    check_breakdown(|device, taken| {
        poke(taken[0].chain[2].address, 0u8);
        device.give(taken[0].head, 100);
    });
}

#[test]
fn an_answer_without_a_status_breaks_the_queue() {
    check_breakdown(|device, taken| device.give(taken[0].head, 513));
}

#[test]
fn more_answers_than_requests_break_the_queue() {
    check_breakdown(|device, taken| {
        for _ in 0..SIZE {
            device.give(taken[1].head, 0);
        }
    });
}
