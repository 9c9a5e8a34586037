//! Copies the content of an image into a new one, with every codec.
#![no_std]
#![no_main]

instar_kernel::main!(instar_parsers::ops::convert_full);
