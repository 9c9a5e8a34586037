//! Disk-image formats, the operations on them, and the mover.
//!
//! The life of a job's data: [`store`] reads metadata through a lane's queues under a [`store::Budget`];
//! [`detect`] tells the format of a layer; a format's folder checks its header and answers one
//! question, [`image::Image::map`]; [`image::Chain`] resolves the layers; [`ops`] walk over that one
//! description. Nothing here knows the kernel: operations are generic over `instar_io`'s traits.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]

extern crate alloc;

pub mod align;
pub mod codec;
pub mod detect;
pub mod image;
pub mod luks;
pub mod mover;
pub mod ops;
pub mod parallels;
pub mod partition;
pub mod plan;
pub mod qcow;
pub mod qcow2;
pub mod qed;
pub mod raw;
pub mod store;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;

#[cfg(test)]
pub mod testing;
