//! The configured limits, put in place of each job's own: the one place where every operation passes.

use super::Limits;
use crate::job::{Job, Machine, NoEnd, Then};
use crate::machine::Choice;
use instar_abi::reply::{End, Frame};

/// A machine that runs jobs under other limits than their own.
pub struct Limited<'a> {
    inner: &'a mut dyn Machine,
    limits: Limits,
}

impl<'a> Limited<'a> {
    /// Over a machine.
    #[must_use]
    pub fn new(inner: &'a mut dyn Machine, limits: Limits) -> Self {
        Self { inner, limits }
    }
}

impl Machine for Limited<'_> {
    fn run(&mut self, job: &Job, then: Then, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
        if self.limits == Limits::default() {
            return self.inner.run(job, then, on_frame);
        }
        let Limits { heap, read, time, guest_memory } = self.limits;
        let mut job = job.clone();
        let budget = &mut job.request.budget;
        budget.heap_bytes = heap.unwrap_or(budget.heap_bytes);
        budget.read_bytes = read.unwrap_or(budget.read_bytes);
        job.limits.time = time.unwrap_or(job.limits.time);
        job.limits.memory_len = guest_memory.unwrap_or(job.limits.memory_len);
        self.inner.run(&job, then, on_frame)
    }

    fn rest(&mut self) {
        self.inner.rest();
    }

    fn host_errno(&self) -> Option<i32> {
        self.inner.host_errno()
    }

    fn choose(&mut self, choice: Choice) {
        self.inner.choose(choice);
    }

    fn catch_signals(&mut self) -> Result<(), NoEnd> {
        self.inner.catch_signals()
    }

    fn stop_signal(&self) -> Option<i32> {
        self.inner.stop_signal()
    }
}
