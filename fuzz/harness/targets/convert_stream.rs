use super::{DISK, LAYER, check_error};
use crate::image::{BUDGET, FuzzImage, FuzzReader};
use crate::layout::Script;
use crate::machine::FuzzMachine;
use crate::model::check::check;
use crate::model::content::{Layer, SECTOR_LEN, Sector};
use instar_abi::error::{Error, WriteError};
use instar_abi::format::Format;
use instar_abi::reply::{End, FinalLength};
use instar_abi::request::{
    Access, Before, Compression, Convert, Disk, DiskId, Layer as RequestLayer, NewDataFile, Op, Qcow2Options, RawGate,
    Request, TargetFormat,
};
use instar_parsers::image::Image as _;
use instar_parsers::ops::{convert, convert_full};
use instar_parsers::plan::invariants::check_refusal;
use instar_parsers::qcow2::Qcow2;

const TARGET: DiskId = DiskId(1);
const DATA_FILE: DiskId = DiskId(2);
/// Most bytes of an output.
const CAPACITY: u64 = 16 << 20;
/// Disks up to this size are compared from end to end, larger ones at some places.
const COMPARED_LEN: u64 = 1 << 20;

/// Any image through convert, raw or qcow2 to raw or qcow2.
///
/// Byte 0: source and target (bit 0 the source is raw, 1 the target is raw, 2 compress, 3 zstd, 4 extended L2, 5 version
/// 2, 6 preallocated, 7 data file); 1: log2 of the cluster size, from 9; 2: log2 of the refcount width; 3: sparse
/// length (mod 4: 0, 4 KiB, 64 KiB, 512); 4: lanes (3 of 8 values more than one); 5: the request that fails (0: none),
/// less 1; 6: bit 0 any order, bit 1 lazy refcounts; 7 to 15 are zero. The rest is the source.
pub fn convert_stream(data: &[u8]) {
    let mut script = Script::new(data);
    let Some(head) = script.array::<16>() else { return };
    let job = Job { head, source: script.rest() };
    let (lanes, fails_at) = ([1, 1, 1, 1, 1, 2, 3, 4][usize::from(head[4] % 8)], head[5].checked_sub(1));
    let first = job.run(1, None);
    match &first {
        Ok(made) => job.judge(made),
        Err(error) => job.judge_refusal(error),
    }
    if lanes > 1 && head[6] & 1 == 0 && matches!((&first, job.run(lanes, None)), (Ok(one), Ok(many)) if *one != many) {
        panic!("other bytes with {lanes} lanes");
    }
    if let Some(fails_at) = fails_at {
        let served = first.as_ref().map_or(0, |made| made.served);
        let again = job.run(1, Some(fails_at.into()));
        assert!(again.is_err() || u64::from(fails_at) >= served, "request {fails_at} of {served} fails unnoticed");
    }
}

struct Job<'a> {
    head: [u8; 16],
    source: &'a [u8],
}

/// What a run made.
#[derive(Clone, Debug)]
struct Made {
    target: Vec<u8>,
    data_file: Option<Vec<u8>>,
    served: u64,
}

impl PartialEq for Made {
    fn eq(&self, other: &Self) -> bool {
        (&self.target, &self.data_file) == (&other.target, &other.data_file)
    }
}

impl Job<'_> {
    fn has(&self, bit: u8) -> bool {
        self.head[0] >> bit & 1 == 1
    }

    fn request(&self, lanes: u8) -> Request {
        let options = Qcow2Options {
            version: if self.has(5) { 2 } else { 3 },
            cluster_bits: 9 + u32::from(self.head[1] % 14),
            refcount_order: u32::from(self.head[2] % 8),
            lazy_refcounts: self.head[6] & 2 != 0,
            extended_l2: self.has(4),
            compression: if self.has(3) { Compression::Zstd } else { Compression::Zlib },
            compress: self.has(2),
            backing: None,
            preallocated: self.has(6),
            data_file: self.has(7).then(|| NewDataFile { name: b"d".to_vec(), disk: DATA_FILE, raw: self.has(6) }),
        };
        let op = Op::Convert(Convert {
            sources: vec![LAYER],
            snapshot: None,
            target: TARGET,
            target_format: if self.has(1) { TargetFormat::Raw } else { TargetFormat::Qcow2(options) },
            top_only: false,
            before: Before::Empty,
            sparse_len: [0, 4096, 65536, 512][usize::from(self.head[3] % 4)],
            any_order: self.head[6] & 1 != 0,
            salvage: false,
            offload: false,
            part: None,
        });
        let output = Disk { len: 0, access: Access::Output { capacity: CAPACITY }, data: None };
        let source = Disk { len: self.source.len() as u64, access: Access::ReadOnly, data: None };
        let format = Some(if self.has(0) { Format::Raw } else { Format::Qcow2 });
        Request {
            op,
            disks: vec![source, output.clone(), output],
            layers: vec![RequestLayer { disk: DISK, format, raw_gate: RawGate::Open, window: None }],
            answers: vec![],
            budget: BUDGET,
            seed: [7; 32],
            now: 1,
            lanes,
        }
    }

    /// Runs the job; an error is one that hostile bytes may cause, or a fault.
    fn run(&self, lanes: u8, fails_at: Option<u64>) -> Result<Made, Error> {
        let request = self.request(lanes);
        let [source, target, data_file] = request.disks.as_slice() else { panic!("three disks") };
        let disks = [(source.clone(), self.source), (target.clone(), &[][..]), (data_file.clone(), &[][..])];
        let mut machine = FuzzMachine::new(&disks, lanes, fails_at);
        let end = if self.has(2) { convert_full(&request, &mut machine) } else { convert(&request, &mut machine) };
        if matches!(end, Err(Error::Target(_))) {
            check_refusal(&end, &machine.bytes(1));
        }
        let lengths = match end.inspect_err(check_error)? {
            End::Done { lengths } => lengths,
            // The image names files, or wants another op image: nothing may have been written.
            End::NeedsMore | End::NeedsFull => {
                assert!(machine.bytes(1).is_empty(), "written before it asked");
                return Err(Error::WrongOp);
            }
            End::Failed(error) => return Err(error),
        };
        let output = |id: DiskId| {
            let FinalLength { len, .. } = lengths.iter().find(|length| length.disk == id)?;
            let mut bytes = machine.bytes(id.0 as usize);
            assert!(bytes.len() as u64 <= len.next_multiple_of(512) && *len <= CAPACITY, "written past the end");
            bytes.resize(*len as usize, 0);
            Some(bytes)
        };
        let served = machine.served();
        Ok(Made { target: output(TARGET).expect("the target has a length"), data_file: output(DATA_FILE), served })
    }

    /// Options that don't fit together, or no room: whatever can be read gives no other reason.
    fn judge_refusal(&self, error: &Error) {
        if matches!(error, Error::Target(_) | Error::OutOfBudget(_) | Error::Write(WriteError::Capacity { .. })) {
            return;
        }
        assert!(!self.has(0), "a raw disk is not converted: {error:?}");
        // The other op image has other decoders, which may refuse other streams.
        let Some(image) = open(self.source).ok().filter(|image| {
            matches!(error, Error::Qcow2 { .. }) && !self.has(2) && image.virtual_size() <= COMPARED_LEN
        }) else {
            return;
        };
        let mut layer = Layer::new(FuzzImage::new(self.source), image.header(), None);
        let is_sound = places(image.virtual_size()).into_iter().all(|at| layer.sector(at) != Sector::Broken);
        assert!(!is_sound, "refused, although all of it can be read: {error:?}");
    }

    /// Holds what was made against the source, sector by sector.
    fn judge(&self, made: &Made) {
        let source = FuzzImage::new(self.source);
        let opened = (!self.has(0)).then(|| open(self.source).expect("what was converted opens"));
        let size = opened.as_ref().map_or(source.len().next_multiple_of(SECTOR_LEN), Qcow2::virtual_size);
        let mut theirs = opened.as_ref().map(|image| Layer::new(source.clone(), image.header(), None));
        let target = FuzzImage::new(&made.target);
        let ours = (!self.has(1)).then(|| open(&made.target).expect("what was made opens"));
        if let Some(image) = &ours {
            assert_eq!(image.virtual_size(), size, "another virtual size");
            let verdict = check(&target, image.header());
            assert!(verdict.corruptions.is_empty() && verdict.leaks == 0, "the image is not clean: {verdict:?}");
        } else {
            assert_eq!(target.len(), size, "another length");
        }
        let data_file = made.data_file.as_deref().map(FuzzImage::new);
        let mut ours = ours.as_ref().map(|image| Layer::new(target.clone(), image.header(), data_file));
        for at in places(size) {
            let expected = sector(&mut theirs, &source, at);
            assert_ne!(expected, Sector::Broken, "what is broken at {at:#x} was converted");
            assert!(sector(&mut ours, &target, at) == expected, "other content at {at:#x}");
        }
    }
}

/// A sector of a layer, or of a raw disk; without a layer below, a hole is zeros.
fn sector(layer: &mut Option<Layer<'_>>, raw: &FuzzImage<'_>, at: u64) -> Sector {
    let zeros = [0; SECTOR_LEN as usize];
    match layer.as_mut().map(|layer| layer.sector(at)) {
        Some(Sector::Hole) => Sector::Bytes(zeros),
        Some(sector) => sector,
        None => {
            let mut bytes = zeros;
            raw.fill(at, &mut bytes);
            Sector::Bytes(bytes)
        }
    }
}

/// The sectors that are compared: all of a small disk, the ends of a large one and some between.
fn places(size: u64) -> Vec<u64> {
    let sectors = size / SECTOR_LEN;
    let ends = (COMPARED_LEN / 4) / SECTOR_LEN;
    if size <= COMPARED_LEN {
        return (0..sectors).map(|index| index * SECTOR_LEN).collect();
    }
    let between = (1..256).map(|part| (u128::from(sectors) * part / 256) as u64);
    (0..ends).chain(between).chain(sectors - ends..sectors).map(|index| index * SECTOR_LEN).collect()
}

fn open(bytes: &[u8]) -> Result<Qcow2, Error> {
    Qcow2::open(&mut FuzzReader::new(vec![FuzzImage::new(bytes)]), LAYER, DISK)
}
