use super::{DISK, LAYER};
use crate::image::BUDGET;
use crate::layout::Script;
use crate::machine::FuzzMachine;
use instar_abi::reply::{End, FinalLength, Frame};
use instar_abi::request::{
    Access, Before, Convert, Disk, DiskId, Layer, Op, Part, Qcow2Options, RawGate, Request, TargetFormat,
};
use instar_parsers::ops::convert;

/// Longest disk.
const SIZE_MAX: u64 = 256 << 10;

/// A part of a disk, as dd copies it. Bytes 0 to 7: bytes of the disk; 8 to 15: first byte; 16 to 23: bytes; 24: bit 0
/// raw numbers, bit 1 to qcow2, bits 2 and 3 lanes.
pub fn dd_window(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(size), Some(start), Some(len), Some(flags)) = (script.u64(), script.u64(), script.u64(), script.u8())
    else {
        return;
    };
    let size = size % (SIZE_MAX + 1);
    let bounded = |number: u64| if flags & 1 == 0 { number % (size + 4096) } else { number };
    let part = Part { start: bounded(start), len: bounded(len) };
    let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    let target = DiskId(1);
    let qcow2 = flags & 2 != 0;
    let op = Op::Convert(Convert {
        sources: vec![LAYER],
        snapshot: None,
        target,
        target_format: if qcow2 { TargetFormat::Qcow2(Qcow2Options::default()) } else { TargetFormat::Raw },
        before: Before::Empty,
        sparse_len: 4096,
        any_order: false,
        salvage: false,
        offload: false,
        top_only: false,
        part: Some(part),
    });
    let source = Disk::read_only(size);
    let output = Disk { len: 0, access: Access::Output { capacity: 1 << 40 }, data: None, allocated: None };
    let layer = Layer::new(DISK, Some(instar_abi::format::Format::Raw), RawGate::Open);
    let request = Request::new(op, vec![source.clone(), output.clone()], vec![layer], BUDGET);
    let request = Request { lanes: 1 + (flags >> 2 & 3), ..request };
    let mut machine = FuzzMachine::new(&[(source, &bytes), (output, &[])], request.lanes, None);
    let end = convert(&request, &mut machine).expect("raw is readable");
    let End::Done { lengths } = end else { panic!("{end:?}") };
    let [FinalLength { disk, len }] = lengths[..] else { panic!("{lengths:?}") };
    assert_eq!(disk, target);
    // As QEMU has it, a raw disk ends with a whole sector.
    let disk_len = size.next_multiple_of(512);
    assert_eq!(machine.frames.contains(&Frame::PastEnd), part.start > disk_len);
    let from = part.start.min(disk_len);
    let to = part.start.saturating_add(part.len).min(disk_len).max(from);
    let mut expected: Vec<u8> = (from..to).map(|at| bytes.get(at as usize).copied().unwrap_or(0)).collect();
    expected.resize(expected.len().next_multiple_of(512), 0);
    let mut written = machine.bytes(1);
    assert!(written.len() as u64 <= len, "written past the end");
    if qcow2 {
        let size = written.get(24..32).and_then(|bytes| bytes.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes));
        assert_eq!(size, Some(expected.len() as u64), "the virtual size");
    } else {
        written.resize(len as usize, 0);
        assert!(written == expected, "{} bytes of {from}..{to}, and not what they are", written.len());
    }
}
