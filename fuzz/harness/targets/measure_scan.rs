use super::pieces::{pieces_of, signed};
use super::{DISK, LAYER, frames_of};
use crate::blocks::FuzzBlocks;
use crate::image::{BUDGET, FuzzImage};
use crate::layout::Script;
use crate::sparse::SparseMachine;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame, MapExtent, Measured};
use instar_abi::request::{Layer, Map, Measure, MeasuredContent, Op, Qcow2Options, RawGate, Request, TargetFormat};
use instar_parsers::ops;

/// An operation that only reads.
type Operation<'i, 'a> = fn(&Request, &mut SparseMachine<'i, 'a>) -> Result<End, Error>;

/// What an image takes in a new one, against its map. Byte 0 (mod 5): qcow2, VMDK, VHD, VHDX, another; byte 1: bits 0 and 1: the
/// new one is raw, or a qcow2 with clusters of 4 KiB, 64 KiB or 1 MiB; bits 2 and 3: which other format; bit 7: checksums are put
/// right. Then a qcow2 as it is; else the length of the file in sectors (4), then pieces: sector (4), length (2), bytes.
pub fn measure_scan(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(format), Some(how)) = (script.u8(), script.u8()) else { return };
    let format = match format % 5 {
        0 => Format::Qcow2,
        1 => Format::Vmdk,
        2 => Format::Vpc,
        3 => Format::Vhdx,
        _ => [Format::Vdi, Format::Parallels, Format::Qed, Format::Qcow][usize::from(how >> 2 & 3)],
    };
    let image = match format {
        Format::Qcow2 => Some(FuzzImage::new(script.rest())),
        _ => pieces_of(&mut script),
    };
    let Some(image) = image else { return };
    let image = if how & 0x80 == 0 { image } else { signed(format, image) };
    let scan = Scan { format, disks: [image] };
    let Some(extents) = scan.map() else { return };
    let size: u64 = extents.iter().map(|extent| extent.len).sum();
    match how & 3 {
        0 => {
            let exact = Measured { required: size, fully_allocated: size, bitmaps: None };
            assert!(scan.measure(TargetFormat::Raw).is_none_or(|measured| measured == exact), "{size} bytes in raw");
        }
        unit => scan.check_units(&extents, size, [12, 16, 20][usize::from(unit) - 1]),
    }
}

struct Scan<'a> {
    format: Format,
    disks: [FuzzImage<'a>; 1],
}

impl<'a> Scan<'a> {
    /// Runs an operation; `None`: it failed, as it may, or wants a layer below.
    fn run<'i>(&'i self, op: Op, operation: Operation<'i, 'a>) -> Option<Vec<Frame>> {
        let blocks = FuzzBlocks::new(&self.disks);
        let layer = Layer::new(DISK, Some(self.format), RawGate::Open);
        let request = Request::new(op, blocks.disks(), vec![layer], BUDGET);
        let mut machine = SparseMachine::new(blocks);
        let result = operation(&request, &mut machine);
        frames_of(result, machine.frames)
    }

    fn map(&self) -> Option<Vec<MapExtent>> {
        let op = Op::Map(Map { image: LAYER, start: 0, len: None, as_qemu_img: false });
        let extents = |frame| match frame {
            Frame::Extents(extents) => extents,
            frame => panic!("{frame:?}"),
        };
        Some(self.run(op, ops::map)?.into_iter().flat_map(extents).collect())
    }

    fn measure(&self, target: TargetFormat) -> Option<Measured> {
        let content = MeasuredContent::Image { image: LAYER, snapshot: None };
        let op = Op::Measure(Measure { content, target, luks_key_len: 0, is_preallocated: false });
        match self.run(op, ops::measure)?[..] {
            [Frame::Measured(measured)] => Some(measured),
            ref frames => panic!("{frames:?}"),
        }
    }

    /// What is required is what is fully allocated without the clusters that have no data.
    fn check_units(&self, extents: &[MapExtent], size: u64, cluster_bits: u32) {
        let options = Qcow2Options { cluster_bits, ..Qcow2Options::default() };
        let Some(measured) = self.measure(TargetFormat::Qcow2(options)) else { return };
        let unit = 1u64 << cluster_bits;
        let (mut units, mut next) = (0, 0);
        for extent in extents.iter().filter(|extent| extent.is_data && !extent.is_zero && extent.len > 0) {
            let first = (extent.start / unit).max(next);
            next = (extent.start + extent.len).div_ceil(unit);
            units += next - first.min(next);
        }
        let (all, data) = (size.div_ceil(unit), extents.iter().filter(|extent| extent.is_data));
        assert!(units <= all && data.map(|extent| extent.len).sum::<u64>() <= size, "{units} of {all} units");
        let without = measured.fully_allocated.checked_sub(measured.required);
        assert_eq!(without, Some((all - units) * unit), "{units} of {all} units have data");
    }
}
