//! Everything that guest and launcher agree on, and nothing else.
//!
//! A job's life in types: the launcher lays out guest memory by [`layout`], puts a
//! [`control::Header`] and a [`request::Request`] on the control device, and boots the
//! op. The guest answers with [`reply::Frame`]s, the last of which is [`reply::End`]. A guest
//! that can't answer leaves an [`epitaph::Epitaph`]. Failures are [`error::Error`]: numbers here,
//! prose only in the launcher.
//!
//! Both sides are built from the same sources: [`BUILD_ID`] is a hash over this crate, carried in
//! every guest image's ELF note and in every control header, and compared both ways.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod check;
pub mod control;
pub mod epitaph;
pub mod error;
pub mod facts;
pub mod format;
pub mod layout;
pub mod reply;
pub mod request;
pub mod table;

/// SHA-256 over the sources of this crate: equal on both sides or the job is refused.
pub const BUILD_ID: [u8; 32] = include!(concat!(env!("OUT_DIR"), "/build_id.rs"));
