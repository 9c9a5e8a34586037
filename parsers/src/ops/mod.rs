//! The operations: `fn op<E: Env>(request: &Request, env: &mut E) -> Result<End, Error>`.
//!
//! An operation sends the frames of its result itself and returns how it ended; the caller sends that as
//! the last frame.

mod convert;
mod info;
mod reply;

pub use convert::{convert, convert_full};
pub use info::info;
pub use reply::Reply;
