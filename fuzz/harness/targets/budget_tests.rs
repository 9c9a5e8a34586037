//! Every starter of the formats in blocks, whole and cut, through every operation that reads metadata only: each ends within its
//! budget.

use super::pieces::{image_of, pieces_of, signed};
use super::{DISK, LAYER, check_error};
use crate::blocks::FuzzBlocks;
use crate::image::FuzzImage;
use crate::layout::Script;
use crate::sparse::SparseMachine;
use crate::starters;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::request::{
    Budget, Check, Layer, Map, Measure, MeasuredContent, Op, Qcow2Options, RawGate, Request, TargetFormat,
};
use instar_io::Env as _;
use instar_parsers::ops;
use instar_parsers::store::WINDOW_LEN;

/// As `info` has it in the launcher.
const BUDGET: Budget = Budget { heap_bytes: 64 << 20, read_bytes: 64 << 20, steps: 1 << 22, depth: 1 };

/// The image of a starter, and its format; `None`: it is of another target.
fn image<'a>(target: &str, data: &'a [u8]) -> Option<(Format, FuzzImage<'a>)> {
    let mut script = Script::new(data);
    let pieces = |script: &mut Script<'a>, format| Some((format, signed(format, pieces_of(script)?)));
    match target {
        "ro_formats" => image_of(&mut script, u64::MAX),
        "vmdk_grain" => Some((Format::Vmdk, FuzzImage::new(data))),
        "vhd_footer" | "vhd_bat" => Some((Format::Vpc, FuzzImage::new(data))),
        "vhd_parent" => pieces(&mut script, Format::Vpc),
        "vhdx_header" | "vhdx_parent" => pieces(&mut script, Format::Vhdx),
        "vhdx_metadata" => script.u64().and_then(|_| pieces(&mut script, Format::Vhdx)),
        _ => None,
    }
}

/// Every operation that reads metadata only.
fn operations() -> Vec<Op> {
    let content = || MeasuredContent::Image { image: LAYER, snapshot: None };
    let measure = |target| Op::Measure(Measure { content: content(), target, luks_key_len: 0, is_preallocated: false });
    vec![
        Op::Info { image: LAYER, details: true },
        Op::Check(Check { image: LAYER, as_qemu_img: false }),
        Op::Map(Map { image: LAYER, start: 0, len: None, as_qemu_img: false }),
        measure(TargetFormat::Raw),
        measure(TargetFormat::Qcow2(Qcow2Options::default())),
    ]
}

/// Bytes that the operation read.
fn run(op: &Op, format: Format, image: &FuzzImage<'_>) -> (u64, Result<(), Error>) {
    let disks = [image.clone()];
    let blocks = FuzzBlocks::new(&disks);
    let layer = Layer::new(DISK, Some(format), RawGate::Open);
    let request = Request::new(op.clone(), blocks.disks(), vec![layer], BUDGET);
    let mut machine = SparseMachine::new(blocks);
    let result = match op {
        Op::Info { .. } => ops::info(&request, &mut machine),
        Op::Check(_) => ops::check(&request, &mut machine),
        Op::Map(_) => ops::map(&request, &mut machine),
        _ => ops::measure(&request, &mut machine),
    };
    (machine.lane().bytes_read(), result.map(|_| ()))
}

#[test]
fn every_image_ends_within_the_budget() {
    let mut count = 0;
    for (target, set) in starters::all() {
        for (name, data) in set {
            let Some((format, whole)) = image(target, &data) else { continue };
            let len = whole.len();
            for len in [len, len.saturating_sub(1), len / 4 * 3, len / 2, len / 4, 700] {
                let image = whole.clone().with_len(len);
                for op in operations() {
                    let (read, result) = run(&op, format, &image);
                    let most = BUDGET.read_bytes + WINDOW_LEN;
                    assert!(read <= most, "{target}/{name}, {len} bytes: {read} bytes read by {op:?}");
                    let _ = result.inspect_err(check_error);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 1000, "only {count} runs");
}
