//! The launcher: command line to job to machine to text.

pub mod disk;
pub mod gate;
pub mod job;
pub mod machine;
pub mod render;
pub mod vmm;
