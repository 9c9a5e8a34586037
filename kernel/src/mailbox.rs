//! The control device as the guest sees it: request in, replies out.

use crate::blk::Queue;
use crate::command_line::CommandLine;
use crate::death::{self, die};
use crate::mem;
use crate::smp;
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use instar_abi::control::{Header, REPLY_BASE, REQUEST_OFFSET, SECTOR_LEN};
use instar_abi::epitaph::Death;
use instar_abi::layout;
use instar_abi::reply::{Frame, encode_frame, pad_batch};
use instar_abi::request::Request;
use instar_io::{Action, BlockRequest, ReplyError};
use zerocopy::FromBytes;

/// The control device and how far the reply has come.
pub struct Mailbox {
    queue: Queue,
    /// A posted batch is under way.
    posted: bool,
    reply_len: u64,
    reply_len_max: u64,
}

impl Mailbox {
    /// Fetches the request, from memory where the machine has put it, else from the device.
    ///
    /// Dies with [`Death::BadControl`] when header or request are not this run's.
    #[must_use]
    pub fn open(queue: Queue, line: &CommandLine) -> (Self, Request) {
        let mut mailbox = Self { queue, posted: false, reply_len: 0, reply_len_max: 0 };
        let placed = line.control.and_then(|(address, len)| mem::placed(address, len));
        let header = placed.map_or_else(|| Cow::Owned(mailbox.read(0, layout::PAGE_LEN)), Cow::Borrowed);
        let Ok((header, _)) = Header::read_from_prefix(&header) else { die(Death::BadControl, "header") };
        let len = match header.request_len(line.nonce) {
            Ok(len) => len,
            Err(error) => die(Death::BadControl, death::header_fault(error)),
        };
        let request = match placed {
            Some(area) => Cow::Borrowed(area.get(REQUEST_OFFSET as usize..).unwrap_or_default()),
            None => Cow::Owned(mailbox.read(REQUEST_OFFSET, len.next_multiple_of(SECTOR_LEN))),
        };
        let Some(Ok(request)) = request.get(..len as usize).map(Request::decode) else {
            die(Death::BadControl, "request")
        };
        mailbox.reply_len_max = header.reply_len_max.get();
        (mailbox, request)
    }

    /// Writes one padded batch of frames and waits until the launcher has it.
    ///
    /// # Errors
    /// The launcher refused it, or the limit is reached.
    pub fn reply(&mut self, batch: Vec<u8>) -> Result<(), ReplyError> {
        // What was posted behind the last kick would never be answered.
        self.ring();
        let mut looks = 0;
        while self.under_way() {
            smp::relax(&mut looks, 0);
        }
        let offset = self.next_offset(&batch)?;
        self.transfer(Action::Write, offset, batch).map(drop)
    }

    fn ring(&mut self) {
        if let Some(notify) = self.queue.take_notification() {
            notify.ring();
        }
    }

    /// Submits one padded batch of frames, which the next kick starts; leaves it out while another is under way.
    /// A batch that the launcher refuses is noticed by the next [`Mailbox::reply`], which is refused too.
    pub fn post(&mut self, batch: Vec<u8>) {
        if self.under_way() {
            return;
        }
        if let Ok(offset) = self.next_offset(&batch) {
            let request = BlockRequest { disk: 0, action: Action::Write, offset, segments: vec![batch] };
            self.posted = self.queue.submit(0, request).is_ok();
        }
    }

    /// The control device's queue, for a kick.
    pub(crate) fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    fn under_way(&mut self) -> bool {
        self.posted = self.posted && self.queue.poll().is_none();
        self.posted
    }

    /// Where the next batch goes.
    fn next_offset(&mut self, batch: &[u8]) -> Result<u64, ReplyError> {
        let end = self.reply_len.checked_add(batch.len() as u64);
        let end = end.filter(|&end| end <= self.reply_len_max).ok_or(ReplyError)?;
        Ok(REPLY_BASE + core::mem::replace(&mut self.reply_len, end))
    }

    /// Sends the last frame and switches the machine off.
    pub fn end(&mut self, frame: &Frame) -> ! {
        let mut batch = Vec::new();
        if encode_frame(frame, &mut batch).is_err() {
            die(Death::Panic, "the last frame is too long");
        }
        pad_batch(&mut batch);
        // A refused last frame leaves the launcher without one, which it reports as a crash.
        let _ = self.reply(batch);
        crate::arch::epitaph::power_off()
    }

    fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        match self.transfer(Action::Read, offset, vec![0; len as usize]) {
            Ok(bytes) => bytes,
            Err(ReplyError) => die(Death::BadControl, "read"),
        }
    }

    fn transfer(&mut self, action: Action, offset: u64, bytes: Vec<u8>) -> Result<Vec<u8>, ReplyError> {
        let request = BlockRequest { disk: 0, action, offset, segments: vec![bytes] };
        self.queue.submit(0, request).map_err(|_| ReplyError)?;
        self.ring();
        let mut looks = 0;
        loop {
            if let Some(mut finished) = self.queue.poll() {
                finished.result.map_err(|_| ReplyError)?;
                return finished.request.segments.pop().ok_or(ReplyError);
            }
            smp::relax(&mut looks, 0);
        }
    }
}
