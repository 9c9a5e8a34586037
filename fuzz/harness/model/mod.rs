//! The second reader: what an answer must be, worked out the slow way from the bytes alone.

pub mod check;
pub mod content;
pub mod detect;
pub mod qcow2;
