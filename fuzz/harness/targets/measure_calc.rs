use super::check_error;
use crate::image::BUDGET;
use crate::layout::Script;
use crate::machine::FuzzMachine;
use instar_abi::error::{Error, TargetError};
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Measure, MeasuredContent, Op, Qcow2Options, Request, TargetFormat};
use instar_parsers::ops::measure;

/// How large a new image becomes. Byte 0: log2 of the cluster size (8 plus mod 15); 1: log2 of the refcount's bits (mod
/// 8); 2: bit 0 extended L2, bit 1 version 2, bit 2 all of it allocated, bit 3 raw; 3 to 10: virtual size; 11 to 14: bytes
/// of the key of a LUKS volume.
pub fn measure_calc(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(cluster), Some(refcount), Some(flags), Some(size), Some(luks)) =
        (script.u8(), script.u8(), script.u8(), script.u64(), script.u32())
    else {
        return;
    };
    let options = Qcow2Options {
        version: if flags & 2 == 0 { 3 } else { 2 },
        cluster_bits: 8 + u32::from(cluster % 15),
        refcount_order: u32::from(refcount % 8),
        extended_l2: flags & 1 != 0,
        ..Qcow2Options::default()
    };
    let (is_preallocated, is_raw) = (flags & 4 != 0, flags & 8 != 0);
    let target = if is_raw { TargetFormat::Raw } else { TargetFormat::Qcow2(options.clone()) };
    let content = MeasuredContent::Size(size);
    let op = Op::Measure(Measure { content, target, luks_key_len: luks, is_preallocated });
    let request = Request::new(op, Vec::new(), Vec::new(), BUDGET);
    let mut machine = FuzzMachine::new(&[], 1, None);
    let result = measure(&request, &mut machine);
    // A volume of LUKS is as long as was asked for.
    let virtual_size = if is_raw && luks > 0 { Some(size) } else { size.checked_next_multiple_of(512) };
    let virtual_size = virtual_size.filter(|size| *size <= 1 << 63);
    let Some(virtual_size) = virtual_size else {
        return assert!(matches!(result, Err(Error::Target(TargetError::TooLarge { .. }))), "{result:?}");
    };
    match result {
        Ok(End::Done { .. }) => {}
        Err(error) => return check_error(&error),
        Ok(end) => panic!("{end:?}"),
    }
    let [Frame::Measured(measured)] = machine.frames[..] else { panic!("{:?}", machine.frames) };
    let (required, full) = (measured.required, u128::from(measured.fully_allocated));
    if is_raw {
        assert_eq!((required, full), (virtual_size + slots(luks), u128::from(required)));
        return;
    }
    assert!(measured.bitmaps.is_none() && required <= measured.fully_allocated, "{measured:?}");
    let content = u128::from(virtual_size).next_multiple_of(1 << options.cluster_bits);
    assert_eq!(full - u128::from(required), if is_preallocated { 0 } else { content });
    assert_eq!(
        full,
        u128::from(slots(luks).next_multiple_of(1 << options.cluster_bits)) + longest(&options, virtual_size),
        "{options:?} {virtual_size}"
    );
}

/// Bytes before the content of a LUKS volume, in sectors as its specification counts.
fn slots(key_len: u32) -> u64 {
    if key_len == 0 { 0 } else { (8 + 8 * (u64::from(key_len) * 4000).div_ceil(512).next_multiple_of(8)) * 512 }
}

/// An image with content everywhere, counted cluster by cluster in wide numbers: header, tables, refcounts of all of it.
fn longest(options: &Qcow2Options, virtual_size: u64) -> u128 {
    let cluster = 1u128 << options.cluster_bits;
    let entries = cluster / if options.extended_l2 { 16 } else { 8 };
    let content = u128::from(virtual_size).div_ceil(cluster);
    let l2 = content.div_ceil(entries);
    let l1 = (l2 * 8).div_ceil(cluster);
    let plain = 1 + content + l2 + l1;
    let per_block = (cluster * 8) >> options.refcount_order;
    // The least number of blocks and tables that count themselves, too.
    let mut counts = 0;
    loop {
        let blocks = (plain + counts).div_ceil(per_block);
        let all = blocks + blocks.div_ceil(cluster / 8);
        if all <= counts {
            return (plain + all) * cluster;
        }
        counts = all;
    }
}
