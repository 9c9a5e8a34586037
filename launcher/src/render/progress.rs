//! The progress line.
#![forbid(unsafe_code)]

/// `    (12.34/100%)\r`: what `-p` writes while work goes on, in the form clients match.
///
/// `done` and `total` are a guest's: any values are well.
#[must_use]
pub fn line(done: u64, total: u64) -> String {
    format!("    ({}/100%)\r", percent(done, total))
}

/// `    (12.34/100%)\n`: the answer to a SIGUSR1.
#[must_use]
pub fn asked_line(done: u64, total: u64) -> String {
    format!("    ({}/100%)\n", percent(done, total))
}

/// Progress that is worth a line: at the start, at each further percent, at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    shown: Option<u64>, // whole percents last shown
}

impl Meter {
    /// The line to write now, if this progress is worth one.
    pub fn line(&mut self, done: u64, total: u64) -> Option<String> {
        let percents = hundredths(done, total) / 100;
        if self.shown.is_some_and(|shown| percents <= shown) {
            return None;
        }
        self.shown = Some(percents);
        Some(line(done, total))
    }
}

fn percent(done: u64, total: u64) -> String {
    let hundredths = hundredths(done, total);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn hundredths(done: u64, total: u64) -> u64 {
    if done >= total {
        return 10_000;
    }
    u64::try_from(u128::from(done) * 10_000 / u128::from(total)).expect("below 10,000, as done < total")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_qemu_imgs() {
        assert_eq!(line(0, 300), "    (0.00/100%)\r");
        assert_eq!(line(1, 3), "    (33.33/100%)\r");
        assert_eq!(line(300, 300), "    (100.00/100%)\r");
    }

    #[test]
    fn a_lying_guest_gets_no_more_than_all() {
        assert_eq!(line(u64::MAX, 1), "    (100.00/100%)\r");
        assert_eq!(line(0, 0), "    (100.00/100%)\r");
        assert_eq!(line(u64::MAX - 1, u64::MAX), "    (99.99/100%)\r");
    }

    #[test]
    fn the_meter_moves_in_whole_percents_and_never_back() {
        let mut meter = Meter::default();
        let shown: Vec<_> = [0, 1, 9, 10, 5, 11, 999, 1000, 1000].iter().filter_map(|&d| meter.line(d, 1000)).collect();
        assert_eq!(
            shown,
            ["    (0.00/100%)\r", "    (1.00/100%)\r", "    (99.90/100%)\r", "    (100.00/100%)\r"].map(String::from)
        );
    }
}
