//! Images whose entries lead to one table again and again, next to such whose tables are their own: with what the launcher lets a
//! walk use up, the first end with a typed error and the others are told whole.

use super::LAYER;
use super::pieces::{pieces_of, signed};
use crate::blocks::FuzzBlocks;
use crate::image::FuzzImage;
use crate::layout::Script;
use crate::sparse::SparseMachine;
use crate::starters;
use instar::job::limits::walk_budget;
use instar_abi::error::{Error, Resource};
use instar_abi::format::Format;
use instar_abi::request::{
    Below, Budget, Compare, DiskId, Layer, LayerId, Map, Measure, MeasuredContent, Op, Qcow2Options, RawGate, Request,
    TargetFormat,
};
use instar_io::Env as _;
use instar_parsers::ops;

type Image = FuzzImage<'static>;

/// How many tables there are of those that the upper table names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    /// One for all.
    One,
    /// One each.
    Own,
}

fn be64(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    numbers.flat_map(u64::to_be_bytes).collect()
}

fn le64(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    numbers.flat_map(u64::to_le_bytes).collect()
}

fn le32(numbers: impl Iterator<Item = u32>) -> Vec<u8> {
    numbers.flat_map(u32::to_le_bytes).collect()
}

/// An upper table of `count` entries, and the lower ones.
struct Directory {
    at: u64,
    count: u64,
    lower_len: u64,
    tables: Tables,
}

impl Directory {
    /// As many entries, or a small part of them where each has a table of its own.
    fn new(at: u64, count: u64, lower_len: u64, tables: Tables) -> Self {
        let count = if tables == Tables::One { count } else { count / 64 };
        Self { at, count, lower_len, tables }
    }

    const fn lower_at(&self) -> u64 {
        (self.at + 8 * self.count).next_multiple_of(64 << 10)
    }

    const fn lower_count(&self) -> u64 {
        match self.tables {
            Tables::One => 1,
            Tables::Own => self.count,
        }
    }

    fn places(&self) -> impl Iterator<Item = u64> {
        let (start, len, tables) = (self.lower_at(), self.lower_len, self.tables);
        (0..self.count).map(move |index| if tables == Tables::One { start } else { start + index * len })
    }

    /// The file with both, and every lower table the same.
    fn image(&self, header: &[u8], upper: Vec<u8>, lower: &[u8]) -> Image {
        assert_eq!(lower.len() as u64, self.lower_len);
        let lower = lower.repeat(self.lower_count() as usize);
        let end = self.lower_at() + lower.len() as u64;
        let len = end.next_multiple_of(64 << 10) + (64 << 10);
        Image::placed(len).with(0, header.to_vec()).with(self.at, upper).with(self.lower_at(), lower)
    }
}

/// Clusters of 64 KiB, by turns zero and not there, the first of them by `phase`.
fn qcow2(tables: Tables, count: u64, phase: u64) -> Image {
    let directory = Directory::new(128 << 10, count, 64 << 10, tables);
    let size = directory.count << 29;
    let header = [
        &b"QFI\xfb\0\0\0\x03"[..],
        &[0; 12],
        &16u32.to_be_bytes(),
        &size.to_be_bytes(),
        &[0; 4],
        &(directory.count as u32).to_be_bytes(),
        &directory.at.to_be_bytes(),
        &(64u64 << 10).to_be_bytes(),
        &1u32.to_be_bytes(),
        &[0; 36],
        &[4u32, 104].map(u32::to_be_bytes).concat(),
    ]
    .concat();
    let upper = be64(directory.places().map(|place| place | 1 << 63));
    directory.image(&header, upper, &be64((0..8192).map(|index| (index + phase) % 2)))
}

/// Clusters of 64 KiB, by turns content and not there.
fn qcow(tables: Tables) -> Image {
    let directory = Directory::new(4096, 8192, 4096, tables);
    let header = [
        &b"QFI\xfb\0\0\0\x01"[..],
        &[0; 16],
        &(directory.count << 25).to_be_bytes(),
        &[16, 9, 0, 0],
        &[0; 4],
        &directory.at.to_be_bytes(),
    ]
    .concat();
    let upper = be64(directory.places());
    directory.image(&header, upper, &be64((0..512).map(|index| (64 << 10) * (index % 2))))
}

/// Clusters of 4 KiB, by turns zero and not there.
fn qed(tables: Tables) -> Image {
    // A table has as many entries on either level.
    let directory = Directory::new(64 << 10, 2048, 16 << 10, tables);
    let header = [
        &b"QED\0"[..],
        &[4096u32, 4, 1].map(u32::to_le_bytes).concat(),
        &[0; 24],
        &directory.at.to_le_bytes(),
        &(directory.count << 23).to_le_bytes(),
    ]
    .concat();
    let upper = le64(directory.places());
    directory.image(&header, upper, &le64((0..2048).map(|index| index % 2)))
}

/// Grains of 4 KiB, by turns zero and not there.
fn vmdk(tables: Tables) -> Image {
    let directory = Directory::new(64 << 10, 16_384, 2048, tables);
    let header = [
        &b"KDMV"[..],
        &[1u32, 7].map(u32::to_le_bytes).concat(),
        &[directory.count * 512 * 8, 8, 1, 20].map(u64::to_le_bytes).concat(),
        &512u32.to_le_bytes(),
        &[0, directory.at / 512, 0].map(u64::to_le_bytes).concat(),
        b"\0\n \r\n",
    ]
    .concat();
    let text = "# Disk DescriptorFile\nversion=1\nCID=1a6dde02\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n";
    let upper = le32(directory.places().map(|place| (place / 512) as u32));
    let image = directory.image(&header, upper, &le32((0..512).map(|index| index % 2)));
    image.with(512, text.as_bytes())
}

/// The first bytes of a starter that is a file of pieces.
fn starter(target: &str, name: &str, format: Format, len: usize) -> Vec<u8> {
    let data = starters::all().remove(target).and_then(|mut set| set.remove(name)).expect("there is one");
    let image = pieces_of(&mut Script::new(&data)).expect("an image");
    let mut bytes = vec![0; len];
    signed(format, image).fill(0, &mut bytes);
    bytes
}

/// A differencing VHD of blocks of 128 KiB, whose sectors are by turns in it and not, by one bitmap for all.
fn vpc() -> Image {
    let (count, table_at) = (65_536u32, 64u32 << 10);
    let block = (table_at + 4 * count) / 512;
    let mut front = starter("vhd_parent", "by-name", Format::Vpc, 2048);
    front[48..56].copy_from_slice(&(u64::from(count) << 17).to_be_bytes());
    front[512 + 16..512 + 24].copy_from_slice(&u64::from(table_at).to_be_bytes());
    front[512 + 28..512 + 32].copy_from_slice(&count.to_be_bytes());
    let image = Image::placed((u64::from(block) + 1 + 256) * 512).with(0, front);
    let table = block.to_be_bytes().repeat(count as usize);
    let image = image.with(table_at.into(), table).with(u64::from(block) * 512, vec![0xaa; 512]);
    signed(Format::Vpc, image)
}

/// The same as a VHDX of blocks of 1 MiB.
fn vhdx() -> Image {
    let mut bytes = starter("vhdx_parent", "child", Format::Vhdx, 7 << 20);
    let blocks = 64u64 << 10;
    // The parent's flag, and the virtual size.
    bytes[(2 << 20) + (64 << 10) + 4] = 2;
    bytes[(2 << 20) + (64 << 10) + 16..][..8].copy_from_slice(&(blocks << 20).to_le_bytes());
    let table = (0..blocks + blocks / 4096).map(|index| if index % 4097 == 4096 { 6 << 20 | 6 } else { 4 << 20 | 7 });
    let table = le64(table);
    bytes[3 << 20..][..table.len()].copy_from_slice(&table);
    bytes[6 << 20..].fill(0xaa);
    signed(Format::Vhdx, Image::placed(bytes.len() as u64).with(0, bytes))
}

/// How an operation ends, and the bytes that it read.
fn run(op: &Op, format: Format, disks: &[Image], is_chain: bool, budget: Budget) -> (Result<(), Error>, u64) {
    let blocks = FuzzBlocks::new(disks);
    let layers = (0..disks.len() as u32).map(|index| {
        let is_last = !is_chain || index as usize + 1 == disks.len();
        let below = if is_last { Below::Nothing } else { Below::Layer(LayerId(index + 1)) };
        Layer { below, ..Layer::new(DiskId(index), Some(format), RawGate::Open) }
    });
    let request = Request::new(op.clone(), blocks.disks(), layers.collect(), budget);
    let mut machine = SparseMachine::new(blocks);
    let result = match op {
        Op::Map(_) => ops::map(&request, &mut machine),
        Op::Compare(_) => ops::compare(&request, &mut machine),
        _ => ops::measure(&request, &mut machine),
    };
    (result.map(|_| ()), machine.lane().bytes_read())
}

fn len_of(disks: &[Image]) -> u64 {
    disks.iter().map(FuzzImage::len).sum()
}

/// Measures a qcow2 with such clusters: behind content, the rest of its cluster is not looked at.
fn measure(cluster_bits: u32) -> Op {
    let content = MeasuredContent::Image { image: LAYER, snapshot: None };
    let target = TargetFormat::Qcow2(Qcow2Options { cluster_bits, ..Qcow2Options::default() });
    Op::Measure(Measure { content, target, luks_key_len: 0, is_preallocated: false })
}

const MAP: Op = Op::Map(Map { image: LAYER, start: 0, len: None, as_qemu_img: false });

#[test]
fn a_table_that_is_walked_again_and_again_uses_the_steps_up() {
    for (format, image, cluster_bits) in [
        (Format::Qcow2, qcow2(Tables::One, 8192, 0), 16),
        (Format::Qcow, qcow(Tables::One), 16),
        (Format::Qed, qed(Tables::One), 16),
        (Format::Vmdk, vmdk(Tables::One), 16),
        (Format::Vpc, vpc(), 9),
        (Format::Vhdx, vhdx(), 9),
    ] {
        let disks = [image];
        let budget = walk_budget(len_of(&disks));
        let (result, read) = run(&measure(cluster_bits), format, &disks, false, budget);
        assert_eq!(result, Err(Error::OutOfBudget(Resource::Steps)), "{}: {read} bytes read", format.name());
        assert!(read <= budget.read_bytes, "{}: {read}", format.name());
    }
}

/// Half of what files of so many bytes may use up, without what the shortest may.
fn half(len: u64) -> Budget {
    let (some, none) = (walk_budget(len), walk_budget(0));
    Budget { steps: (some.steps - none.steps) / 2, read_bytes: (some.read_bytes - none.read_bytes) / 2, ..some }
}

/// The longest walk that there is for a byte of tables: no two neighbours are one extent. It takes half of what it may, without what
/// the shortest file may.
#[test]
fn tables_of_its_own_are_what_an_image_may_be_walked_by() {
    for (format, image) in [
        (Format::Qcow2, qcow2(Tables::Own, 8192, 0)),
        (Format::Qcow, qcow(Tables::Own)),
        (Format::Qed, qed(Tables::Own)),
        (Format::Vmdk, vmdk(Tables::Own)),
    ] {
        let disks = [image];
        for op in [measure(16), MAP] {
            let (result, read) = run(&op, format, &disks, false, half(len_of(&disks)));
            assert_eq!(result, Ok(()), "{}: {read} bytes read by {op:?}", format.name());
        }
        let disks = [disks[0].clone(), disks[0].clone()];
        let both = Op::Compare(Compare { left: LAYER, right: LayerId(1), is_strict: true });
        let (result, read) = run(&both, format, &disks, false, half(len_of(&disks)));
        assert_eq!(result, Ok(()), "{}: {read} bytes read by {both:?}", format.name());
    }
}

/// Every other cluster is only in the last layer: all are asked in turns, and each entry is looked at once all the same.
#[test]
fn a_chain_costs_what_the_tables_of_its_layers_do() {
    for layers in [2, 16, 64] {
        let disks: Vec<Image> =
            (0..layers).map(|layer| qcow2(Tables::Own, 512, u64::from(layer + 1 == layers))).collect();
        let (result, read) = run(&MAP, Format::Qcow2, &disks, true, half(len_of(&disks)));
        assert_eq!(result, Ok(()), "{layers} layers: {read} bytes read");
    }
}

/// An empty disk of 8 TiB costs what its upper table does.
#[test]
fn holes_are_walked_by_the_upper_table() {
    for (format, image) in [(Format::Qcow, qcow(Tables::One)), (Format::Qed, qed(Tables::One))] {
        let at = if format == Format::Qcow { 4096 } else { 64 << 10 };
        let disks = [image.with(at, vec![0; 64 << 10])];
        let budget = Budget { steps: 40_000, ..walk_budget(0) };
        assert_eq!(run(&measure(16), format, &disks, false, budget).0, Ok(()), "{}", format.name());
    }
}
