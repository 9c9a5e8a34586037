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
    Access, Answer, Before, Compression, Convert, Disk, DiskId, Given, Layer as RequestLayer, LayerId, NeedKind,
    NewBacking, NewDataFile, Op, Qcow2Options, RawGate, Request, TargetFormat,
};
use instar_parsers::image::Image as _;
use instar_parsers::ops::{convert, convert_full};
use instar_parsers::plan::Patch;
use instar_parsers::plan::invariants::check_refusal;
use instar_parsers::qcow2::Qcow2;
use instar_parsers::qcow2::create::{Layout, Names, Writer};

const TARGET: DiskId = DiskId(1);
const DATA_FILE: DiskId = DiskId(2);
const BASE: DiskId = DiskId(3);
const BASE_LAYER: LayerId = LayerId(1);
const TARGET_LAYER: LayerId = LayerId(2);
/// Most bytes of an output.
const CAPACITY: u64 = 16 << 20;
/// Disks up to this size are compared from end to end, larger ones at some places.
const COMPARED_LEN: u64 = 1 << 20;

/// Any image through convert, raw or qcow2 to raw or qcow2.
///
/// Byte 0: source and target (bit 0 the source is raw, 1 the target is raw, 2 compress, 3 zstd, 4 extended L2, 5 version
/// 2, 6 preallocated, 7 data file); 1: log2 of the cluster size, from 9; 2: log2 of the refcount width; 3: sparse
/// length (mod 4: 0, 4 KiB, 64 KiB, 512); 4: lanes (3 of 8 values more than one); 5: the request that fails (0: none),
/// less 1; 6: bit 0 any order, bit 1 lazy refcounts; 7: bit 0 an overlay (`-B`), 1 a target that is there (`-n`), 2 only
/// the top layer into that, 3 the launcher copies (`-C`); 8: 16 KiB of what is below; 9: 64 KiB of the disk that is there;
/// 10 to 15 are zero. The rest is the source. What it names as its backing file is the raw disk below.
pub fn convert_stream(data: &[u8]) {
    let mut script = Script::new(data);
    let Some(head) = script.array::<16>() else { return };
    let job = Job::new(head, script.rest());
    if job.mode(1) && !job.has(1) && job.old.is_empty() {
        // Options that don't fit together: there is no such target.
        return;
    }
    let (lanes, fails_at) = ([1, 1, 1, 1, 1, 2, 3, 4][usize::from(head[4] % 8)], head[5].checked_sub(1));
    let first = job.run(1, None);
    match &first {
        Ok(made) => job.judge(made),
        Err(error) => job.judge_refusal(error),
    }
    if lanes > 1 {
        match (&first, job.run(lanes, None)) {
            (Ok(_), Ok(many)) if head[6] & 1 != 0 => job.judge(&many),
            (Ok(one), Ok(many)) => assert!(*one == many, "other bytes with {lanes} lanes"),
            _ => {}
        }
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
    /// What the source names as its backing file.
    below: Option<Vec<u8>>,
    /// The raw disk that is below source and target.
    base: Vec<u8>,
    /// What the target holds before.
    old: Vec<u8>,
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

impl<'a> Job<'a> {
    fn new(head: [u8; 16], source: &'a [u8]) -> Self {
        let backing = |image: Qcow2| image.backing().map(<[u8]>::to_vec);
        let below = if head[0] & 1 == 0 { open(source).ok().and_then(backing) } else { None };
        let base = (0..usize::from(head[8]) << 14).map(|at| (at >> 9) as u8 | 1).collect();
        let mut job = Self { head, source, below, base, old: Vec::new() };
        if job.mode(1) {
            job.old = job.target_that_is_there();
        }
        job
    }

    fn mode(&self, bit: u8) -> bool {
        self.head[7] >> bit & 1 == 1
    }

    /// A raw disk, or an image with content in a cluster here and there.
    fn target_that_is_there(&self) -> Vec<u8> {
        let size = u64::from(self.head[9]) << 16;
        let content = |at: u64, len: u64| (at..at + len).map(|at| (at >> 9) as u8 | 0x80).collect::<Vec<u8>>();
        if self.has(1) {
            return content(0, size);
        }
        let mut budget = BUDGET.into();
        let options = Qcow2Options { compress: false, ..self.options() };
        let Ok(layout) = Layout::try_from(&options) else { return Vec::new() };
        let Ok(writer) = Writer::new(&mut budget, layout, size, TARGET, CAPACITY) else { return Vec::new() };
        let backing = self.mode(0).then(|| (b"b".to_vec(), b"raw".to_vec()));
        let Ok(mut writer) = writer.with_names(Names { backing, data_file: None }) else { return Vec::new() };
        let (mut bytes, cluster) = (Vec::new(), layout.cluster_size());
        let mut put = |at: u64, patch: &[u8]| {
            let end = at as usize + patch.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[at as usize..end].copy_from_slice(patch);
        };
        for start in (0..size).step_by(1 << 18).filter(|at| at.is_multiple_of(cluster) && at + cluster <= size) {
            let Ok(parts) = writer.place(start..start + cluster) else { return Vec::new() };
            parts.iter().for_each(|&(at, len)| put(at, &content(start, len)));
        }
        let Ok(mut finish) = writer.finish() else { return Vec::new() };
        while let Some(plan) = finish.next_plan() {
            plan.epochs.iter().flat_map(|epoch| &epoch.patches).for_each(|patch| match patch {
                Patch::Write { at, bytes } => put(*at, bytes),
                _ => panic!("{patch:?}"),
            });
        }
        bytes.resize(finish.file_len() as usize, 0);
        bytes
    }

    fn has(&self, bit: u8) -> bool {
        self.head[0] >> bit & 1 == 1
    }

    fn options(&self) -> Qcow2Options {
        Qcow2Options {
            version: if self.has(5) { 2 } else { 3 },
            cluster_bits: 9 + u32::from(self.head[1] % 14),
            refcount_order: u32::from(self.head[2] % 8),
            lazy_refcounts: self.head[6] & 2 != 0,
            extended_l2: self.has(4),
            compression: if self.has(3) { Compression::Zstd } else { Compression::Zlib },
            compress: self.has(2),
            backing: (self.mode(0) && !self.mode(1)).then(|| NewBacking {
                name: b"b".to_vec(),
                format: b"raw".to_vec(),
                layer: BASE_LAYER,
            }),
            preallocated: self.has(6),
            data_file: self.has(7).then(|| NewDataFile { name: b"d".to_vec(), disk: DATA_FILE, raw: self.has(6) }),
        }
    }

    fn request(&self, lanes: u8) -> Request {
        let target_format = match (self.has(1), self.mode(1)) {
            (true, _) => TargetFormat::Raw,
            (false, false) => TargetFormat::Qcow2(self.options()),
            (false, true) => TargetFormat::Existing { image: TARGET_LAYER, compress: self.has(2) },
        };
        let len = self.old.len() as u64;
        let op = Op::Convert(Convert {
            sources: vec![LAYER],
            snapshot: None,
            target: TARGET,
            target_format,
            top_only: self.mode(1) && self.mode(2),
            before: if self.mode(1) { Before::Unknown { len } } else { Before::Empty },
            sparse_len: [0, 4096, 65536, 512][usize::from(self.head[3] % 4)],
            any_order: self.head[6] & 1 != 0,
            salvage: false,
            offload: self.mode(3),
            part: None,
        });
        let output = Disk { len: 0, access: Access::Output { capacity: CAPACITY }, data: None, allocated: None };
        let read_only = |len: usize| Disk::read_only(len as u64);
        let layer = |disk, format| RequestLayer::new(disk, Some(format), RawGate::Open);
        let answer = |layer, name: Vec<u8>| {
            let (kind, given) = (NeedKind::Backing, Given::Layer(BASE_LAYER));
            Answer { layer, kind, name, given }
        };
        let format = if self.has(0) { Format::Raw } else { Format::Qcow2 };
        let below = self.below.iter().map(|name| answer(LAYER, name.clone()));
        Request {
            op,
            disks: vec![read_only(self.source.len()), output.clone(), output, read_only(self.base.len())],
            layers: vec![layer(DISK, format), layer(BASE, Format::Raw), layer(TARGET, Format::Qcow2)],
            answers: below.chain([answer(TARGET_LAYER, b"b".to_vec())]).collect(),
            budget: BUDGET,
            seed: [7; 32],
            now: 1,
            lanes,
        }
    }

    /// Runs the job; an error is one that hostile bytes may cause, or a fault.
    fn run(&self, lanes: u8, fails_at: Option<u64>) -> Result<Made, Error> {
        let request = self.request(lanes);
        let contents = [self.source, &self.old, &[], &self.base];
        let disks: Vec<_> = request.disks.iter().cloned().zip(contents).collect();
        let mut machine = FuzzMachine::new(&disks, lanes, fails_at);
        let end = if self.has(2) { convert_full(&request, &mut machine) } else { convert(&request, &mut machine) };
        if matches!(end, Err(Error::Target(_))) {
            assert!(machine.bytes(1) == self.old, "written before it was refused");
            check_refusal(&end, &[]);
        }
        let lengths = match end.inspect_err(check_error)? {
            End::Done { lengths } => lengths,
            // The image names files, or wants another op image: nothing may have been written.
            End::NeedsMore | End::NeedsFull => {
                assert!(machine.bytes(1) == self.old, "written before it asked");
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
            let is_alone = image.data_file() == Ok(None); // there is none for it, and QEMU asks for it first
            matches!(error, Error::Qcow2 { .. }) && !self.has(2) && is_alone && image.virtual_size() <= COMPARED_LEN
        }) else {
            return;
        };
        let mut layer = Layer::new(FuzzImage::new(self.source), image.header(), None);
        let is_sound = places(image.virtual_size()).into_iter().all(|at| layer.sector(at) != Sector::Broken);
        assert!(!is_sound, "refused, although all of it can be read: {error:?}");
    }

    /// Holds what was made against the source, and what was there before, sector by sector.
    fn judge(&self, made: &Made) {
        let source = FuzzImage::new(self.source);
        let base = FuzzImage::new(&self.base);
        let opened = (!self.has(0)).then(|| open(self.source).expect("what was converted opens"));
        let len = opened.as_ref().map_or(source.len().next_multiple_of(SECTOR_LEN), Qcow2::virtual_size);
        let mut theirs = opened.as_ref().map(|image| Layer::new(source.clone(), image.header(), None));
        let before = FuzzImage::new(&self.old);
        let there = (self.mode(1) && !self.has(1)).then(|| open(&self.old).expect("what was there opens"));
        let mut old = there.as_ref().map(|image| Layer::new(before.clone(), image.header(), None));
        let old_len = there.as_ref().map_or(before.len(), Qcow2::virtual_size);
        let size = if self.mode(1) { old_len.max(len) } else { len };
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
        // Only what has a name for it shows what is below.
        let shown = |sector, is_above: bool, at| match sector {
            Sector::Hole if is_above => raw_sector(&base, at),
            Sector::Hole => Sector::Bytes([0; SECTOR_LEN as usize]),
            sector => sector,
        };
        for at in places(size) {
            let top = if at < len { sector(&mut theirs, &source, at) } else { Sector::Hole };
            let keeps = self.mode(2) && top == Sector::Hole && self.below.is_some() && at < base.len();
            let expected = if self.mode(1) && (at >= len || keeps) {
                shown(sector(&mut old, &before, at), self.mode(0), at)
            } else {
                shown(top, self.below.is_some(), at)
            };
            assert_ne!(expected, Sector::Broken, "what is broken at {at:#x} was converted");
            let found = shown(sector(&mut ours, &target, at), self.mode(0), at);
            assert!(found == expected, "other content at {at:#x}");
        }
    }
}

/// A sector of a layer, or of a raw disk.
fn sector(layer: &mut Option<Layer<'_>>, raw: &FuzzImage<'_>, at: u64) -> Sector {
    layer.as_mut().map_or_else(|| raw_sector(raw, at), |layer| layer.sector(at))
}

fn raw_sector(raw: &FuzzImage<'_>, at: u64) -> Sector {
    let mut bytes = [0; SECTOR_LEN as usize];
    raw.fill(at, &mut bytes);
    Sector::Bytes(bytes)
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
