//! The launcher: command line to job to machine to text.

pub mod cli;
pub mod disk;
pub mod doctor;
pub mod gate;
pub mod job;
pub mod machine;
pub mod render;
pub mod vmm;
