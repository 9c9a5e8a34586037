//! The second reader: what an answer must be, worked out the slow way from the bytes alone.

pub mod bitmap;
pub mod check;
pub mod chs;
pub mod content;
pub mod detect;
pub mod place;
pub mod qcow2;
pub mod snapshot;
pub mod sums;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;
