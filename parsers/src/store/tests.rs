use super::*;
use crate::testing::{Fault, INFO, Machine, MemoryDisk, request};
use instar_abi::error::Resource;
use instar_io::Env;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| ((index / 3) ^ (index >> 9)) as u8).collect()
}

/// Runs `work` over one disk of these bytes; what it gives, and the kicks it took.
fn with<T>(bytes: Vec<u8>, fault: Fault, work: impl FnOnce(&mut dyn ReadAt) -> T) -> (T, u64) {
    let disks = [MemoryDisk::new(bytes)];
    let request = request(INFO, &disks);
    let mut machine = Machine::with_fault(&request, &disks, fault, true);
    let mut queue = Queue::new(machine.lane());
    let (cache, budget) = (&mut Cache::new(), &mut Budget::from(request.budget));
    let result = work(&mut Store { queue: &mut queue, cache, budget, disks: &request.disks });
    (result, machine.kicks())
}

#[test]
fn every_range_reads_its_own_bytes() {
    let bytes = pattern(1_500_001);
    let ((), _) = with(bytes.clone(), Fault::None, |io| {
        for (offset, len) in [
            (0, 1),
            (511, 2),
            (16383, 2),
            (16384, 16384),
            (1, 70_000),
            (7, 1_400_000),
            (1_500_000, 1),
            (999_999, 65536),
        ] {
            let mut buf = vec![0; len];
            io.read_at(DiskId(0), offset as u64, &mut buf).unwrap();
            assert!(buf == bytes[offset..offset + len], "{offset} {len}");
        }
    });
}

#[test]
fn nothing_is_read_past_the_end() {
    let ((), _) = with(pattern(1000), Fault::None, |io| {
        for (disk, offset, len) in [
            (0, 1000, 1),
            (0, 999, 2),
            (0, 0, 1001),
            (0, u64::MAX, 1),
            (0, u64::MAX - 1, 2),
            (1, 0, 1),
            (u32::MAX, 0, 1),
        ] {
            let result = io.read_at(DiskId(disk), offset, &mut vec![0; len]);
            assert!(matches!(result, Err(Error::Read(ReadError::OutOfRange { .. }))), "{disk} {offset} {len}");
        }
        let mut buf = [9; 8];
        io.read_padded(DiskId(0), 996, &mut buf).unwrap();
        assert_eq!(buf, [pattern(1000)[996..].to_vec(), vec![0; 4]].concat()[..]);
        io.read_padded(DiskId(0), u64::MAX, &mut buf).unwrap();
        assert_eq!(buf, [0; 8]);
    });
}

#[test]
fn what_was_prefetched_costs_one_batch() {
    let ((), kicks) = with(pattern(200_000), Fault::None, |io| {
        let disk = DiskId(0);
        io.prefetch(&[(disk, 0..4096), (disk, 100_000..100_100), (disk, 199_000..u64::MAX), (disk, 1 << 40..1 << 41)])
            .unwrap();
        io.prefetch(&[(disk, 10..20), (disk, 100_000..100_050)]).unwrap();
        let mut buf = [0; 100];
        for offset in [0, 3996, 100_000, 199_900] {
            io.read_at(disk, offset, &mut buf).unwrap();
            assert_eq!(buf, pattern(200_000)[offset as usize..][..100]);
        }
    });
    assert_eq!(kicks, 1);
}

#[test]
fn the_cache_stays_small_and_right() {
    let bytes = pattern(4 << 20);
    let ((), kicks) = with(bytes.clone(), Fault::None, |io| {
        for round in 0..3 {
            for window in 0..200 {
                let mut buf = [0; 5];
                let offset = window * 20_000 + round;
                io.read_at(DiskId(0), offset as u64, &mut buf).unwrap();
                assert_eq!(buf, bytes[offset..offset + 5]);
            }
        }
    });
    assert!(kicks > 400, "{kicks}: more was kept than there is room for");
}

#[test]
fn a_failed_read_is_told_with_its_place() {
    let (result, _) = with(pattern(100_000), Fault::Request(1), |io| {
        let mut buf = [0; 4];
        io.read_at(DiskId(0), 0, &mut buf).unwrap();
        io.read_at(DiskId(0), 50_000, &mut buf)
    });
    assert_eq!(result, Err(Error::Read(ReadError::Io { disk: DiskId(0), offset: 49152 })));
}

#[test]
fn reads_are_drawn_from_the_budget() {
    let (result, _) = with(pattern(100_000), Fault::None, |io| {
        let left = io.budget().clone();
        *io.budget() =
            Budget::from(instar_abi::request::Budget { heap_bytes: 0, read_bytes: 16384, steps: 2, depth: 0 });
        let mut buf = [0; 4];
        io.read_at(DiskId(0), 0, &mut buf)?;
        assert_eq!(io.read_vec(DiskId(0), 0, 1), Err(Error::OutOfBudget(Resource::Heap)));
        let result = io.read_at(DiskId(0), 50_000, &mut buf);
        assert_eq!(result, Err(Error::OutOfBudget(Resource::ReadBytes)));
        let result = io.read_at(DiskId(0), 0, &mut buf);
        *io.budget() = left;
        result
    });
    assert_eq!(result, Err(Error::OutOfBudget(Resource::Steps)));
}
