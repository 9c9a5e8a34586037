//! Strings that images, guests or callers chose, made fit for a terminal.
//!
//! qemu-img prints them raw; we don't (docs/differences.md). Ordinary text, of any script, is
//! unchanged. Control bytes and bytes that are no UTF-8 become `\x1b`, marks that reorder or hide text
//! become `\u{202e}`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

/// The text of a C string's bytes: what follows a NUL is not shown, nothing in it acts on a terminal.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let bytes = c_string(bytes);
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_shown(&mut out, character);
        }
        for byte in chunk.invalid() {
            push_byte(&mut out, *byte);
        }
    }
    out
}

/// The bytes before the first NUL: all that qemu-img, written in C, ever sees of a string.
#[must_use]
pub fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn push_shown(out: &mut String, character: char) {
    if acts_on_terminal(character) {
        match u8::try_from(character) {
            Ok(byte) if byte < 0x80 => push_byte(out, byte),
            _ => write!(out, "\\u{{{:x}}}", u32::from(character)).expect("a String takes all"),
        }
    } else {
        out.push(character);
    }
}

fn push_byte(out: &mut String, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("a String takes all");
}

/// Control characters, and marks that reorder text, break lines or take no room.
fn acts_on_terminal(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{AD}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_a_terminal() {
        for byte in (1..0x20).chain([0x7F]).chain(0x80..=0xFF) {
            assert_eq!(shown(&[b'a', byte, b'b']), format!("a\\x{byte:02x}b"));
        }
        for point in (0x80..0xA0).chain([0x61C, 0x200B, 0x200E, 0x2028, 0x202E, 0x2066, 0xFEFF, 0xE0041]) {
            let character = char::from_u32(point).expect("a character");
            assert_eq!(shown(character.to_string().as_bytes()), format!("\\u{{{point:x}}}"));
        }
    }

    #[test]
    fn ordinary_text_is_unchanged_and_ends_at_a_nul() {
        for text in ["a.qcow2", "sün 磁盘 диск", "back\\slash", "😀"] {
            assert_eq!(shown(text.as_bytes()), text);
        }
        assert_eq!(shown(b"ab\0c"), "ab");
        assert_eq!(shown(b"\xE2\x82z"), "\\xe2\\x82z");
    }
}
