//! What `map` prints, as it comes.
#![forbid(unsafe_code)]

use super::escape::shown;
use instar_abi::reply::MapExtent;
use std::fmt::Write as _;

/// qemu-img's lines of a human.
pub const HUMAN_HEAD: &str = "Offset          Length          Mapped to       File\n";

/// Something has content, and the human form can't say where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPlace;

/// Adds the line of an extent that has content. `path`: the file it is in.
///
/// # Errors
/// [`NoPlace`].
pub fn human(extent: &MapExtent, path: &[u8], out: &mut String) -> Result<(), NoPlace> {
    let at = match extent.at {
        None if extent.is_data => return Err(NoPlace),
        Some(at) if extent.is_data && !extent.is_zero => at.offset,
        _ => return Ok(()),
    };
    let [start, len, at] = [extent.start, extent.len, at].map(hex);
    writeln!(out, "{start:<16}{len:<16}{at:<16}{}", shown(path)).expect("a String takes all");
    Ok(())
}

/// As C's `%#x`: zero has no prefix.
fn hex(number: u64) -> String {
    if number == 0 { "0".to_owned() } else { format!("{number:#x}") }
}

/// The element of an extent in the array of the JSON form; the first opens the array.
pub fn json(extent: &MapExtent, is_first: bool, out: &mut String) {
    let MapExtent { start, len, depth, is_present, is_zero, is_data, is_compressed, at } = extent;
    write!(
        out,
        "{}{{ \"start\": {start}, \"length\": {len}, \"depth\": {depth}, \"present\": {is_present}, \"zero\": {is_zero}, \
         \"data\": {is_data}, \"compressed\": {is_compressed}",
        if is_first { "[" } else { ",\n" },
    )
    .expect("a String takes all");
    if let Some(at) = at {
        write!(out, ", \"offset\": {}", at.offset).expect("a String takes all");
    }
    out.push('}');
}

/// What closes the array.
pub const JSON_END: &str = "]\n";

#[cfg(test)]
mod tests {
    use super::*;
    use instar_abi::reply::DiskOffset;
    use instar_abi::request::DiskId;

    fn extent(at: Option<u64>) -> MapExtent {
        MapExtent {
            start: 0,
            len: 65536,
            depth: 1,
            is_present: true,
            is_zero: false,
            is_data: true,
            is_compressed: false,
            at: at.map(|offset| DiskOffset { disk: DiskId(0), offset }),
        }
    }

    /// The lines are what `qemu-img map` 10.0.2 printed.
    #[test]
    fn lines_are_qemu_imgs() {
        let mut out = String::new();
        human(&extent(Some(0x50000)), b"o.qcow2", &mut out).expect("a place");
        human(&MapExtent { is_zero: true, ..extent(Some(0)) }, b"o.qcow2", &mut out).expect("a place");
        human(&MapExtent { is_data: false, ..extent(None) }, b"o.qcow2", &mut out).expect("no content");
        assert_eq!(out, "0               0x10000         0x50000         o.qcow2\n");
        assert_eq!(human(&extent(None), b"o.qcow2", &mut out), Err(NoPlace));
    }

    #[test]
    fn elements_are_qemu_imgs() {
        let mut out = String::new();
        json(&extent(Some(0)), true, &mut out);
        json(&MapExtent { start: 65536, len: 1, ..extent(None) }, false, &mut out);
        out += JSON_END;
        let expected = "[{ \"start\": 0, \"length\": 65536, \"depth\": 1, \"present\": true, \"zero\": false, \"data\": true, \
            \"compressed\": false, \"offset\": 0},\n{ \"start\": 65536, \"length\": 1, \"depth\": 1, \"present\": true, \
            \"zero\": false, \"data\": true, \"compressed\": false}]\n";
        assert_eq!(out, expected);
        assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok());
    }

    #[test]
    fn no_name_of_a_file_acts_on_a_terminal() {
        let mut out = String::new();
        human(&extent(Some(1)), b"x\x1b[31m", &mut out).expect("a place");
        assert!(!out.contains('\x1b'));
    }
}
