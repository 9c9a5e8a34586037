//! A lane's queues, shared by those who wait for metadata and those who move data.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use instar_abi::error::{Error, ReadError, WriteError};
use instar_abi::request::DiskId;
use instar_io::{Action, BlockError, BlockRequest, Blocks, Completion, SubmitError, Token};
use spin::{Mutex, MutexGuard};

/// [`Blocks`] with a memory: completions that someone else waits for are kept until they are asked for.
pub struct Queue<'a, B: Blocks> {
    blocks: &'a mut B,
    finished: VecDeque<Completion>,
}

impl<'a, B: Blocks> Queue<'a, B> {
    /// A queue with nothing in flight.
    pub fn new(blocks: &'a mut B) -> Self {
        Self { blocks, finished: VecDeque::new() }
    }

    /// Accepts a request; where the rings are full, starts what is waiting and makes room first.
    ///
    /// # Errors
    /// `Device` of [`ReadError`] or [`WriteError`]: the request is malformed for this device.
    pub fn submit(&mut self, mut request: BlockRequest) -> Result<Token, Error> {
        loop {
            match self.blocks.submit(request) {
                Ok(token) => return Ok(token),
                Err(SubmitError::Malformed(refused)) => {
                    return Err(failure(refused.disk, refused.action, refused.offset, BlockError::Device));
                }
                Err(SubmitError::Full(refused)) => {
                    request = refused;
                    self.blocks.kick();
                    let completion = self.next_from_device();
                    self.finished.push_back(completion);
                }
            }
        }
    }

    /// Starts everything submitted.
    pub fn kick(&mut self) {
        self.blocks.kick();
    }

    /// Sends reply frames with the next kick, without waiting; see [`Blocks::post`].
    pub fn post(&mut self, batch: Vec<u8>) {
        self.blocks.post(batch);
    }

    /// The next finished request, waiting for it. Something must be in flight or finished.
    pub fn next_finished(&mut self) -> Completion {
        match self.finished.pop_front() {
            Some(completion) => completion,
            None => self.next_from_device(),
        }
    }

    /// A finished request, if there is one.
    pub fn poll_finished(&mut self) -> Option<Completion> {
        self.finished.pop_front().or_else(|| self.blocks.poll())
    }

    /// Whether devices work while the lane goes on; see [`Blocks::overlaps`].
    pub fn overlaps(&self) -> bool {
        self.blocks.overlaps()
    }

    /// Lets others go on, for a lane that waits for them.
    pub fn relax(&mut self) {
        self.blocks.relax();
    }

    /// Takes what lanes share; whoever has it may wait for tables, or for the host to let it run.
    pub fn lock<'m, T>(&mut self, shared: &'m Mutex<T>) -> MutexGuard<'m, T> {
        loop {
            match shared.try_lock() {
                Some(guard) => return guard,
                None => self.relax(),
            }
        }
    }

    /// Waits for one request and gives its buffers. It must have been submitted and kicked.
    ///
    /// # Errors
    /// The device's.
    pub fn wait(&mut self, token: Token) -> Result<Vec<Vec<u8>>, Error> {
        let known = self.finished.iter().position(|completion| completion.token == token);
        if let Some(completion) = known.and_then(|at| self.finished.remove(at)) {
            return outcome(completion);
        }
        loop {
            let completion = self.next_from_device();
            if completion.token == token {
                return outcome(completion);
            }
            self.finished.push_back(completion);
        }
    }

    fn next_from_device(&mut self) -> Completion {
        loop {
            if let Some(completion) = self.blocks.poll() {
                return completion;
            }
            self.blocks.relax();
        }
    }
}

/// The buffers of a finished request, or why it failed.
///
/// # Errors
/// The device's.
pub fn outcome(completion: Completion) -> Result<Vec<Vec<u8>>, Error> {
    let Completion { request, result, .. } = completion;
    match result {
        Ok(()) => Ok(request.segments),
        Err(error) => Err(failure(request.disk, request.action, request.offset, error)),
    }
}

fn failure(disk: u32, action: Action, offset: u64, error: BlockError) -> Error {
    let disk = DiskId(disk);
    match (action, error) {
        (Action::Read, BlockError::Io) => Error::Read(ReadError::Io { disk, offset }),
        (Action::Read, _) => Error::Read(ReadError::Device { disk, offset }),
        (_, BlockError::Io) => Error::Write(WriteError::Io { disk, offset }),
        (_, _) => Error::Write(WriteError::Device { disk, offset }),
    }
}
