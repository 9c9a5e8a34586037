//! The progress bar of a person at a terminal; programs get [`super::progress`].
#![forbid(unsafe_code)]

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Share, bytes, rate and time left.
const TEMPLATE: &str =
    "[{bar:30}] {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";

/// A bar on standard error.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar that shows nothing until it is told of progress.
    #[must_use]
    pub fn new() -> Self {
        Self::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is a constant").progress_chars("=> ");
        Self(ProgressBar::with_draw_target(Some(0), target).with_style(style))
    }

    /// Progress in bytes, a guest's numbers.
    pub fn tell(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done.min(total));
    }

    /// Lets something else be written above it.
    pub fn aside(&self, write: impl FnOnce()) {
        self.0.suspend(write);
    }

    /// Takes it away.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_numbers_of_a_guest_are_well() {
        let bar = Bar::on(ProgressDrawTarget::hidden());
        for (done, total) in [(0, 0), (1, 2), (u64::MAX, 1), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            bar.tell(done, total);
            assert!(bar.0.position() <= bar.0.length().expect("told"));
        }
        bar.clear();
    }
}
