//! What guests write: replies, and scripts against the devices.

use instar_abi::control::Header;
use instar_abi::error::{Error, Qcow2Error, ReadError};
use instar_abi::facts::{Backing, Image, Node, Snapshot, Value};
use instar_abi::format::Format;
use instar_abi::reply::{End, FinalLength, Frame, Need, encode_frame, pad_batch};
use instar_abi::request::{
    Access, Answer, Before, Budget, Convert, Disk, DiskId, Given, HostExtent, Layer, LayerId, NeedKind, Op,
    Qcow2Options, RawGate, Request, TargetFormat, Window,
};
use zerocopy::IntoBytes as _;

fn image() -> Frame {
    Frame::Image(Image {
        format: Format::Qcow2,
        virtual_size: 1 << 30,
        cluster_size: Some(65536),
        encrypted: false,
        compressed: false,
        dirty: Some(true),
        backing: Some(Backing { name: b"base\x1b[31m.qcow2".to_vec(), format: Some(b"qcow2".to_vec()) }),
        child_len: Some(1 << 20),
        specific: Some(b"qcow2".to_vec()),
    })
}

fn snapshots() -> Frame {
    Frame::Snapshots(vec![Snapshot {
        id: b"1".to_vec(),
        name: "sn\u{202e}ap".into(),
        vm_state_size: 3 << 20,
        date_seconds: 1_700_000_000,
        date_nanoseconds: 5,
        vm_clock_nanoseconds: 3_600_000_000_000,
        icount: Some(7),
    }])
}

fn specific() -> Frame {
    let node = |depth, key: &str, value| Node { depth, key: key.into(), value };
    Frame::Specific(vec![
        node(0, "compat", Value::Text(b"1.1".to_vec())),
        node(0, "bitmaps", Value::List),
        node(1, "", Value::Object),
        node(2, "name", Value::Text(b"bitmap0\n".to_vec())),
        node(2, "granularity", Value::Number(65536)),
        node(2, "flags", Value::List),
        node(3, "", Value::Text(b"auto".to_vec())),
        node(0, "corrupt", Value::Bool(false)),
    ])
}

/// Frames as `result_stream` takes them: length with the last one's highest bit set, and the payload.
fn framed(limit: u8, frames: &[Frame]) -> Vec<u8> {
    let mut input = vec![1, limit];
    for (index, frame) in frames.iter().enumerate() {
        let mut batch = Vec::new();
        encode_frame(frame, &mut batch).expect("short");
        let payload = &batch[8..];
        let last = if index + 1 == frames.len() { 0x8000 } else { 0 };
        input.extend((u16::try_from(payload.len()).expect("short") | last).to_le_bytes());
        input.extend(payload);
    }
    input
}

/// The same as writes of whole sectors.
fn raw(limit: u8, batches: &[&[Frame]]) -> Vec<u8> {
    let mut input = vec![0, limit];
    for frames in batches {
        let mut batch = Vec::new();
        frames.iter().for_each(|frame| encode_frame(frame, &mut batch).expect("short"));
        pad_batch(&mut batch);
        input.push(u8::try_from(batch.len() / 512).expect("short"));
        input.extend(batch);
    }
    input
}

fn request(op: Op) -> Request {
    let disk = Disk {
        len: 1 << 20,
        access: Access::ReadOnly,
        data: Some(vec![HostExtent { start: 0, len: 4096 }]),
        allocated: Some(4096),
    };
    let output = Disk { len: 0, access: Access::Output { capacity: 1 << 60 }, data: None, allocated: None };
    let layer = Layer::new(DiskId(0), None, RawGate::Partitioned);
    let window = Some(Window { offset: 512, len: Some(1024) });
    Request {
        op,
        disks: vec![disk, output],
        layers: vec![layer.clone(), Layer { format: Some(Format::Raw), raw_gate: RawGate::Open, window, ..layer }],
        answers: vec![
            Answer { layer: LayerId(0), kind: NeedKind::Backing, name: b"b".to_vec(), given: Given::Layer(LayerId(1)) },
            Answer { layer: LayerId(1), kind: NeedKind::DataFile, name: b"d".to_vec(), given: Given::Disk(DiskId(0)) },
        ],
        budget: Budget { heap_bytes: 1 << 20, read_bytes: 1 << 20, steps: 1000, depth: 16 },
        seed: [9; 32],
        now: 1_700_000_000,
        lanes: 2,
    }
}

pub fn replies() -> Vec<(String, Vec<u8>)> {
    let progress = |done, total| Frame::Progress { done, total };
    let done = Frame::End(End::Done { lengths: vec![FinalLength { disk: DiskId(1), len: 1 << 20 }] });
    let need = Frame::Needs(vec![Need {
        layer: LayerId(0),
        kind: NeedKind::Backing,
        name: b"base".to_vec(),
        format: Some(b"raw".to_vec()),
    }]);
    let failed = |error| Frame::End(End::Failed(error));
    let info = [image(), snapshots(), specific(), Frame::End(End::Done { lengths: Vec::new() })];
    let qcow2 = Error::Qcow2 { layer: LayerId(0), error: Qcow2Error::Version { found: 9 } };
    let read = Error::Read(ReadError::Io { disk: DiskId(0), offset: 512 });
    let convert = Op::Convert(Convert {
        sources: vec![LayerId(0)],
        snapshot: None,
        target: DiskId(1),
        target_format: TargetFormat::Qcow2(Qcow2Options::default()),
        before: Before::Empty,
        sparse_len: 4096,
        top_only: false,
        any_order: false,
        salvage: false,
        offload: false,
        part: None,
    });
    let coded = |op| [&[2, 4], request(op).encode().expect("memory").as_slice()].concat();
    // The build id changes with every change of the ABI; the target puts it in.
    let mut header = Header::new([7; 16], 7, 4096);
    header.build_id = [0; 32];
    vec![
        ("info".into(), framed(4, &info)),
        ("info-raw-writes".into(), raw(4, &[&info])),
        ("convert".into(), framed(3, &[progress(0, 9), progress(5, 9), progress(9, 9), done.clone()])),
        ("convert-raw-writes".into(), raw(3, &[&[progress(0, 9)], &[progress(9, 9), done]])),
        ("needs".into(), framed(4, &[need, Frame::End(End::NeedsMore)])),
        ("failed-qcow2".into(), framed(4, &[failed(qcow2)])),
        ("failed-read".into(), framed(4, &[failed(read)])),
        ("progress-back".into(), framed(4, &[progress(5, 9), progress(4, 9)])),
        ("progress-beyond".into(), framed(4, &[progress(10, 9)])),
        ("after-end".into(), framed(4, &[Frame::End(End::NeedsMore), progress(0, 1)])),
        ("no-room".into(), framed(0, &info)),
        ("out-of-place".into(), [&[0, 4, 0x81], 9u32.to_le_bytes().as_slice(), &[0; 512]].concat()),
        ("request-info".into(), coded(Op::Info { image: LayerId(1), details: false })),
        ("request-convert".into(), coded(convert)),
        ("header".into(), [&[3, 0], header.as_bytes()].concat()),
    ]
}

pub fn scripts() -> Vec<(String, Vec<u8>)> {
    const NO_FAULT: u8 = 7 << 1;
    let sound = |steps: &[&[u8]]| [&[NO_FAULT], steps.concat().as_slice()].concat();
    // Kind, sector, shape: sectors in the lowest three bits, further segments above.
    let (read, write, flush, unknown) = ([0, 0, 3, 0x12], [0, 1, 5, 0x0b], [0, 4, 0, 0], [0, 3, 0, 1]);
    let (last, past_end) = ([0, 0, 63, 1], [0, 0, 63, 2]);
    let descriptor = |index: u8, at: u16, len: u16, flags: u8, next: u8| -> Vec<u8> {
        [&[2, index], at.to_le_bytes().as_slice(), &len.to_le_bytes(), &[flags, next]].concat()
    };
    let chain = [descriptor(0, 0x4000, 16, 1, 1), descriptor(1, 0x5000, 512, 3, 2), descriptor(2, 0x4100, 1, 2, 0)];
    let by_hand = [chain.concat().as_slice(), &[3, 0, 5, 0]].concat();
    let read_only = [descriptor(0, 0x4000, 16, 1, 1), descriptor(1, 0x5000, 512, 1, 2), descriptor(2, 0x4100, 1, 2, 0)];
    let header = [&[1, 0x00, 0x40, 16, 1, 0, 0, 0, 0, 0, 0, 0], [0; 8].as_slice()].concat();
    let to_read_only = [header.as_slice(), &read_only.concat(), &[3, 0, 5, 1]].concat();
    let indirect = [
        [&[1, 0x00, 0x60, 48], chain_bytes(&[(0x4000, 16, 1, 1), (0x5000, 512, 3, 2), (0x4100, 1, 2, 0)]).as_slice()]
            .concat(),
        descriptor(0, 0x6000, 48, 4, 0),
        vec![3, 0, 6],
    ]
    .concat();
    let looped = [descriptor(0, 0x4000, 16, 1, 1), descriptor(1, 0x5000, 512, 3, 1), vec![3, 0, 5, 0]].concat();
    let registers = |size: u16, places: [u64; 3]| -> Vec<u8> {
        let places: Vec<u8> = places.iter().flat_map(|place| place.to_le_bytes()).collect();
        [&[1 | NO_FAULT], size.to_le_bytes().as_slice(), &places].concat()
    };
    let mmio = |register: u16, value: u32| [&[7], register.to_le_bytes().as_slice(), &value.to_le_bytes()].concat();
    let set_up = [mmio(0x38, 8), mmio(0x80, 0x1000), mmio(0x90, 0x2000), mmio(0xa0, 0x3000), mmio(0x44, 1)].concat();
    // Device 0 behind vhost-user: a pause, a window of memory that comes and goes, rings at other places.
    let behind = |steps: &[&[u8]]| [&[0x10 | NO_FAULT], steps.concat().as_slice()].concat();
    let (paused, window, moved) = ([7, 0], [7, 1], [7, 3, 0x00, 0x11, 0x00, 0x31, 0x00, 0x21]);
    vec![
        ("sound".into(), sound(&[&read, &write, &flush, &unknown, &last, &past_end])),
        ("sound-fault-1".into(), [&[1 << 1], [read, write, read].concat().as_slice()].concat()),
        ("by-hand".into(), sound(&[&by_hand])),
        ("read-only".into(), sound(&[&to_read_only])),
        ("indirect".into(), sound(&[&indirect])),
        ("loop".into(), sound(&[&looped])),
        ("ring-ahead".into(), sound(&[&[4, 0xff, 0x7f, 5, 0]])),
        ("raw-registers".into(), [registers(64, [0x1000, 0x2000, 0x3000]), by_hand.clone()].concat()),
        ("raw-outside".into(), registers(64, [0xffff, 0x2000, u64::MAX])),
        ("raw-overlap".into(), [registers(16, [0x1000, 0x1000, 0x1000]), read.to_vec()].concat()),
        ("mmio".into(), sound(&[&set_up, &mmio(0x50, 0), &read])),
        ("behind".into(), behind(&[&read, &paused, &write, &window, &read, &flush])),
        ("behind-by-hand".into(), behind(&[&by_hand, &paused, &[3, 0, 5, 0]])),
        ("behind-moved".into(), behind(&[&read, &moved, &paused, &by_hand])),
        ("behind-elsewhere".into(), behind(&[&[7, 7, 0, 0x10, 0, 0x40, 0, 0], &read])),
    ]
}

fn chain_bytes(descriptors: &[(u64, u32, u16, u16)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (address, len, flags, next) in descriptors {
        bytes.extend(address.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
    }
    bytes
}
