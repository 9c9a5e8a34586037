//! The launcher: command line to job to machine to text.

pub mod render;
