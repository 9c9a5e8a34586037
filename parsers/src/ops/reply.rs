//! Frames on their way to the launcher, as few writes as can be.

use alloc::vec::Vec;
use instar_abi::error::{Error, Resource};
use instar_abi::reply::{Frame, encode_frame, pad_batch};
use instar_io::Env;

/// Frames are collected up to this many bytes; each write is an exit.
const BATCH_LEN: usize = 256 << 10;

/// Collects frames; [`Reply::flush`] sends what is left.
#[derive(Default)]
pub struct Reply {
    batch: Vec<u8>,
}

impl Reply {
    /// Adds a frame, and sends what is there when it is much.
    ///
    /// # Errors
    /// [`Resource::Reply`]: the frame is too long, or the launcher takes no more.
    pub fn push<E: Env>(&mut self, env: &mut E, frame: &Frame) -> Result<(), Error> {
        encode_frame(frame, &mut self.batch).map_err(|_| Error::OutOfBudget(Resource::Reply))?;
        if self.batch.len() >= BATCH_LEN { self.flush(env) } else { Ok(()) }
    }

    /// Sends what is there.
    ///
    /// # Errors
    /// [`Resource::Reply`]: the launcher takes no more.
    pub fn flush<E: Env>(&mut self, env: &mut E) -> Result<(), Error> {
        let mut batch = core::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        pad_batch(&mut batch);
        env.reply(batch).map_err(|_| Error::OutOfBudget(Resource::Reply))
    }
}
