//! Tells where the content of a disk is.
#![no_std]
#![no_main]

instar_kernel::main!(instar_parsers::ops::map);
