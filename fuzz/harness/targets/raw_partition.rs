use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::le64;
use crate::model;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::request::{Below, Layer, RawGate, Window};
use instar_parsers::detect::{detect, is_partitioned};
use instar_parsers::image::{Image as _, Kind};
use instar_parsers::raw::Raw;

/// The raw gate over the first two sectors, and windows of a raw disk: bytes 512 to 527 are the window's
/// offset and length, modulo twice the disk's length unless byte 528 is odd.
pub fn raw_partition(data: &[u8]) {
    let head = &data[..data.len().min(1024)];
    let image = FuzzImage::new(head);
    let accepted = is_partitioned(head);
    assert_eq!(accepted, model::detect::is_partitioned(&image), "the gate's answer");
    assert!(!(accepted && head.iter().all(|&byte| byte == 0)));
    let layer = Layer::new(DISK, None, RawGate::Partitioned);
    let strict = detect(&mut FuzzReader::new(vec![image]), LAYER, &layer).inspect_err(check_error);
    assert!(strict != Ok(Format::Raw) || accepted, "raw without a partition table");
    window(data);
}

fn window(data: &[u8]) {
    let (Some(offset), Some(len)) = (le64(data, 512), le64(data, 520)) else { return };
    let disk_len = data.len() as u64;
    let is_plausible = data.get(528).is_none_or(|byte| byte % 2 == 0);
    let value = |raw: u64| if is_plausible { raw % (disk_len * 2) } else { raw };
    let (offset, len) = (value(offset), Some(value(len)).filter(|len| len % 7 != 0));
    let layer = Layer {
        disk: DISK,
        format: Some(Format::Raw),
        raw_gate: RawGate::Partitioned,
        window: Some(Window { offset, len }),
        below: Below::AsNamed,
    };
    let mut reader = FuzzReader::new(vec![FuzzImage::new(data)]);
    let fits = u128::from(offset) + u128::from(len.unwrap_or(0)) <= u128::from(disk_len);
    let whole = len.is_none_or(|len| len % 512 == 0);
    let image = match Raw::open(&reader, LAYER, &layer) {
        Ok(image) => image,
        Err(error) => return assert!(matches!(error, Error::Raw { .. }) && !(fits && whole), "{layer:?} is refused"),
    };
    assert!(fits && whole, "{layer:?} is accepted");
    let size = image.virtual_size();
    assert_eq!(size, len.unwrap_or(disk_len - offset).next_multiple_of(512));
    if size > 0 {
        let extent = image.map(&mut reader, size / 2..size).expect("a window maps");
        assert_eq!((extent.start, extent.end()), (size / 2, size));
        assert_eq!(extent.kind, Kind::Data { disk: DISK, offset: offset + size / 2 });
    }
}
