use super::pieces::image_of;
use super::walk::{Expected, walk_to};
use super::{DISK, LAYER, check_error};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::Script;
use instar_abi::check::Checked;
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_parsers::image::{Blocks as _, Scope};
use instar_parsers::parallels::Parallels;
use instar_parsers::qed::Qed;
use instar_parsers::vdi::Vdi;
use instar_parsers::vhdx::Vhdx;
use instar_parsers::vmdk::Vmdk;
use instar_parsers::vpc::Vpc;

/// Longest file that is checked.
const CHECKED_LEN_MAX: u64 = 64 << 20;

/// Formats that are only read. Byte 0: which (mod 7), bit 7: checksums are put right; length of the file in sectors (4);
/// then pieces: sector (4), length (2), bytes.
pub fn ro_formats(data: &[u8]) {
    let Some((format, image)) = image_of(&mut Script::new(data), u64::MAX) else { return };
    let expected = if is_clean(format, &image) { Expected::Clean } else { Expected::Anything };
    walk_to(format, vec![image], expected, &|_, _| {});
}

/// Checks the image; whether that says that every block is in the file and has a place of its own.
fn is_clean(format: Format, image: &FuzzImage<'_>) -> bool {
    if image.len() > CHECKED_LEN_MAX {
        return false;
    }
    let run = |scope: Scope| {
        let mut reader = FuzzReader::new(vec![image.clone()]);
        let checked = check(format, &mut reader, scope);
        (checked, reader.told())
    };
    let (theirs, _) = run(Scope::AsQemuImg);
    if let Ok(theirs) = theirs {
        let is_first = format != Format::Vmdk || theirs.corruptions == u64::from(theirs.failure.is_some());
        assert!(is_first, "goes on behind what ends the check: {theirs:?}");
    }
    match run(Scope::Whole) {
        (Ok(checked), told) => {
            assert!(checked.format == format && checked.untold == 0 && checked.check_errors == 0, "{checked:?}");
            let is_told = matches!(format, Format::Vmdk | Format::Vhdx | Format::Vpc);
            assert!(!is_told || checked.corruptions == told, "{told} findings of {checked:?}");
            is_told && checked.corruptions == 0
        }
        (Err(error), _) => {
            check_error(&error);
            false
        }
    }
}

/// Opens and checks.
fn check(format: Format, io: &mut FuzzReader<'_>, scope: Scope) -> Result<Checked, Error> {
    match format {
        Format::Vmdk => {
            let image = Vmdk::open(io, LAYER, DISK)?;
            // A text's files are not there.
            if image.files().is_empty() { image.check(io, scope) } else { Err(Error::WrongOp) }
        }
        Format::Vdi => Vdi::open(io, LAYER, DISK)?.check(io),
        Format::Vpc => Vpc::open_for_check(io, LAYER, DISK)?.check(io),
        Format::Vhdx => Vhdx::open(io, LAYER, DISK)?.check(io, scope),
        Format::Parallels => Parallels::open(io, LAYER, DISK)?.check(io),
        Format::Qed => Qed::open(io, LAYER, DISK)?.check(io),
        format => Err(Error::NoCheck { format }),
    }
}
