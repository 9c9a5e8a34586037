//! How far all lanes have come, as the launcher is told.

use crate::store::Queue;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use instar_abi::reply::{Frame, encode_frame, pad_batch};
use instar_io::Blocks;

/// Most frames of progress of a job.
const PROGRESS_MAX: u64 = 100;
/// Fewest bytes between two of them.
const PROGRESS_LEN_MIN: u64 = 4 << 20;
/// Bytes of a disk that lanes have passed.
pub struct Progress {
    done: AtomicU64,
    total: u64,
}

impl Progress {
    /// Nothing of `total` bytes.
    #[must_use]
    pub const fn new(total: u64) -> Self {
        Self { done: AtomicU64::new(0), total }
    }

    /// Everything up to `done` has been passed.
    pub fn pass(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }

    /// Tells it with the next kick, if it is worth telling to someone who knows of `told`. For lane 0, which has the
    /// control device.
    pub fn tell<B: Blocks>(&self, queue: &mut Queue<'_, B>, told: &mut u64) {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total);
        let step = total.div_ceil(PROGRESS_MAX).max(PROGRESS_LEN_MIN);
        if done.saturating_sub(*told) < step || done >= total {
            return;
        }
        let mut batch = Vec::new();
        if encode_frame(&Frame::Progress { done, total }, &mut batch).is_ok() {
            pad_batch(&mut batch);
            queue.post(batch);
            *told = done;
        }
    }
}
