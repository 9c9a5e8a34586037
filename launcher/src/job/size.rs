//! Sizes as the user types them.
#![forbid(unsafe_code)]

/// Why a text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// It is no number.
    Text,
    /// Its number is negative, or from 2^64 on.
    Range,
}

/// Bytes of `4096`, `0x1000`, `4k`, `1.5G`; `None` for anything else, and from 2^64 on.
#[must_use]
pub fn parse(text: &[u8]) -> Option<u64> {
    read(text).ok()
}

/// Whether the text is a number, though a negative one or past 64 bits.
#[must_use]
pub fn is_out_of_range(text: &[u8]) -> bool {
    read(text) == Err(Wrong::Range)
}

/// # Source
/// `do_strtosz` of QEMU 10.0 (`util/cutils.c`) and what C's `strtoull` takes: white space and a sign in front; one letter
/// of b k m g t p e in either case behind, powers of 1024. A fraction is a `double`, needs a letter above b and is rounded
/// to the nearest byte; hexadecimal has neither. A number out of range is told as such only where nothing follows it.
fn read(text: &[u8]) -> Result<u64, Wrong> {
    let text = str::from_utf8(text).map_err(|_| Wrong::Text)?;
    let text = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    if let Some(positive) = text.strip_prefix('-') {
        let digits = positive.strip_prefix('.').unwrap_or(positive);
        return Err(if !digits.is_empty() && is_plain(digits) { Wrong::Range } else { Wrong::Text });
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return if plain { u64::from_str_radix(digits, 16).map_err(|_| Wrong::Range) } else { Err(Wrong::Text) };
    }
    let (whole, rest) = split_digits(text);
    let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    let scale = match suffix.as_bytes() {
        [] => 0,
        [letter] => b"bkmgtpe".iter().position(|known| *known == letter.to_ascii_lowercase()).ok_or(Wrong::Text)?,
        _ => return Err(Wrong::Text),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(Wrong::Text);
    }
    let too_large = if suffix.is_empty() { Wrong::Range } else { Wrong::Text };
    let whole = if whole.is_empty() { Ok(0) } else { whole.parse::<u64>() };
    let whole = whole.map_err(|_| if rest.is_empty() { Wrong::Range } else { Wrong::Text })?;
    let (carry, part) = fixed_point(fraction);
    let whole = whole.checked_add(carry).ok_or(too_large)?;
    if scale == 0 {
        return if part == 0 { Ok(whole) } else { Err(Wrong::Text) };
    }
    let scale = 1_u64 << (10 * scale);
    let part = (u128::from(part) * u128::from(scale) + (1 << 63)) >> 64;
    let bytes = whole.checked_mul(scale).and_then(|bytes| bytes.checked_add(u64::try_from(part).ok()?));
    bytes.ok_or(Wrong::Range)
}

fn is_plain(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// The fraction of these digits: 1 where it rounds up to that, and in units of 2^-64; never 0 unless it is.
fn fixed_point(digits: &str) -> (u64, u64) {
    let fraction = format!("0.{digits}0").parse::<f64>().unwrap_or(0.0);
    if fraction >= 1.0 {
        return (1, 0);
    }
    // Below 1, so that the product is below 2^64.
    let part = (fraction * 2_f64.powi(64)) as u64;
    (0, part.max(u64::from(fraction > 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_qemu_img_reads_them() {
        for (text, expected) in [
            ("123", Some(123)),
            ("123b", Some(123)),
            ("123B", Some(123)),
            ("1k", Some(1024)),
            ("1.5K", Some(1536)),
            ("1.5G", Some(3 << 29)),
            ("0.1k", Some(102)),
            ("1.", Some(1)),
            ("1.0", Some(1)),
            ("0x200", Some(512)),
            ("15E", Some(15 << 60)),
            ("16E", None),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("1.5", None),
            ("1.5b", None),
            ("-1", None),
            ("+1", Some(1)),
            (" \t+1.5k", Some(1536)),
            ("+ 1", None),
            ("+-1", None),
            ("1e3", None),
            ("1MiB", None),
            ("10X", None),
            ("0x", None),
            ("0x1k", None),
            ("0x+1", None),
            ("", None),
            ("k", None),
            (".5k", Some(512)),
            (".0", Some(0)),
            (".5", None),
            (".", None),
            (".k", None),
            ("1.e", Some(1 << 60)),
            ("1.5e1", None),
            ("1.00000000000000000000001", None),
            // As near to a whole number as a double can tell.
            ("1.99999999999999999999", Some(2)),
            ("7.9999999999999999E", Some((1 << 63) - 128)),
            ("7.99999999999999999E", Some(1 << 63)),
            ("1.00048828125k", Some(1025)),
            ("1.00048828124k", Some(1024)),
            ("1..5k", None),
            ("1 k", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_told_from_words() {
        for (text, expected) in [
            ("-1", true),
            ("18446744073709551616", true),
            ("16E", true),
            ("-0", true),
            (" -1", true),
            ("-.5", true),
            ("+99999999999999999999", true),
            ("0x1ffffffffffffffff", true),
            ("18446744073709551615.99999999999999999999", true),
            // What follows is read no more.
            ("99999999999999999999k", false),
            ("18446744073709551616.0", false),
            ("-1k", false),
            ("-.5k", false),
            ("-1.", false),
            ("-0x1", false),
            ("1", false),
            ("10X", false),
            ("-", false),
            ("", false),
            ("foo", false),
        ] {
            assert_eq!(is_out_of_range(text.as_bytes()), expected, "{text}");
        }
    }
}
