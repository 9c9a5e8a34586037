//! Replies to text: everything the user reads is made here.
//!
//! A reply is hostile data. [`report::Collector`] takes its frames and gives a [`report::Report`],
//! whose existence proves that its shape is sound; [`info`] makes of it, and of what the host itself
//! knows ([`image_file::ImageFile`]), either qemu-img's lines ([`human`]) or its JSON ([`json`]),
//! byte for byte. Failures are numbers until [`errors`] words them.
#![forbid(unsafe_code)]

pub mod bar;
pub mod check;
pub mod errors;
pub mod escape;
pub mod human;
pub mod image_file;
pub mod info;
pub mod json;
pub mod map;
pub mod progress;
pub mod qdict;
pub mod report;
pub mod size;
pub mod zone;

#[cfg(test)]
mod tests;
