use super::pieces::image_of;
use super::{DISK, LAYER, frames_of};
use crate::image::BUDGET;
use crate::layout::Script;
use crate::machine::FuzzMachine;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::reply::{Compared, End, Frame, MapExtent, Measured};
use instar_abi::request::{
    Access, Compare, Disk, DiskId, HostExtent, Layer, LayerId, Map, Measure, MeasuredContent, Op, Qcow2Options,
    RawGate, Request, TargetFormat,
};
use instar_parsers::ops;

/// Longest file.
const LEN_MAX: u64 = 2 << 20;
/// Longest disk whose content is looked at.
const CONTENT_MAX: u64 = 4 << 20;
/// Most extents of a disk.
const EXTENTS_MAX: usize = 1 << 20;

/// What only reads: map, measure and compare over an image. Bytes 0 to 7: start of a window; 8 to 15: its length; 16:
/// format (bit 7: qcow2, bit 6: raw, else as `ro_formats` has it), bits 0 to 2: where the host has a hole in the file; then
/// an image as `ro_formats` has it, or as it is.
pub fn map_iter(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(start), Some(len), Some(how)) = (script.u64(), script.u64(), script.u8()) else { return };
    let (format, bytes) = match how >> 6 {
        0 => {
            let Some((format, image)) = image_of(&mut script, LEN_MAX) else { return };
            let mut bytes = vec![0; usize::try_from(image.len()).expect("at most 2 MiB")];
            image.fill(0, &mut bytes);
            (format, bytes)
        }
        1 => (Format::Raw, script.rest().to_vec()),
        _ => (Format::Qcow2, script.rest().to_vec()),
    };
    let job = Job { format, bytes: with_hole(bytes, how & 7), hole: how & 7 };
    let Some(extents) = job.map(0, None) else { return };
    let size = check_extents(&extents, job.bytes.len() as u64);
    let (start, len) = (start % (size + 2), len % (size + 2));
    if let Some(window) = job.map(start, Some(len)) {
        assert_eq!(window, cut(&extents, start, (start + len).min(size)), "{start} + {len}");
    }
    let data: u64 = extents.iter().filter(|extent| extent.is_data && !extent.is_zero).map(|extent| extent.len).sum();
    let raw = job.measure(TargetFormat::Raw);
    assert_eq!((raw.required, raw.fully_allocated), (size, size), "raw");
    let qcow2 = job.measure(TargetFormat::Qcow2(Qcow2Options { cluster_bits: 9, ..Qcow2Options::default() }));
    assert!(qcow2.required >= data && qcow2.required <= qcow2.fully_allocated, "{qcow2:?} of {data} bytes");
    if size <= CONTENT_MAX {
        job.compare();
    }
}

struct Job {
    format: Format,
    bytes: Vec<u8>,
    hole: u8,
}

/// The file with a hole in it, 64 KiB from the `hole`-th on; 0: none.
fn with_hole(mut bytes: Vec<u8>, hole: u8) -> Vec<u8> {
    let start = usize::from(hole) << 16;
    if hole > 0 && start < bytes.len() {
        let end = bytes.len().min(start + (64 << 10));
        bytes[start..end].fill(0);
    }
    bytes
}

impl Job {
    fn request(&self, op: Op, copies: u32) -> Request {
        let len = self.bytes.len() as u64;
        let start = (u64::from(self.hole) << 16).min(len);
        let end = (start + (64 << 10)).min(len);
        let runs = [HostExtent { start: 0, len: start }, HostExtent { start: end, len: len - end }];
        let data = (self.hole > 0).then(|| runs.into_iter().filter(|run| run.len > 0).collect());
        let disk = Disk { len, access: Access::ReadOnly, data, allocated: Some(len) };
        let layer = |disk| Layer::new(DiskId(disk), Some(self.format), RawGate::Open);
        let disks = (0..copies).map(|_| disk.clone()).collect();
        Request { lanes: 2, ..Request::new(op, disks, (0..copies).map(layer).collect(), BUDGET) }
    }

    /// Runs an operation; `None`: it failed, as it may.
    fn run(&self, request: &Request, op: fn(&Request, &mut FuzzMachine) -> Result<End, Error>) -> Option<Vec<Frame>> {
        let disks: Vec<(Disk, &[u8])> =
            request.disks.iter().map(|disk| (disk.clone(), self.bytes.as_slice())).collect();
        let mut machine = FuzzMachine::new(&disks, request.lanes, None);
        let result = op(request, &mut machine);
        frames_of(result, machine.frames)
    }

    fn map(&self, start: u64, len: Option<u64>) -> Option<Vec<MapExtent>> {
        let request = self.request(Op::Map(Map { image: LAYER, start, len, as_qemu_img: false }), 1);
        let frames = self.run(&request, ops::map)?;
        let mut extents = Vec::new();
        for frame in frames {
            let Frame::Extents(more) = frame else { panic!("{frame:?}") };
            extents.extend(more);
            assert!(extents.len() <= EXTENTS_MAX, "more extents than clusters");
        }
        Some(extents)
    }

    fn measure(&self, target: TargetFormat) -> Measured {
        let content = MeasuredContent::Image { image: LAYER, snapshot: None };
        let op = Op::Measure(Measure { content, target, luks_key_len: 0, is_preallocated: false });
        let frames = self.run(&self.request(op, 1), ops::measure);
        // What was mapped can be measured, but for disks too large for the target.
        match frames.as_deref() {
            Some([Frame::Measured(measured)]) => *measured,
            None => Measured { required: u64::MAX, fully_allocated: u64::MAX, bitmaps: None },
            frames => panic!("{frames:?}"),
        }
    }

    /// An image is what itself is, however strictly one looks.
    fn compare(&self) {
        for is_strict in [false, true] {
            let op = Op::Compare(Compare { left: LAYER, right: LayerId(1), is_strict });
            let frames = self.run(&self.request(op, 2), ops::compare);
            let same = Compared { difference: None, past_common: false };
            assert!(frames.is_none_or(|frames| frames == [Frame::Compared(same)]), "differs from itself");
        }
    }
}

/// Extents without gaps, none of which goes on in the next; the size of the disk.
fn check_extents(extents: &[MapExtent], file_len: u64) -> u64 {
    let mut at = 0u64;
    let is_empty = matches!(extents, [only] if only.len == 0);
    for extent in extents {
        assert_eq!(extent.start, at, "a gap");
        assert!(extent.len > 0 || is_empty, "an extent of nothing");
        at = at.checked_add(extent.len).expect("the end of the disk");
        assert!(!(extent.is_compressed && extent.at.is_some()), "compressed, and as it is: {extent:?}");
        assert!(extent.is_present || (extent.is_zero && !extent.is_data) || is_empty, "{extent:?}");
        if let Some(place) = extent.at.filter(|_| extent.is_data) {
            assert!(place.disk == DISK && place.offset < file_len.max(1), "past the end: {extent:?}");
        }
    }
    for pair in extents.windows(2) {
        let [a, b] = [pair[0], pair[1]];
        let words = |extent: MapExtent| {
            (extent.depth, extent.is_present, extent.is_zero, extent.is_data, extent.is_compressed, extent.at.is_some())
        };
        let goes_on = a.at.zip(b.at).is_none_or(|(x, y)| x.disk == y.disk && x.offset + a.len == y.offset);
        assert!(words(a) != words(b) || !goes_on, "one extent in two: {a:?} {b:?}");
    }
    at
}

/// What of the extents lies in a window; one of nothing where nothing does.
fn cut(extents: &[MapExtent], start: u64, end: u64) -> Vec<MapExtent> {
    let mut cut = Vec::new();
    for extent in extents {
        let (from, to) = (extent.start.max(start), (extent.start + extent.len).min(end));
        if from < to {
            let mut piece = MapExtent { start: from, len: to - from, ..*extent };
            if let Some(at) = &mut piece.at {
                at.offset += from - extent.start;
            }
            cut.push(piece);
        }
    }
    if cut.is_empty() {
        let nothing = [false; 4];
        let [is_present, is_zero, is_data, is_compressed] = nothing;
        cut.push(MapExtent { start, len: 0, depth: 0, is_present, is_zero, is_data, is_compressed, at: None });
    }
    cut
}
