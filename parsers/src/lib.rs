//! Disk-image formats, the operations on them, and the mover.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
