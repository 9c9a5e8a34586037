//! LUKS version 1 headers, as files of their own and inside qcow2: facts, no key derivation.
//!
//! ```text
//! 0      header, 592 bytes with 8 key slots
//! 4096   key material of each slot: key bytes × 4000 stripes
//! …      payload
//! ```

mod check;
mod header;
mod wire;

pub use check::check;
pub use header::{Header, Slot, header_len};
