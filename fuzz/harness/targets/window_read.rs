use crate::image::BUDGET;
use crate::layout::Script;
use crate::machine::FuzzMachine;
use instar_abi::error::{Error, RawError, ReadError};
use instar_abi::request::{Below, Disk, DiskId, Layer, LayerId, RawGate, Window};
use instar_io::Env as _;
use instar_parsers::store::{Cache, Part, Queue, ReadAt, Store};

/// Most bytes of a disk and of a read.
const LEN_MAX: u64 = 1 << 20;
/// What a buffer holds before: no byte of a disk, whose bytes are below 251.
const SENTINEL: u8 = 0xff;

/// Reads at any byte of a window of a disk, through cache and queue. Bytes 0 to 7: offset; 8 to 15: length; 16: what is
/// read by (mod 3: exactly, padded with zeros, a second time after a prefetch), bit 7: raw numbers; 17 to 24: bytes of
/// the disk; then, where there is more, the window's offset (8) and length (8; all ones: to the end).
pub fn window_read(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(offset), Some(len), Some(how), Some(capacity)) = (script.u64(), script.u64(), script.u8(), script.u64())
    else {
        return;
    };
    let window = script.u64().zip(script.u64());
    let is_raw = how & 0x80 != 0;
    let disk_len = capacity % (LEN_MAX + 1);
    let bounded = |number: u64, limit: u64| if is_raw { number } else { number % (limit + 1) };
    let window = window.map(|(offset, len)| Window {
        offset: bounded(offset, disk_len),
        len: Some(bounded(len, disk_len) & if is_raw { u64::MAX } else { !511 }).filter(|_| len != u64::MAX),
    });
    let (offset, len) = (bounded(offset, disk_len), len % (LEN_MAX + 1));

    let disk: Vec<u8> = (0..disk_len).map(|at| (at % 251) as u8).collect();
    let described = [Disk::read_only(disk_len)];
    let mut machine = FuzzMachine::new(&[(described[0].clone(), &disk)], 1, None);
    let mut queue = Queue::new(machine.lane());
    let (mut cache, mut budget) = (Cache::new(), BUDGET.into());
    let mut store = Store { queue: &mut queue, cache: &mut cache, budget: &mut budget, disks: &described };
    let layer = Layer { disk: DiskId(0), format: None, raw_gate: RawGate::Open, window, below: Below::AsNamed };
    let part = Part::of(&store, LayerId(0), &layer);
    let (start, end) = match &part {
        Ok(part) => {
            let end = part.offset.checked_add(part.len).expect("the end of a window");
            assert!(end <= disk_len, "a window that leaves its disk");
            assert_eq!(window.map_or(0, |window| window.offset), part.offset);
            (part.offset, end)
        }
        Err(error) => {
            let expected = window.expect("only a window is refused");
            let in_range = expected.offset.checked_add(expected.len.unwrap_or(0)).is_some_and(|end| end <= disk_len);
            let whole = expected.len.is_none_or(|len| len.is_multiple_of(512));
            assert!(!(in_range && whole), "a window within its disk: {error:?}");
            return assert!(matches!(error, Error::Raw { error: RawError::Window { .. }, .. }), "{error:?}");
        }
    };
    let part = part.expect("checked above");
    let mut view = part.view(&mut store);
    let io: &mut dyn ReadAt = &mut view;
    let mut buf = vec![SENTINEL; len as usize + 64];
    let (read, rest) = buf.split_at_mut(len as usize);
    if how % 3 == 2 {
        io.prefetch(&[(DiskId(0), offset..offset.saturating_add(len))]).expect("within the budget");
        let _ = io.read_padded(DiskId(0), offset, read);
    }
    let result =
        if how % 3 == 0 { io.read_at(DiskId(0), offset, read) } else { io.read_padded(DiskId(0), offset, read) };
    assert!(rest.iter().all(|&byte| byte == SENTINEL), "written behind the buffer");
    let inside = offset.checked_add(len).is_some_and(|to| to <= end - start);
    match result {
        Ok(()) => {
            assert!(inside || how % 3 != 0, "read past the end");
            for (index, &byte) in read.iter().enumerate() {
                let at = offset.checked_add(index as u64).and_then(|at| at.checked_add(start)).filter(|&at| at < end);
                assert_eq!(
                    byte,
                    at.map_or(0, |at| (at % 251) as u8),
                    "byte {index} of {len} at {offset} in {start}..{end}"
                );
            }
        }
        Err(error) => {
            assert!(how % 3 == 0 && !inside, "{error:?}");
            assert!(matches!(error, Error::Read(ReadError::OutOfRange { .. })), "{error:?}");
        }
    }
}
