use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::le64;
use crate::model::detect::{check_magic, is_by_trailer, is_partitioned, surely};
use instar_abi::error::{DetectError, Error};
use instar_abi::format::Format;
use instar_abi::request::{Layer, RawGate};
use instar_parsers::detect::detect;

/// Detection of the whole input as a file; then once more, as the beginning of a file that is longer by the
/// number at byte 0, modulo 4096.
pub fn format_detect(data: &[u8]) {
    judge(&FuzzImage::new(data));
    let more = le64(data, 0).unwrap_or(0) % 4096;
    judge(&FuzzImage::new(data).with_len(data.len() as u64 + more));
}

fn judge(image: &FuzzImage<'_>) {
    let strict = found(image, None, RawGate::Partitioned);
    match &strict {
        Ok(format) => check_magic(*format, image),
        Err(Error::Detect { error: DetectError::RawGate, .. }) => {
            assert!(!is_partitioned(image), "a partitioned disk is refused");
            assert_eq!(surely(image), None);
        }
        Err(error) => panic!("detection fails with {error:?}"),
    }
    if let Some(sure) = surely(image) {
        assert_eq!(strict, Ok(sure));
    }
    let known = strict.as_ref().ok().copied().filter(|format| *format != Format::Raw);
    let open = found(image, None, RawGate::Open).expect("qemu-img takes anything as raw");
    assert!(open == Format::Raw || Some(open) == known, "qemu-img finds {open:?}, we {known:?}");
    for &given in Format::ALL {
        let result = found(image, Some(given), RawGate::Partitioned);
        match (given == Format::Raw || Some(given) == known, &result) {
            (true, Ok(format)) => assert_eq!(*format, given),
            (false, Err(Error::Detect { error: DetectError::Mismatch { given: said, found }, .. })) => {
                assert_eq!((*said, *found), (given, known));
            }
            _ => panic!("given {given:?}, known {known:?}: {result:?}"),
        }
    }
    if let Ok(format) = strict
        && !is_by_trailer(format, image)
    {
        let longer = image.clone().with_len(image.len() + 1500).with(image.len(), vec![0xA5; 1500]);
        assert_eq!(found(&longer, None, RawGate::Partitioned), Ok(format), "appended bytes change the format");
    }
}

fn found(image: &FuzzImage<'_>, format: Option<Format>, raw_gate: RawGate) -> Result<Format, Error> {
    let layer = Layer::new(DISK, format, raw_gate);
    let mut reader = FuzzReader::new(vec![image.clone()]);
    detect(&mut reader, LAYER, &layer).inspect_err(check_error)
}
