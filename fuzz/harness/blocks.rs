//! The same images as a lane's queue: what the parsers' own cache and queue run over in the guest.

use crate::image::FuzzImage;
use instar_abi::request::Disk;
use instar_io::{Action, BlockError, BlockRequest, Blocks, Completion, SECTOR_LEN, SubmitError, Token};
use std::collections::VecDeque;

/// A queue over read-only images; requests finish in the order in which they were started.
pub struct FuzzBlocks<'i, 'a> {
    disks: &'i [FuzzImage<'a>],
    submitted: VecDeque<(Token, BlockRequest)>,
    started: VecDeque<(Token, BlockRequest)>,
    next: u64,
    bytes_read: u64,
}

impl<'i, 'a> FuzzBlocks<'i, 'a> {
    /// A queue over these images.
    #[must_use]
    pub fn new(disks: &'i [FuzzImage<'a>]) -> Self {
        Self { disks, submitted: VecDeque::new(), started: VecDeque::new(), next: 0, bytes_read: 0 }
    }

    /// The job's description of the images.
    #[must_use]
    pub fn disks(&self) -> Vec<Disk> {
        self.disks.iter().map(|disk| Disk::read_only(disk.len())).collect()
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn serve(&self, request: &mut BlockRequest) -> Result<(), BlockError> {
        let disk = &self.disks[request.disk as usize];
        let end = request.offset.checked_add(request.len()).ok_or(BlockError::Io)?;
        if request.action != Action::Read || end > disk.len().next_multiple_of(SECTOR_LEN) {
            return Err(BlockError::Io);
        }
        let mut at = request.offset;
        for segment in &mut request.segments {
            disk.fill(at, segment);
            at += segment.len() as u64;
        }
        Ok(())
    }
}

impl Blocks for FuzzBlocks<'_, '_> {
    fn submit(&mut self, request: BlockRequest) -> Result<Token, SubmitError> {
        let whole = |len: u64| len.is_multiple_of(SECTOR_LEN);
        let sound = (request.disk as usize) < self.disks.len()
            && whole(request.offset)
            && request.segments.iter().all(|segment| !segment.is_empty() && whole(segment.len() as u64));
        assert!(sound, "malformed request: {request:?}");
        let token = Token(self.next);
        self.next += 1;
        self.submitted.push_back((token, request));
        Ok(token)
    }

    fn kick(&mut self) {
        self.started.append(&mut self.submitted);
    }

    fn poll(&mut self) -> Option<Completion> {
        let (token, mut request) = self.started.pop_front().expect("waits for what was never started");
        self.bytes_read += request.len();
        let result = self.serve(&mut request);
        Some(Completion { token, request, result })
    }

    /// No harness reads progress.
    fn post(&mut self, _: Vec<u8>) {}
}
