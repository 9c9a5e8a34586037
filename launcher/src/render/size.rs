//! Sizes for people: three significant digits, binary units.
#![forbid(unsafe_code)]

/// `196 KiB`, `2.19 MiB`, `0 B`: as qemu-img prints sizes.
///
/// # Source
/// QEMU's `size_to_str`: the unit changes where the integer part would reach 1000, then `%0.3g`.
/// A value that rounds up to 1000 prints as `1e+03`, here too.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // C converts to double before dividing, so we do.
    let value = bytes as f64;
    let mut unit = 0;
    while unit + 1 < UNITS.len() && value / (1000.0 / 1024.0) >= 1024.0_f64.powi(unit as i32 + 1) {
        unit += 1;
    }
    format!("{} {}", three_digits(value / 1024.0_f64.powi(unit as i32)), UNITS[unit])
}

/// C's `%0.3g` for numbers that are zero or at least 0.1.
fn three_digits(value: f64) -> String {
    // Rust rounds the exact binary value, ties to even, as C does.
    let scientific = format!("{value:.2e}");
    let (digits, exponent) = scientific.split_once('e').expect("scientific notation has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if exponent >= 3 {
        return format!("{}e+{exponent:02}", trim_zeros(digits));
    }
    let places = usize::try_from(2 - exponent).unwrap_or(0);
    trim_zeros(&format!("{value:.places$}")).to_owned()
}

fn trim_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are C's, by `printf` on the same quotients.
    #[test]
    fn sizes_round_to_three_digits_ties_to_even() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1, "1 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1023, "0.999 KiB"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (2_297_856, "2.19 MiB"),
            (524_800, "512 KiB"),
            (197_120, "192 KiB"),
            (196_608 + 512, "192 KiB"),
            (197_632 + 512, "194 KiB"), // 193.5, a tie: to the even 194
            (196_608, "192 KiB"),
            (1_022_976, "999 KiB"),
            (1_023_487, "999 KiB"),
            (1_023_488, "1e+03 KiB"),
            (1_023_999, "1e+03 KiB"),
            (1_024_000, "0.977 MiB"),
            (10 << 30, "10 GiB"),
            (3 << 39, "1.5 TiB"),
            (1 << 50, "1 PiB"),
            (i64::MAX as u64, "8 EiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human_size(bytes), expected, "{bytes}");
        }
        assert_eq!(three_digits(1.125), "1.12");
        assert_eq!(three_digits(1.375), "1.38");
        assert_eq!(three_digits(12.25), "12.2");
        assert_eq!(three_digits(12.75), "12.8");
    }
}
