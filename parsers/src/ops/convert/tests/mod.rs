//! convert against qemu-img: content, cleanliness and size of what comes out.

mod any_order;
mod blocks;
mod existing;
mod hostile;
mod mapped;
mod offload;
mod options;
mod overlay;
mod parents;
mod salvage;
mod several;
mod sources;
mod window;

use super::{convert, convert_full};
use crate::testing::{Fault, Machine, MemoryDisk, Qcow2Builder, qemu_img, qemu_io, request, scratch};
use instar_abi::error::{ChainError, Error, Qcow2Error, WriteError};
use instar_abi::format::Format;
use instar_abi::reply::{End, FinalLength, Frame};
use instar_abi::request::{
    Access, Answer, Before, Convert, Disk, DiskId, Given, HostExtent, LayerId, NeedKind, Op, Qcow2Options, RawGate,
    Request, TargetFormat,
};
use std::path::Path;

/// A job that converts layer 0; the last disk is the target.
fn job(sources: Vec<Vec<u8>>, target_format: TargetFormat) -> (Request, Vec<MemoryDisk>) {
    let mut disks: Vec<MemoryDisk> = sources.into_iter().map(MemoryDisk::new).collect();
    disks.push(MemoryDisk::default());
    let target = DiskId(disks.len() as u32 - 1);
    let op = Op::Convert(Convert {
        sources: vec![LayerId(0)],
        snapshot: None,
        target,
        target_format,
        before: Before::Empty,
        sparse_len: 4096,
        top_only: false,
        any_order: false,
        salvage: false,
        offload: false,
        part: None,
    });
    let mut request = request(op, &disks);
    request.layers.pop();
    request.layers.iter_mut().for_each(|layer| layer.raw_gate = RawGate::Open);
    request.disks[target.0 as usize] =
        Disk { len: 0, access: Access::Output { capacity: 1 << 40 }, data: None, allocated: None };
    request.budget.steps = u64::MAX;
    (request, disks)
}

/// Runs a job to its end; the target's bytes at their exact length.
fn run(request: &Request, disks: &[MemoryDisk]) -> Result<Vec<u8>, Error> {
    run_in(&mut Machine::new(request, disks), request, disks)
}

fn run_in(machine: &mut Machine, request: &Request, disks: &[MemoryDisk]) -> Result<Vec<u8>, Error> {
    let mut outputs = run_all(machine, request, disks)?;
    assert_eq!(outputs.len(), 1);
    Ok(outputs.remove(0))
}

/// Runs a job to its end; the bytes of every output at its exact length, the target first.
fn run_all(machine: &mut Machine, request: &Request, disks: &[MemoryDisk]) -> Result<Vec<Vec<u8>>, Error> {
    let End::Done { lengths } = convert_full(request, machine)? else { panic!("not done") };
    let output = |length: &FinalLength| {
        let mut bytes = disks[length.disk.0 as usize].bytes();
        assert!(bytes.len() as u64 <= length.len, "written past the end");
        bytes.resize(length.len as usize, 0);
        bytes
    };
    Ok(lengths.iter().map(output).collect())
}

/// The parameters of a job.
fn convert_of(job: &mut Request) -> &mut Convert {
    match &mut job.op {
        Op::Convert(convert) => convert,
        _ => panic!("not a convert"),
    }
}

fn read(dir: &Path, file: &str) -> Vec<u8> {
    std::fs::read(dir.join(file)).expect("the file")
}

/// Converts `file` to both formats with 1, 2 and 4 lanes, and holds the results against qemu-img's.
fn check(dir: &Path, file: &str) {
    qemu_img(dir, &format!("convert -O raw {file} expected.raw")).unwrap();
    qemu_img(dir, &format!("convert -O qcow2 {file} expected.qcow2")).unwrap();
    let expected = read(dir, "expected.raw");
    let mut first = None;
    for lanes in [1, 2, 4] {
        let (mut job, disks) = job(vec![read(dir, file)], TargetFormat::Raw);
        job.lanes = lanes;
        let ours = run(&job, &disks).unwrap_or_else(|error| panic!("{file}: {error:?}"));
        assert!(ours == expected, "{file}: raw content differs, {lanes} lanes");
        assert!(disks[1].written() <= allocated(&expected), "{file}: zeros written");

        let (mut job, disks) = self::job(vec![read(dir, file)], TargetFormat::Qcow2(Qcow2Options::default()));
        job.lanes = lanes;
        let ours = run(&job, &disks).unwrap_or_else(|error| panic!("{file}: {error:?}"));
        let first = first.get_or_insert_with(|| ours.clone());
        assert!(*first == ours, "{file}: bytes depend on lanes");
    }
    let ours = first.expect("made");
    assert!(ours.len() as u64 * 100 <= read(dir, "expected.qcow2").len() as u64 * 102, "{file}: {}", ours.len());
    check_clean(dir, &ours, &expected);
}

/// Bytes of 4 KiB blocks that are not zero.
fn allocated(bytes: &[u8]) -> u64 {
    bytes.chunks(4096).filter(|block| block.iter().any(|&byte| byte != 0)).map(|block| block.len() as u64).sum()
}

fn check_clean(dir: &Path, qcow2: &[u8], content: &[u8]) {
    std::fs::write(dir.join("ours.qcow2"), qcow2).unwrap();
    let report = qemu_img(dir, "check -f qcow2 ours.qcow2").unwrap();
    assert!(report.starts_with("No errors were found"), "{report}");
    qemu_img(dir, "convert -f qcow2 -O raw ours.qcow2 ours.raw").unwrap();
    assert!(read(dir, "ours.raw") == content, "qcow2 content differs");
}

#[test]
fn every_kind_of_qcow2_is_converted_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let writes = "write -P 1 0 100k; write -P 2 1M 65536; write -z 1M 8k; write -P 3 1500k 1234k; discard 2M 64k; \
                  write -P 4 5119k 1k; write -P 0 4M 64k";
    for (index, options) in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=2M",
        "compat=0.10",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,cluster_size=128k",
        "refcount_bits=1",
        "preallocation=metadata",
    ]
    .iter()
    .enumerate()
    {
        let file = format!("{index}.qcow2");
        qemu_img(dir, &format!("create -q -f qcow2 -o {options} {file} 5M")).unwrap();
        qemu_io(dir, &file, writes).unwrap();
        check(dir, &file);
    }
}

#[test]
fn compressed_images_are_converted_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|index| (index.wrapping_mul(index) >> 7) as u8 & 0x3f).collect();
    std::fs::write(dir.join("a.raw"), &bytes).unwrap();
    for (index, options) in [
        "compression_type=zlib",
        "compression_type=zstd",
        "compression_type=zlib,cluster_size=512",
        "compression_type=zstd,cluster_size=2M",
        "compression_type=zlib,cluster_size=256k",
        "compression_type=zlib,extended_l2=on,cluster_size=64k",
    ]
    .iter()
    .enumerate()
    {
        let file = format!("{index}.qcow2");
        qemu_img(dir, &format!("convert -f raw -O qcow2 -c -o {options} a.raw {file}")).unwrap();
        qemu_io(dir, &file, "write -P 9 70000 512").unwrap();
        check(dir, &file);
    }
}

#[test]
fn raw_images_of_every_length_are_converted_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    for len in [0, 1, 511, 512, 513, 65535, 65536, 65537, 2 << 20, (4 << 20) + 1000] {
        let bytes: Vec<u8> = (0..len).map(|index| if index / 70_000 % 2 == 0 { index as u8 | 1 } else { 0 }).collect();
        std::fs::write(dir.join("a.raw"), &bytes).unwrap();
        qemu_img(dir, "convert -f raw -O raw a.raw expected.raw").unwrap();
        let expected = read(dir, "expected.raw");
        let (mut job, disks) = job(vec![bytes.clone()], TargetFormat::Raw);
        job.layers[0].format = Some(Format::Raw);
        assert!(run(&job, &disks) == Ok(expected.clone()), "{len}");
        let (mut job, disks) = self::job(vec![bytes], TargetFormat::Qcow2(Qcow2Options::default()));
        job.layers[0].format = Some(Format::Raw);
        check_clean(dir, &run(&job, &disks).unwrap(), &expected);
    }
}

#[test]
fn host_holes_are_never_read() {
    let mut bytes = vec![0; 64 << 20];
    bytes[10 << 20..(10 << 20) + 5000].fill(7);
    // The host says hole where there is data: it would show if it were read.
    bytes[20 << 20] = 1;
    let (mut job, disks) = job(vec![bytes.clone()], TargetFormat::Raw);
    job.disks[0].data = Some(vec![HostExtent { start: 10 << 20, len: 8192 }]);
    let mut machine = Machine::new(&job, &disks);
    let ours = run_in(&mut machine, &job, &disks).unwrap();
    bytes[20 << 20] = 0;
    assert!(ours == bytes);
    assert!(machine.requests() < 10, "{}", machine.requests());
}

#[test]
fn a_window_is_converted_from_any_byte() {
    let bytes: Vec<u8> = (0..300_000u32).map(|index| (index / 7) as u8).collect();
    for (offset, len) in [(0, 512), (1, 1024), (511, 512 * 400), (777, 512 * 500), (512, 65536 * 3)] {
        let (mut job, disks) = job(vec![bytes.clone()], TargetFormat::Raw);
        job.layers[0].window = Some(instar_abi::request::Window { offset, len: Some(len) });
        job.layers[0].format = Some(Format::Raw);
        let expected = bytes[offset as usize..(offset + len) as usize].to_vec();
        assert!(run(&job, &disks) == Ok(expected), "{offset} {len}");
    }
}

fn backing_job(dir: &Path) -> (Request, Vec<MemoryDisk>) {
    let (mut job, disks) = job(vec![read(dir, "top.qcow2"), read(dir, "base.qcow2")], TargetFormat::Raw);
    job.answers = vec![Answer {
        layer: LayerId(0),
        kind: NeedKind::Backing,
        name: b"base.qcow2".to_vec(),
        given: Given::Layer(LayerId(1)),
    }];
    (job, disks)
}

fn make_chain(dir: &Path) {
    qemu_img(dir, "create -q -f qcow2 base.qcow2 2M").unwrap();
    qemu_io(dir, "base.qcow2", "write -P 1 0 2M").unwrap();
    qemu_img(dir, "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 5M").unwrap();
    qemu_io(dir, "top.qcow2", "write -P 2 100k 300k; write -z 1M 64k; write -P 3 4M 4k").unwrap();
}

#[test]
fn layers_of_unequal_length_read_zero_past_their_end() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    make_chain(dir);
    qemu_img(dir, "convert -O raw top.qcow2 expected.raw").unwrap();
    let (job, disks) = backing_job(dir);
    assert!(run(&job, &disks) == Ok(read(dir, "expected.raw")));
    // And the other way round: the layer below is longer.
    qemu_img(dir, "create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 1M").unwrap();
    qemu_img(dir, "convert -O raw top.qcow2 expected.raw").unwrap();
    let (job, disks) = backing_job(dir);
    assert!(run(&job, &disks) == Ok(read(dir, "expected.raw")));
}

#[test]
fn a_name_without_an_answer_is_asked_for_before_anything_is_written() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    make_chain(dir);
    let (mut job, disks) = backing_job(dir);
    let answers = std::mem::take(&mut job.answers);
    let mut machine = Machine::new(&job, &disks);
    assert_eq!(convert(&job, &mut machine), Ok(End::NeedsMore));
    let [Frame::Needs(needs)] = machine.frames.as_slice() else { panic!("{:?}", machine.frames) };
    assert_eq!(needs[0].name, b"base.qcow2");
    assert_eq!(needs[0].format.as_deref(), Some(b"qcow2".as_slice()));
    assert_eq!(disks[2].written(), 0);
    job.answers = answers;
    job.answers[0].name = b"other.qcow2".to_vec();
    let changed = ChainError::NameChanged { layer: LayerId(0), kind: NeedKind::Backing, found: b"base.qcow2".to_vec() };
    assert_eq!(run(&job, &disks), Err(Error::Chain(changed)));
}

#[test]
fn nothing_above_is_read_again_while_names_are_missing() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    make_chain(dir);
    qemu_img(dir, "rebase -u -b deeper.qcow2 -F qcow2 base.qcow2").unwrap();
    let (job, disks) = backing_job(dir);
    // It has been read in the run before, or nobody would have asked for the base.
    disks[0].truncate();
    let mut machine = Machine::new(&job, &disks);
    assert_eq!(convert(&job, &mut machine), Ok(End::NeedsMore));
    let [Frame::Needs(needs)] = machine.frames.as_slice() else { panic!("{:?}", machine.frames) };
    let [need] = needs.as_slice() else { panic!("{needs:?}") };
    assert_eq!((need.layer, need.name.as_slice()), (LayerId(1), b"deeper.qcow2".as_slice()));
}

#[test]
fn an_external_data_file_is_asked_for_and_read() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    for options in ["data_file=data.raw", "data_file=data.raw,data_file_raw=on"] {
        qemu_img(dir, &format!("create -q -f qcow2 -o {options} a.qcow2 2M")).unwrap();
        qemu_io(dir, "a.qcow2", "write -P 5 64k 100k; write -P 6 1M 4k").unwrap();
        qemu_img(dir, "convert -O raw a.qcow2 expected.raw").unwrap();
        let (mut job, disks) = job(vec![read(dir, "a.qcow2"), read(dir, "data.raw")], TargetFormat::Raw);
        job.layers.truncate(1);
        let mut machine = Machine::new(&job, &disks);
        assert_eq!(convert(&job, &mut machine), Ok(End::NeedsMore));
        job.answers = vec![Answer {
            layer: LayerId(0),
            kind: NeedKind::DataFile,
            name: b"data.raw".to_vec(),
            given: Given::Disk(DiskId(1)),
        }];
        assert!(run(&job, &disks) == Ok(read(dir, "expected.raw")), "{options}");
    }
}

#[test]
fn encrypted_content_is_refused_by_name() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(
        dir,
        "create -q -f qcow2 --object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s a.qcow2 1M",
    )
    .unwrap();
    let (job, disks) = job(vec![read(dir, "a.qcow2")], TargetFormat::Raw);
    assert_eq!(run(&job, &disks), Err(Error::Encrypted { layer: LayerId(0) }));
}

#[test]
fn every_failing_request_is_reported_whatever_the_lanes() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let bytes: Vec<u8> = (0..9_000_000u32).map(|index| (index / 1000) as u8 & 0x7f).collect();
    std::fs::write(dir.join("a.raw"), &bytes).unwrap();
    qemu_img(dir, "convert -f raw -O qcow2 a.raw a.qcow2").unwrap();
    for (lanes, target) in [
        (1, TargetFormat::Qcow2(Qcow2Options::default())),
        (3, TargetFormat::Qcow2(Qcow2Options::default())),
        (2, TargetFormat::Raw),
    ] {
        let (mut job, disks) = job(vec![read(dir, "a.qcow2")], target);
        job.lanes = lanes;
        let mut sound = Machine::with_fault(&job, &disks, Fault::None, true);
        run_in(&mut sound, &job, &disks).unwrap();
        for number in 0..sound.requests() {
            let (mut job, disks) = self::job(vec![read(dir, "a.qcow2")], job_target(&job));
            job.lanes = lanes;
            let mut machine = Machine::with_fault(&job, &disks, Fault::Request(number), number % 2 == 0);
            let result = run_in(&mut machine, &job, &disks);
            assert!(matches!(result, Err(Error::Read(_) | Error::Write(_))), "{number}: {:?}", result.is_ok());
            let written = disks[1].bytes();
            let header = written.get(..4).unwrap_or_default();
            if number + 1 < sound.requests() {
                assert_ne!(header, b"QFI\xfb", "{number}: a failed image has a header");
            }
        }
    }
}

fn job_target(job: &Request) -> TargetFormat {
    match &job.op {
        Op::Convert(convert) => convert.target_format.clone(),
        _ => panic!("not a convert"),
    }
}

#[test]
fn an_output_never_grows_past_its_capacity() {
    for (target, capacity) in [
        (TargetFormat::Raw, (1 << 20) - 512),
        (TargetFormat::Qcow2(Qcow2Options::default()), 1 << 20),
        (TargetFormat::Qcow2(Qcow2Options::default()), 65536),
    ] {
        let (mut job, disks) = job(vec![vec![1; 1 << 20]], target);
        job.disks[1].access = Access::Output { capacity };
        let result = run(&job, &disks);
        assert!(matches!(result, Err(Error::Write(WriteError::Capacity { .. }))), "{result:?}");
        assert!(disks[1].bytes().len() as u64 <= capacity);
    }
}

#[test]
fn without_sparse_everything_is_allocated() {
    let (mut job, disks) = job(vec![vec![0; 3 << 20]], TargetFormat::Raw);
    let Op::Convert(convert) = &mut job.op else { panic!() };
    convert.sparse_len = 0;
    assert!(run(&job, &disks) == Ok(vec![0; 3 << 20]));
    assert_eq!(disks[1].written(), 3 << 20);
}

/// 1 TiB that is empty but for a few clusters: tables are written as they are passed.
#[test]
fn a_huge_sparse_disk_needs_little() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 1T").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 0 64k; write -P 2 500G 4k; write -P 3 1099511562240 64k").unwrap();
    let (job, disks) = job(vec![read(dir, "a.qcow2")], TargetFormat::Qcow2(Qcow2Options::default()));
    let mut machine = Machine::new(&job, &disks);
    let ours = run_in(&mut machine, &job, &disks).unwrap();
    assert!(machine.kicks() < 32, "{} kicks", machine.kicks());
    std::fs::write(dir.join("ours.qcow2"), &ours).unwrap();
    assert!(qemu_img(dir, "check ours.qcow2").unwrap().starts_with("No errors"));
    assert_eq!(qemu_img(dir, "compare a.qcow2 ours.qcow2").unwrap(), "Images are identical.\n");
}

/// One read and one write of 1 MiB at a time, but for the tables; where the device works meanwhile, four reads and what they become.
#[test]
fn a_lane_reads_ahead_only_of_devices_that_work_meanwhile() {
    let bytes: Vec<u8> = (0..16u32 << 20).map(|index| (index / 4096) as u8 | 1).collect();
    let in_flight = |meanwhile: bool| {
        let (job, disks) = job(vec![bytes.clone()], TargetFormat::Raw);
        let mut machine = Machine::with_fault(&job, &disks, Fault::None, meanwhile);
        assert!(run_in(&mut machine, &job, &disks).as_ref() == Ok(&bytes));
        (machine.most_in_flight(), machine.kicks())
    };
    let (most, kicks) = in_flight(false);
    assert!(most <= 3 && kicks > 16, "{most} in flight, {kicks} kicks");
    let (most, kicks) = in_flight(true);
    assert!((4..=9).contains(&most) && kicks < 16, "{most} in flight, {kicks} kicks");
}

#[test]
fn a_truncated_image_is_an_error_and_not_zeros() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 4M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 0 4M").unwrap();
    let mut bytes = read(dir, "a.qcow2");
    bytes.truncate(1 << 20);
    let (job, disks) = job(vec![bytes], TargetFormat::Raw);
    let result = run(&job, &disks);
    assert!(
        matches!(result, Err(Error::Qcow2 { error: Qcow2Error::ClusterPastEnd { offset: 0x10_0000, .. }, .. })),
        "{result:?}"
    );
}

/// A disk of 512 MiB whose every cluster is the same one, of zeros: all of it is read, nothing is written.
#[test]
fn progress_is_told_now_and_then_and_never_goes_back() {
    let size: u64 = 512 << 20;
    let mut image = Qcow2Builder::v3().header(|header| {
        header.cluster_bits = 16.into();
        header.size = size.into();
        header.l1_size = 1.into();
        header.refcount_table_offset = 65536.into();
        header.l1_table_offset = (2u64 << 16).into();
    });
    image.put(2 << 16, (3u64 << 16).to_be_bytes());
    for entry in 0..8192 {
        image.put((3 << 16) + 8 * entry, (4u64 << 16).to_be_bytes());
    }
    image.put(4 << 16, [0; 65536]);
    for lanes in [1, 2, 4] {
        let (mut job, disks) = job(vec![image.build()], TargetFormat::Raw);
        job.lanes = lanes;
        let mut machine = Machine::new(&job, &disks);
        let length = FinalLength { disk: DiskId(1), len: size };
        assert_eq!(convert(&job, &mut machine), Ok(End::Done { lengths: vec![length] }));
        assert_eq!(disks[1].written(), 0);
        let mut last = 0;
        for frame in machine.posted() {
            let Frame::Progress { done, total } = frame else { panic!("{frame:?}") };
            assert!(total == size && done > last && done < size, "{done} after {last} of {total}");
            last = done;
        }
        let count = machine.posted().len();
        // With several lanes the others may be through before lane 0 has its first stretch.
        assert!(count <= 100 && (lanes > 1 || count > 50), "{count} frames");
        assert_eq!(machine.frames, [Frame::Progress { done: size, total: size }]);
    }
}
