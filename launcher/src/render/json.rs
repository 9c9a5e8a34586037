//! The one emitter of JSON, in QEMU's layout.
//!
//! Pretty: four spaces a level, an empty container broken over two lines, no final newline.
//! Compact: one line with a space after each comma and colon, as in `json:` names.
#![forbid(unsafe_code)]

use super::escape::c_string;
use super::qdict::Value;

/// How the text is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Lines and indentation: `--output=json`.
    Pretty,
    /// One line: a `json:` name.
    Compact,
}

/// The text of a value; ASCII.
#[must_use]
pub fn to_text(value: &Value, layout: Layout) -> String {
    let mut writer = Writer { out: String::new(), layout, level: 0 };
    writer.value(value);
    writer.out
}

struct Writer {
    out: String,
    layout: Layout,
    level: usize,
}

impl Writer {
    /// Recursion is bounded: values are built from the user's own JSON, which its parser bounds, or
    /// from a report, whose depth the collector bounds.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Bool(true) => self.out.push_str("true"),
            Value::Bool(false) => self.out.push_str("false"),
            Value::Number(number) => self.out.push_str(&number.to_string()),
            Value::Text(text) => self.text(text),
            Value::List(items) => {
                let members = items.iter().map(|item| (None, item));
                self.container('[', ']', members);
            }
            Value::Object(dict) => {
                let members = dict.iter().map(|(key, value)| (Some(key), value));
                self.container('{', '}', members);
            }
        }
    }

    fn container<'a>(&mut self, open: char, close: char, members: impl Iterator<Item = (Option<&'a [u8]>, &'a Value)>) {
        self.out.push(open);
        self.level += 1;
        for (index, (key, value)) in members.enumerate() {
            if index > 0 {
                self.out.push(',');
                if self.layout == Layout::Compact {
                    self.out.push(' ');
                }
            }
            self.newline();
            if let Some(key) = key {
                self.text(key);
                self.out.push_str(": ");
            }
            self.value(value);
        }
        self.level -= 1;
        self.newline();
        self.out.push(close);
    }

    fn newline(&mut self) {
        if self.layout == Layout::Pretty {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n("    ", self.level));
        }
    }

    /// A string with everything outside printable ASCII escaped.
    fn text(&mut self, text: &[u8]) {
        let mut rest = c_string(text);
        self.out.push('"');
        while let Some((point, len)) = code_point(rest) {
            rest = &rest[len..];
            match point {
                0x22 => self.out.push_str("\\\""),
                0x5C => self.out.push_str("\\\\"),
                0x08 => self.out.push_str("\\b"),
                0x0C => self.out.push_str("\\f"),
                0x0A => self.out.push_str("\\n"),
                0x0D => self.out.push_str("\\r"),
                0x09 => self.out.push_str("\\t"),
                0x20..0x7F => self.out.push(char::from_u32(point).expect("printable ASCII")),
                0..=0xFFFF => self.out.push_str(&format!("\\u{point:04X}")),
                _ => {
                    let above = point - 0x1_0000;
                    let (high, low) = (0xD800 + (above >> 10), 0xDC00 + (above & 0x3FF));
                    self.out.push_str(&format!("\\u{high:04X}\\u{low:04X}"));
                }
            }
        }
        self.out.push('"');
    }
}

/// The first code point of QEMU's modified UTF-8 and how many bytes it took; U+FFFD stands for
/// whatever is none. `None` at the end.
///
/// # Source
/// QEMU's `util/unicode.c`: sequences of up to six bytes are taken whole before they are judged,
/// `C0 80` is U+0000, and surrogates, noncharacters and overlong forms are refused.
fn code_point(bytes: &[u8]) -> Option<(u32, usize)> {
    const REPLACEMENT: u32 = 0xFFFD;
    let &first = bytes.first()?;
    let len = match first.leading_ones() {
        0 => return Some((first.into(), 1)),
        1 | 7 | 8 => return Some((REPLACEMENT, 1)),
        len => len as usize,
    };
    let mut point = u32::from(first & (0x7F >> len));
    for index in 1..len {
        match bytes.get(index) {
            Some(&byte) if byte & 0xC0 == 0x80 => point = point << 6 | u32::from(byte & 0x3F),
            _ => return Some((REPLACEMENT, index)),
        }
    }
    let least = [0x80, 0x800, 0x1_0000, 0x20_0000, 0x400_0000][len - 2];
    let bad = point > 0x10_FFFF
        || (0xFDD0..=0xFDEF).contains(&point)
        || point & 0xFFFE == 0xFFFE
        || (0xD800..=0xDFFF).contains(&point)
        || (point < least && !(point == 0 && len == 2));
    Some((if bad { REPLACEMENT } else { point }, len))
}

#[cfg(test)]
mod tests {
    use super::super::qdict::QDict;
    use super::*;

    fn quoted(bytes: &[u8]) -> String {
        to_text(&Value::text(bytes), Layout::Compact)
    }

    #[test]
    fn json_layout_golden() {
        let dict: QDict = [
            ("children", Value::List(vec![])),
            ("data", Value::Object(QDict::new())),
            ("size", Value::List(vec![Value::Number(1), Value::Number(-2)])),
        ]
        .into_iter()
        .collect();
        let value = Value::Object(dict);
        assert_eq!(to_text(&value, Layout::Compact), r#"{"children": [], "size": [1, -2], "data": {}}"#);
        assert_eq!(
            to_text(&value, Layout::Pretty),
            "{\n    \"children\": [\n    ],\n    \"size\": [\n        1,\n        -2\n    ],\n    \"data\": {\n    }\n}"
        );
    }

    /// The expected texts are what `qemu-img info --output=json` 10.0.2 printed for backing files of these names.
    #[test]
    fn strings_are_escaped_as_qemu_img_does() {
        for (bytes, expected) in [
            (b"x\x1b[31m\xff".as_slice(), r#""x\u001B[31m\uFFFD""#),
            ("\u{202e}\u{1F600}sün".as_bytes(), r#""\u202E\uD83D\uDE00s\u00FCn""#),
            (b"q\"b\\s/t\tn\nr\rb\x08f\x0c\x7f", r#""q\"b\\s/t\tn\nr\rb\bf\f\u007F""#),
            (b"\xC0\x80z", r#""\u0000z""#),
            (b"\xC0\x81z\xE0\x80\x80", r#""\uFFFDz\uFFFD""#),
            (b"\xED\xA0\x80\xEF\xBF\xBE\xEF\xB7\x90", r#""\uFFFD\uFFFD\uFFFD""#),
            (b"\xF4\x90\x80\x80\xFC\x80\x80\x80\x80\x80a", r#""\uFFFD\uFFFDa""#),
            (b"\xE2\x82z\x80\xE2\x82", r#""\uFFFDz\uFFFD\uFFFD""#),
            (b"a\0b", r#""a""#),
        ] {
            assert_eq!(quoted(bytes), expected, "{bytes:02x?}");
        }
    }
}
