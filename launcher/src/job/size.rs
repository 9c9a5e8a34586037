//! Sizes as the user types them.
#![forbid(unsafe_code)]

/// Bytes of `4096`, `0x1000`, `4k`, `1.5G`; `None` for anything else, and from 2^64 on.
///
/// # Source
/// QEMU's `qemu_strtosz`: one letter of b k m g t p e in either case, powers of 1024; a fraction
/// needs a letter above b and is rounded to the nearest byte; hexadecimal has neither.
#[must_use]
pub fn parse(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return if plain { u64::from_str_radix(digits, 16).ok() } else { None };
    }
    let (number, scale) = match text.as_bytes().last()? {
        b'0'..=b'9' | b'.' => (text, 0),
        letter => {
            let power = b"bkmgtpe".iter().position(|known| *known == letter.to_ascii_lowercase())?;
            (&text[..text.len() - 1], u32::try_from(power).ok()? * 10)
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || !plain(whole)
        || !plain(fraction)
        || (scale == 0 && fraction.bytes().any(|byte| byte != b'0'))
    {
        return None;
    }
    let scale = 1_u64 << scale;
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    // Sixteen digits are finer than a byte of an exbibyte, and fit.
    let digits = &fraction[..fraction.len().min(18)];
    let part = if digits.is_empty() { 0 } else { u128::from(digits.parse::<u64>().ok()?) * u128::from(scale) };
    let unit = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    whole.checked_add(u64::try_from((part + unit / 2) / unit).ok()?)
}

/// Whether the text would be a size if the number were not negative or past 64 bits.
#[must_use]
pub fn is_out_of_range(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let Some((number, rest)) = digits.split_at_checked(count) else { return false };
    // One digit is in range whatever follows.
    parse(text).is_none() && !number.is_empty() && parse(&[b"1", rest].concat()).is_some()
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
            ("+1", None),
            ("1e3", None),
            ("1MiB", None),
            ("10X", None),
            ("0x", None),
            ("0x1k", None),
            ("0x+1", None),
            ("", None),
            ("k", None),
            (".5k", None),
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
            ("99999999999999999999k", true),
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
