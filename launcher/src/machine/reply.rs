//! What the guest says, frame by frame, held against the contract.

use crate::disk::copy::{Copier, CopyError};
use instar_abi::reply::{End, Frame, FrameError, decode_batch};
use std::io;

/// How a reply broke the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyFault {
    /// A frame that can't be decoded.
    Frame(FrameError),
    /// A frame after the last one.
    AfterEnd,
    /// A write that does not continue the reply, or exceeds its limit.
    OutOfOrder,
    /// More done than there is, or less than before.
    Progress,
    /// A copy that the job did not ask for, or between what it may not.
    Copy,
}

/// The reply so far: what a guest wrote, frame by frame, until it ends or breaks the contract.
pub struct Reply {
    end: Option<End>,
    done: u64,
    fault: Option<ReplyFault>,
    copier: Option<Copier>,
    failed: Option<io::Error>, // what the host could not copy for this batch
    on_frame: Box<dyn FnMut(Frame) + Send>,
}

impl Reply {
    /// An empty reply; every frame but the last goes to `on_frame`.
    pub fn new(on_frame: impl FnMut(Frame) + Send + 'static) -> Self {
        Self { end: None, done: 0, fault: None, copier: None, failed: None, on_frame: Box::new(on_frame) }
    }

    /// The same, of a job whose guest may ask for copies.
    #[must_use]
    pub fn copying(self, copier: Copier) -> Self {
        Self { copier: Some(copier), ..self }
    }

    /// How the reply broke the contract; `None`: it did not, so far.
    #[must_use]
    pub fn fault(&self) -> Option<ReplyFault> {
        self.fault
    }

    /// Whether nothing more is taken: the last frame is here, or a fault.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.end.is_some() || self.fault.is_some()
    }

    /// The last frame, once.
    pub fn take_end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// Takes one write of the guest's. After a fault, nothing more is taken.
    ///
    /// # Errors
    /// The write, or one before it, broke the contract: see [`Reply::fault`]. Without a fault: the host could not make
    /// the copies that it asks for.
    pub fn take_batch(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.fault.is_none()
            && let Err(fault) = decode_batch(batch, |frame| self.take(frame))
        {
            self.fault.get_or_insert(ReplyFault::Frame(fault));
        }
        match (self.fault, self.failed.take()) {
            (Some(_), _) => Err(io::ErrorKind::InvalidData.into()),
            (None, Some(error)) => Err(io::Error::other(error)),
            (None, None) => Ok(()),
        }
    }

    fn take(&mut self, frame: Frame) {
        if self.end.is_some() {
            self.fault.get_or_insert(ReplyFault::AfterEnd);
        }
        if self.fault.is_some() {
            return;
        }
        match frame {
            Frame::End(end) => self.end = Some(end),
            Frame::Progress { done, total } if done > total || done < self.done => {
                self.fault = Some(ReplyFault::Progress);
            }
            Frame::Copy(ranges) => match self.copier.as_ref().map(|copier| copier.copy(&ranges)) {
                Some(Ok(())) => {}
                Some(Err(CopyError::Host(error))) => self.failed = Some(error),
                Some(Err(CopyError::Forbidden)) | None => self.fault = Some(ReplyFault::Copy),
            },
            frame => {
                if let Frame::Progress { done, .. } = frame {
                    self.done = done;
                }
                (self.on_frame)(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_abi::reply::{CopyRange, encode_frame, pad_batch};
    use instar_abi::request::DiskId;
    use std::sync::{Arc, Mutex};

    fn batch(frames: &[Frame]) -> Vec<u8> {
        let mut batch = Vec::new();
        for frame in frames {
            encode_frame(frame, &mut batch).expect("short");
        }
        pad_batch(&mut batch);
        batch
    }

    fn fault_of(batches: &[Vec<u8>]) -> (Option<ReplyFault>, usize) {
        let seen = Arc::new(Mutex::new(0));
        let count = Arc::clone(&seen);
        let mut reply = Reply::new(move |_| *count.lock().expect("not poisoned") += 1);
        for batch in batches {
            let _ = reply.take_batch(batch);
        }
        (reply.fault(), *seen.lock().expect("not poisoned"))
    }

    fn progress(done: u64, total: u64) -> Frame {
        Frame::Progress { done, total }
    }

    #[test]
    fn a_good_reply_is_passed_on_but_for_its_end() {
        let frames = [progress(0, 2), progress(2, 2), Frame::End(End::NeedsMore)];
        assert_eq!(fault_of(&[batch(&frames)]), (None, 2));
    }

    #[test]
    fn nothing_follows_the_end() {
        let frames = [Frame::End(End::NeedsMore), progress(0, 0)];
        assert_eq!(fault_of(&[batch(&frames)]), (Some(ReplyFault::AfterEnd), 0));
        assert_eq!(fault_of(&[batch(&frames[..1]), batch(&frames[1..])]), (Some(ReplyFault::AfterEnd), 0));
    }

    #[test]
    fn progress_never_goes_back_or_beyond() {
        assert_eq!(fault_of(&[batch(&[progress(3, 2)])]), (Some(ReplyFault::Progress), 0));
        assert_eq!(fault_of(&[batch(&[progress(2, 3), progress(1, 3)])]), (Some(ReplyFault::Progress), 1));
    }

    #[test]
    fn copies_are_made_only_for_jobs_that_asked_for_them() {
        let range = CopyRange { from: DiskId(0), from_offset: 0, to: DiskId(1), to_offset: 0, len: 512 };
        assert_eq!(fault_of(&[batch(&[Frame::Copy(vec![range])])]), (Some(ReplyFault::Copy), 0));
        let copier = || Copier::new(&[], &[]);
        let mut reply = Reply::new(|_| {}).copying(copier());
        assert!(reply.take_batch(&batch(&[Frame::Copy(vec![range])])).is_err());
        assert_eq!(reply.fault(), Some(ReplyFault::Copy));
        let mut reply = Reply::new(|_| {}).copying(copier());
        reply.take_batch(&batch(&[Frame::Copy(vec![])])).expect("nothing to copy");
        assert_eq!(reply.fault(), None);
    }

    #[test]
    fn a_broken_batch_ends_the_reply() {
        let broken = vec![0x5a; 512];
        let (fault, seen) = fault_of(&[batch(&[progress(0, 1)]), broken, batch(&[progress(1, 1)])]);
        assert!(matches!(fault, Some(ReplyFault::Frame(FrameError::Len { .. }))));
        assert_eq!(seen, 1);
    }
}
