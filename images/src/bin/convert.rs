//! Copies the content of an image into a new one.
#![no_std]
#![no_main]

instar_kernel::main!(instar_parsers::ops::convert);
