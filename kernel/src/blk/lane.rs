//! A lane's queues, one on every disk of the job.

use super::queue::{Finished, Queue, Refused};
use crate::mailbox::Mailbox;
use crate::smp;
use alloc::vec::Vec;
use instar_io::{BlockRequest, Blocks, Completion, SubmitError, Token};

/// The queues of one lane, in the order of the job's disks.
pub struct Lane {
    queues: Vec<Queue>,
    /// Lane 0 has the control device.
    mailbox: Option<Mailbox>,
    /// Where the next poll starts, so that no disk starves another.
    turn: usize,
    next: u64,
    /// Bytes that devices have been asked to move.
    in_flight: u64,
    /// How often the lane has looked in vain for another one or a device.
    relaxed: u32,
}

impl Lane {
    /// A lane over its queues.
    #[must_use]
    pub fn new(queues: Vec<Queue>) -> Self {
        Self { queues, mailbox: None, turn: 0, next: 0, in_flight: 0, relaxed: 0 }
    }

    /// Gives the lane the control device.
    pub(crate) fn set_mailbox(&mut self, mailbox: Mailbox) {
        self.mailbox = Some(mailbox);
    }

    /// The control device, where the lane has it.
    pub(crate) fn mailbox(&mut self) -> Option<&mut Mailbox> {
        self.mailbox.as_mut()
    }
}

impl Blocks for Lane {
    fn submit(&mut self, request: BlockRequest) -> Result<Token, SubmitError> {
        let Some(queue) = self.queues.get_mut(request.disk as usize) else {
            return Err(SubmitError::Malformed(request));
        };
        let (id, len) = (self.next, request.len());
        match queue.submit(id, request) {
            Ok(()) => {
                self.next += 1;
                self.in_flight += len;
                Ok(Token(id))
            }
            Err(Refused::Full(request)) => Err(SubmitError::Full(request)),
            Err(Refused::Malformed(request)) => Err(SubmitError::Malformed(request)),
        }
    }

    fn kick(&mut self) {
        let mailbox = self.mailbox.as_mut().map(Mailbox::queue);
        let mut rung = None;
        // Once for all queues that share a doorbell, and once for each that has its own register.
        for notify in self.queues.iter_mut().chain(mailbox).filter_map(Queue::take_notification) {
            if rung != Some(notify) {
                notify.ring();
                rung = Some(notify);
            }
        }
    }

    fn relax(&mut self) {
        smp::relax(&mut self.relaxed, self.in_flight);
    }

    fn overlaps(&self) -> bool {
        smp::has_apic()
    }

    fn post(&mut self, batch: Vec<u8>) {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.post(batch);
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        for _ in 0..self.queues.len() {
            self.turn = (self.turn + 1) % self.queues.len();
            if let Some(Finished { id, request, result }) = self.queues[self.turn].poll() {
                self.relaxed = 0;
                self.in_flight -= request.len();
                return Some(Completion { token: Token(id), request, result });
            }
        }
        None
    }
}
