//! Rounding to powers of two, without overflow.

/// The largest multiple of `unit` that is at most `value`; `value` itself for a unit of 0.
#[must_use]
pub const fn down(value: u64, unit: u64) -> u64 {
    match value.checked_rem(unit) {
        Some(rest) => value.saturating_sub(rest),
        None => value,
    }
}

/// The smallest multiple of `unit` that is at least `value`; `None` past `u64::MAX`.
#[must_use]
pub const fn up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}

/// Where `value` lies within its unit.
#[must_use]
pub const fn within(value: u64, unit: u64) -> u64 {
    value.saturating_sub(down(value, unit))
}

/// Whole units in `value`; 0 for a unit of 0.
#[must_use]
pub const fn units(value: u64, unit: u64) -> u64 {
    match value.checked_div(unit) {
        Some(units) => units,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_never_overflows() {
        assert_eq!((down(4097, 4096), down(4096, 4096), down(u64::MAX, 512)), (4096, 4096, u64::MAX - 511));
        assert_eq!((up(4097, 4096), up(0, 512), up(u64::MAX, 512)), (Some(8192), Some(0), None));
        assert_eq!((units(1025, 512), units(511, 512), units(7, 0)), (2, 0, 0));
        assert_eq!((within(513, 512), within(512, 512), within(7, 0)), (1, 0, 0));
    }
}
