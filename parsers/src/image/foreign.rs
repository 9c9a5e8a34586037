//! Names of files in the words of another system.

use alloc::string::String;
use alloc::vec::Vec;

/// The text of UTF-16 units, up to a zero; what is no character becomes the replacement character.
#[must_use]
pub fn text_of_utf16(units: impl Iterator<Item = u16>) -> String {
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// The file that a path of Windows means here, as a name that is read beside the image: a relative path with our slashes,
/// of an absolute one its last part. `None`: it names no file.
#[must_use]
pub fn beside(path: &str) -> Option<Vec<u8>> {
    let slashed: Vec<u8> = path.bytes().map(|byte| if byte == b'\\' { b'/' } else { byte }).collect();
    let is_absolute = slashed.starts_with(b"/") || slashed.contains(&b':');
    let mut name = slashed.as_slice();
    if is_absolute {
        name = name.rsplit(|byte| matches!(byte, b'/' | b':')).next().unwrap_or_default();
    }
    while let Some(rest) = name.strip_prefix(b"./") {
        name = rest;
    }
    let is_file = !name.is_empty() && !name.ends_with(b"/") && !matches!(name, b"." | b"..");
    is_file.then(|| name.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_windows_are_read_beside_the_image() {
        for (path, expected) in [
            (".\\base.vhd", Some("base.vhd")),
            ("base.vhd", Some("base.vhd")),
            ("..\\images\\a b.vhd", Some("../images/a b.vhd")),
            ("C:\\images\\base.vhd", Some("base.vhd")),
            ("C:base.vhd", Some("base.vhd")),
            ("\\\\server\\share\\base.vhd", Some("base.vhd")),
            ("\\\\?\\Volume{26a2}\\x\\base.vhd", Some("base.vhd")),
            ("nbd:unix", Some("unix")),
            ("/etc/passwd", Some("passwd")),
            ("C:\\images\\", None),
            ("..", None),
            ("", None),
        ] {
            assert_eq!(beside(path), expected.map(|name| name.as_bytes().to_vec()), "{path}");
        }
        assert_eq!(text_of_utf16([0x61, 0xd83d, 0xde00, 0xd800, 0, 0x62].into_iter()), "a😀\u{fffd}");
    }
}
