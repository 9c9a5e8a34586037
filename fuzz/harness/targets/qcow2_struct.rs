use super::{DISK, LAYER, frames_of};
use crate::image::{BUDGET, FuzzImage};
use crate::layout::Script;
use crate::machine::FuzzMachine;
use crate::model::check::check as model_check;
use instar_abi::check::{Checked, Finding, Qcow2Finding};
use instar_abi::error::Error;
use instar_abi::facts::Value;
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Below, Check, Compare, Disk, DiskId, Layer, LayerId, Map, Op, RawGate, Request};
use instar_parsers::ops;
use instar_parsers::qcow2::{Qcow2, wire};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// Most edits of an image.
const EDITS_MAX: usize = 24;
/// Longest file that edits make.
const LEN_MAX: u64 = 256 << 10;
/// Largest disk whose content is read.
const CONTENT_MAX: u64 = 20 << 20;
/// Most entries of an L1 table that the second reader is asked about.
const MODEL_ENTRIES_MAX: u32 = 4096;

/// A sound small image that is edited, and then described, checked, mapped and read. Byte 0: bits 0 and 1 add to clusters
/// of 512 bytes, bits 2 to 4 are the width of refcounts (7: 16 bits), bit 5 is for extended entries, bit 6 for version 2;
/// byte 1: bit 0 for a snapshot, bit 1 for a cluster that is leaked on purpose. Then edits of 12 bytes: kind, index (1),
/// place (2), value (8).
pub fn qcow2_struct(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(shape), Some(extra)) = (script.u8(), script.u8()) else { return };
    let mut image = Sound::new(shape, extra).finish();
    let mut edits = 0;
    while let (Some(kind), Some(index), Some(place), Some(value)) =
        (script.u8(), script.u8(), script.u16(), script.u64())
    {
        if edits == EDITS_MAX {
            break;
        }
        edits += 1;
        image.edit(kind, index.into(), place.into(), value);
    }
    let job = Job { bytes: image.bytes };
    let size = job.info();
    let checked = job.check(edits == 0, u64::from(extra >> 1 & 1));
    let mapped = job.map();
    if let (Some(size), Some(mapped)) = (size, mapped) {
        assert_eq!(size, mapped, "info and map tell of two sizes");
        if size <= CONTENT_MAX {
            job.read();
        }
    }
    if let (Some(size), Some((checked, cluster))) = (size, checked) {
        assert_eq!(checked.total_clusters, size.div_ceil(cluster), "info and check tell of two sizes");
    }
}

/// An image as it is made: clusters one behind the other.
struct Sound {
    bytes: Vec<u8>,
    cluster: usize,
    order: u32,
    version: u32,
    extended: bool,
    refcounts: Vec<u64>,
    /// Clusters of the L2 tables.
    l2: [usize; 2],
    snapshots: usize,
}

const TABLE: usize = 1;
const BLOCK: usize = 2;
const L1: usize = 3;

impl Sound {
    fn new(shape: u8, extra: u8) -> Self {
        let version = if shape & 0x40 == 0 { 3 } else { 2 };
        let extended = shape & 0x20 != 0 && version == 3;
        let order = match u32::from(shape >> 2 & 7) {
            order @ 0..=6 if version == 3 => order,
            _ => 4,
        };
        let cluster = if extended { 1 << 14 } else { 512 << (shape & 3) };
        let mut image = Self {
            bytes: vec![0; cluster * 6],
            cluster,
            order,
            version,
            extended,
            refcounts: vec![1; 6],
            l2: [4, 5],
            snapshots: 0,
        };
        for (table, index, word) in [(0, 0, 1), (0, 1, 2), (1, 0, 3)] {
            let at = image.add(&vec![word; cluster]);
            image.entry(table, index, wire::entry::COPIED | at, u64::from(u32::MAX));
        }
        if version == 3 {
            image.entry(0, 3, if extended { 0 } else { wire::entry::ZERO }, u64::from(u32::MAX) << 32);
            let at = image.add(&vec![4; cluster]) | wire::entry::COPIED;
            // A place, and zeros; with subclusters some of both.
            image.entry(0, 4, if extended { at } else { at | wire::entry::ZERO }, 0x00ff_0000_ff00_00ff);
        }
        image.compressed();
        image.put(L1 * cluster, &(wire::entry::COPIED | (4 * cluster) as u64).to_be_bytes());
        image.put(L1 * cluster + 8, &(wire::entry::COPIED | (5 * cluster) as u64).to_be_bytes());
        if extra & 1 != 0 && order > 1 {
            image.snapshot();
        }
        if extra & 2 != 0 {
            image.add(&[9]);
        }
        image
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds a cluster; where it is.
    fn add(&mut self, bytes: &[u8]) -> u64 {
        let at = self.bytes.len();
        self.bytes.extend(bytes);
        self.bytes.resize(at + self.cluster, 0);
        self.refcounts.push(1);
        at as u64
    }

    fn entry_len(&self) -> usize {
        if self.extended { 16 } else { 8 }
    }

    fn entry(&mut self, table: usize, index: usize, word: u64, bitmap: u64) {
        let at = self.l2[table] * self.cluster + index * self.entry_len();
        self.put(at, &word.to_be_bytes());
        if self.extended {
            self.put(at + 8, &bitmap.to_be_bytes());
        }
    }

    /// Two streams in one cluster.
    fn compressed(&mut self) {
        let stream = miniz_oxide::deflate::compress_to_vec(&vec![7; self.cluster], 6);
        let at = self.add(&[stream.clone(), stream.clone()].concat());
        let bits = self.cluster.trailing_zeros();
        for (index, offset) in [(5, at), (6, at + stream.len() as u64)] {
            let end = offset + stream.len() as u64;
            let sectors = (end - 1) / 512 - offset / 512;
            self.entry(0, index, wire::entry::COMPRESSED | (sectors << (62 - (bits - 8))) | offset, 0);
        }
        let last = self.refcounts.len() - 1;
        // One bit can't count to two.
        match self.order {
            0 => self.entry(0, 6, 0, 0),
            _ => self.refcounts[last] = 2,
        }
    }

    /// A snapshot of now: its L1 table is a copy, and everything has one reference more.
    fn snapshot(&mut self) {
        let cluster = self.cluster;
        let unflag = |bytes: &mut [u8]| bytes[0] &= 0x7f;
        for index in 0..2 {
            unflag(&mut self.bytes[L1 * cluster + 8 * index..][..8]);
        }
        for table in self.l2 {
            for index in 0..8 {
                let at = table * cluster + index * self.entry_len();
                unflag(&mut self.bytes[at..at + 8]);
            }
        }
        let l1 = self.bytes[L1 * cluster..][..16].to_vec();
        for count in &mut self.refcounts[4..] {
            *count *= 2;
        }
        let l1 = self.add(&l1);
        let mut header = wire::SnapshotHeader::new_zeroed();
        header.l1_table_offset = l1.into();
        header.l1_size = 2.into();
        header.id_size = 1.into();
        header.name_size = 3.into();
        header.extra_data_size = 16.into();
        let disk_size = self.disk_size();
        let entry = [header.as_bytes(), &[0; 8], &disk_size.to_be_bytes(), b"1one", &[0; 4]].concat();
        self.snapshots = self.add(&entry) as usize;
    }

    fn disk_size(&self) -> u64 {
        (self.cluster * (self.cluster / self.entry_len() + 8)) as u64
    }

    /// Header and refcounts.
    fn finish(mut self) -> Edited {
        let cluster = self.cluster;
        let mut header = wire::Header::new_zeroed();
        header.magic = wire::MAGIC;
        header.version = self.version.into();
        header.cluster_bits = cluster.trailing_zeros().into();
        header.size = self.disk_size().into();
        header.l1_size = 2.into();
        header.l1_table_offset = ((L1 * cluster) as u64).into();
        header.refcount_table_offset = ((TABLE * cluster) as u64).into();
        header.refcount_table_clusters = 1.into();
        if self.snapshots > 0 {
            header.nb_snapshots = 1.into();
            header.snapshots_offset = (self.snapshots as u64).into();
        }
        let mut header_len = 72;
        if self.version == 3 {
            header_len = 104;
            header.refcount_order = self.order.into();
            header.header_length = 104.into();
            header.incompatible_features = if self.extended { wire::incompatible::EXTENDED_L2 } else { 0 }.into();
        }
        self.put(0, &header.as_bytes()[..header_len]);
        self.put(TABLE * cluster, &((BLOCK * cluster) as u64).to_be_bytes());
        let refcounts = std::mem::take(&mut self.refcounts);
        let mut edited = Edited {
            bytes: self.bytes,
            cluster,
            order: self.order,
            entry_len: if self.extended { 16 } else { 8 },
            snapshots: self.snapshots,
        };
        for (index, count) in refcounts.into_iter().enumerate() {
            edited.refcount(index, count);
        }
        edited
    }
}

/// An image as it is edited.
struct Edited {
    bytes: Vec<u8>,
    cluster: usize,
    order: u32,
    entry_len: usize,
    snapshots: usize,
}

impl Edited {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Sets a refcount of the one block, its highest bits cut off.
    fn refcount(&mut self, index: usize, count: u64) {
        let bits = 1usize << self.order;
        let at = BLOCK * self.cluster;
        if index >= self.cluster * 8 / bits {
            return;
        }
        if bits >= 8 {
            let len = bits / 8;
            self.put(at + index * len, &count.to_be_bytes()[8 - len..]);
            return;
        }
        let (byte, shift) = (at + index * bits / 8, index * bits % 8);
        if let Some(byte) = self.bytes.get_mut(byte) {
            let mask = ((1 << bits) - 1) << shift;
            *byte = (*byte & !mask) | (((count as u8) << shift) & mask);
        }
    }

    /// A value that an entry might well have: some cluster of the file, with flags.
    fn plausible(&self, value: u64) -> u64 {
        let clusters = self.bytes.len().div_ceil(self.cluster) as u64 + 2;
        let flags = [0, wire::entry::COPIED, wire::entry::COPIED | wire::entry::ZERO, wire::entry::COMPRESSED];
        ((value >> 8) % clusters * self.cluster as u64) | flags[(value & 3) as usize]
    }

    fn edit(&mut self, kind: u8, index: usize, place: usize, value: u64) {
        let cluster = self.cluster;
        let l2 = (4 + index % 2) * cluster + place % (cluster / self.entry_len) * self.entry_len;
        match kind % 10 {
            0 => self.put(place % 112, &value.to_be_bytes()[..if index.is_multiple_of(2) { 4 } else { 8 }]),
            1 => self.put(L1 * cluster + index % 4 * 8, &value.to_be_bytes()),
            2 => self.put(l2, &value.to_be_bytes()),
            3 => self.put(l2, &self.plausible(value).to_be_bytes()),
            4 => self.put(l2 + self.entry_len - 8, &value.to_be_bytes()),
            5 => self.refcount(place, value),
            6 => self.put(TABLE * cluster + index % 4 * 8, &value.to_be_bytes()),
            7 => self.put(self.snapshots + place % 64, &value.to_be_bytes()[..1 + index % 8]),
            8 => self.bytes.resize((value % LEN_MAX) as usize, 0),
            _ => self.put(place, &value.to_be_bytes()[..1 + index % 8]),
        }
    }
}

struct Job {
    bytes: Vec<u8>,
}

impl Job {
    fn run(
        &self,
        op: Op,
        copies: u32,
        run: fn(&Request, &mut FuzzMachine) -> Result<End, Error>,
    ) -> Option<Vec<Frame>> {
        let disk = Disk::read_only(self.bytes.len() as u64);
        let layer = |disk| Layer {
            disk: DiskId(disk),
            format: Some(Format::Qcow2),
            raw_gate: RawGate::Open,
            window: None,
            below: Below::Nothing,
        };
        let request =
            Request::new(op, (0..copies).map(|_| disk.clone()).collect(), (0..copies).map(layer).collect(), BUDGET);
        let disks: Vec<(Disk, &[u8])> =
            request.disks.iter().map(|disk| (disk.clone(), self.bytes.as_slice())).collect();
        let mut machine = FuzzMachine::new(&disks, 1, None);
        let result = run(&request, &mut machine);
        frames_of(result, machine.frames)
    }

    /// The size that info tells of.
    fn info(&self) -> Option<u64> {
        let frames = self.run(Op::Info { image: LAYER, details: false }, 1, ops::info)?;
        let size = frames.iter().find_map(|frame| match frame {
            Frame::Image(image) => Some(image.virtual_size),
            _ => None,
        });
        let size = size.expect("a description");
        self.details(&frames, size);
        Some(size)
    }

    /// Details come behind what info tells without them, and change nothing of it.
    fn details(&self, plain: &[Frame], size: u64) {
        // They read the content, and may find that it can't be read.
        let Some(frames) = self.run(Op::Info { image: LAYER, details: true }, 1, ops::info_full) else { return };
        let count = frames.iter().take_while(|frame| !matches!(frame, Frame::Details(_))).count();
        let (front, details) = frames.split_at(count);
        assert_eq!(front, plain, "details change what info tells");
        let mut nodes = Vec::new();
        for frame in details {
            let Frame::Details(more) = frame else { panic!("{frame:?} among details") };
            nodes.extend(more);
        }
        let value = |key: &[u8]| nodes.iter().find(|node| node.depth == 0 && node.key == key).map(|node| &node.value);
        assert_eq!(value(b"expansion"), Some(&Value::Number(size / self.bytes.len().max(1) as u64)), "expansion");
        let verdicts = [&b"safe"[..], b"caution", b"unsafe"].map(|verdict| Value::Text(verdict.to_vec()));
        assert!(value(b"verdict").is_some_and(|verdict| verdicts.contains(verdict)), "{nodes:?}");
        // By what else would it be known?
        let is_told = nodes.iter().any(|node| node.value == Value::Text(b"qcow2".to_vec()));
        assert!(is_told, "no sign of qcow2: {nodes:?}");
    }

    /// The size of what map tells of.
    fn map(&self) -> Option<u64> {
        let op = Op::Map(Map { image: LAYER, start: 0, len: None, as_qemu_img: false });
        let frames = self.run(op, 1, ops::map)?;
        let mut end = 0;
        for frame in frames {
            let Frame::Extents(extents) = frame else { panic!("{frame:?}") };
            for extent in extents {
                assert_eq!(extent.start, end, "a gap");
                end += extent.len;
            }
        }
        Some(end)
    }

    /// An image is what itself is.
    fn read(&self) {
        let op = Op::Compare(Compare { left: LAYER, right: LayerId(1), is_strict: true });
        if let Some(frames) = self.run(op, 2, ops::compare) {
            let is_same = |frame: &Frame| matches!(frame, Frame::Compared(compared) if compared.difference.is_none());
            assert!(frames.iter().all(is_same), "differs from itself");
        }
    }

    /// What check tells, and bytes of a cluster.
    fn check(&self, is_sound: bool, leaks: u64) -> Option<(Checked, u64)> {
        let op = Op::Check(Check { image: LAYER, as_qemu_img: true });
        let frames = self.run(op, 1, ops::check);
        assert!(!is_sound || frames.is_some(), "a sound image can't be checked");
        let (mut leaked, mut result) = (0, None);
        for frame in frames? {
            match frame {
                Frame::Findings(findings) => {
                    leaked += findings.iter().filter(|finding| is_leak(finding)).count() as u64
                }
                Frame::Checked(checked) => result = Some(checked),
                frame => panic!("{frame:?}"),
            }
        }
        let checked = result.expect("a result");
        if checked.failure.is_some() {
            return None;
        }
        assert!(checked.untold > 0 || leaked == checked.leaks, "{leaked} leaks told of {checked:?}");
        if is_sound {
            assert_eq!((checked.corruptions, checked.check_errors, checked.leaks), (0, 0, leaks), "a sound image");
        }
        let cluster = self.hold_against_model(&checked);
        Some((checked, cluster))
    }

    /// What is clean is clean to the second reader, too. Bytes of a cluster.
    fn hold_against_model(&self, checked: &Checked) -> u64 {
        let image = FuzzImage::new(&self.bytes);
        let mut reader = crate::image::FuzzReader::new(vec![image.clone()]);
        let opened = Qcow2::open_for_check(&mut reader, LAYER, DISK).expect("it was checked");
        let header = opened.header();
        let cluster = u64::from(header.cluster_size());
        let is_known = header.snapshots().count == 0
            && !header.has_data_file()
            && opened.extensions().bitmaps.is_none()
            && opened.extensions().crypto.is_none()
            && header.l1().count <= MODEL_ENTRIES_MAX
            && u64::from(header.refcount_table().count) * cluster <= LEN_MAX;
        if checked.corruptions == 0 && checked.check_errors == 0 && is_known {
            // References to a cluster that the file ends in front of count in QEMU.
            let longer = image.len().next_multiple_of(cluster) + cluster;
            let verdict = model_check(&image.clone().with_len(longer), header);
            assert!(verdict.corruptions.is_empty(), "clean, and {:?}", verdict.corruptions);
            let verdict = model_check(&image, header);
            if verdict.corruptions.is_empty() {
                assert_eq!(verdict.leaks, checked.leaks, "leaks");
            }
        }
        cluster
    }
}

fn is_leak(finding: &Finding) -> bool {
    matches!(finding, Finding::Qcow2(Qcow2Finding::Refcount { refcount, references, .. }) if refcount > references)
}
