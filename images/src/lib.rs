//! Guest images; see `src/bin`.
#![no_std]
