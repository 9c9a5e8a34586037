//! A lane's queues, one on every disk of the job.

use super::queue::{Finished, Queue, Refused};
use alloc::vec::Vec;
use instar_io::{BlockRequest, Blocks, Completion, SubmitError, Token};

/// The queues of one lane, in the order of the job's disks.
pub struct Lane {
    queues: Vec<Queue>,
    /// Where the next poll starts, so that no disk starves another.
    turn: usize,
    next: u64,
}

impl Lane {
    /// A lane over its queues.
    #[must_use]
    pub fn new(queues: Vec<Queue>) -> Self {
        Self { queues, turn: 0, next: 0 }
    }
}

/// Rings once for all queues that share a doorbell, and once for each that has its own register.
pub(crate) fn kick<'a>(queues: impl Iterator<Item = &'a mut Queue>) {
    let mut rung = None;
    for notify in queues.filter_map(Queue::take_notification) {
        if rung != Some(notify) {
            notify.ring();
            rung = Some(notify);
        }
    }
}

impl Blocks for Lane {
    fn submit(&mut self, request: BlockRequest) -> Result<Token, SubmitError> {
        let Some(queue) = self.queues.get_mut(request.disk as usize) else {
            return Err(SubmitError::Malformed(request));
        };
        let id = self.next;
        match queue.submit(id, request) {
            Ok(()) => {
                self.next += 1;
                Ok(Token(id))
            }
            Err(Refused::Full(request)) => Err(SubmitError::Full(request)),
            Err(Refused::Malformed(request)) => Err(SubmitError::Malformed(request)),
        }
    }

    fn kick(&mut self) {
        kick(self.queues.iter_mut());
    }

    fn poll(&mut self) -> Option<Completion> {
        for _ in 0..self.queues.len() {
            self.turn = (self.turn + 1) % self.queues.len();
            if let Some(Finished { id, request, result }) = self.queues[self.turn].poll() {
                return Some(Completion { token: Token(id), request, result });
            }
        }
        None
    }
}
