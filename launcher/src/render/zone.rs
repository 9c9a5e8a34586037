//! Local time, from zone data that is read before the sandbox closes.
#![forbid(unsafe_code)]

use tz::{DateTime, TimeZone, UtcDateTime};

/// The user's time zone.
#[derive(Clone, Debug)]
pub struct Zone(TimeZone);

impl Zone {
    /// The zone of `TZ`, else that of `/etc/localtime`, else UTC. Reads files: call it before the
    /// sandbox closes.
    #[must_use]
    pub fn of_user() -> Self {
        match std::env::var("TZ") {
            Ok(name) => Self::named(&name),
            Err(_) => Self(TimeZone::local().unwrap_or_else(|_| TimeZone::utc())),
        }
    }

    /// The zone of a `TZ` value: a name, a file or a POSIX rule; UTC if it is none of these.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(TimeZone::from_posix_tz(name).unwrap_or_else(|_| TimeZone::utc()))
    }

    /// `2026-11-21 09:33:46`, for seconds since 1970.
    #[must_use]
    pub fn date(&self, seconds: u32) -> String {
        let seconds = i64::from(seconds);
        // Outside a zone's rules glib stays with UTC; with 32 bits of seconds only odd zone files get there.
        let (year, month, day, hour, minute, second) = match DateTime::from_timespec(seconds, 0, self.0.as_ref()) {
            Ok(at) => (at.year(), at.month(), at.month_day(), at.hour(), at.minute(), at.second()),
            Err(_) => match UtcDateTime::from_timespec(seconds, 0) {
                Ok(at) => (at.year(), at.month(), at.month_day(), at.hour(), at.minute(), at.second()),
                Err(_) => unreachable!("32 bits of seconds end in 2106"),
            },
        };
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_local() {
        for (zone, seconds, expected) in [
            ("UTC", 0, "1970-01-01 00:00:00"),
            ("UTC", u32::MAX, "2106-02-07 06:28:15"),
            ("EST5EDT,M3.2.0,M11.1.0", 1_752_000_000, "2025-07-08 14:40:00"),
            ("EST5EDT,M3.2.0,M11.1.0", 1_768_000_000, "2026-01-09 18:06:40"),
            ("<+0545>-5:45", 0, "1970-01-01 05:45:00"),
            ("no such zone", 1, "1970-01-01 00:00:01"),
        ] {
            assert_eq!(Zone::named(zone).date(seconds), expected, "{zone}");
        }
    }
}
