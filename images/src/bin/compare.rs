//! Tells whether two disks have the same content.
#![no_std]
#![no_main]

instar_kernel::main!(instar_parsers::ops::compare);
