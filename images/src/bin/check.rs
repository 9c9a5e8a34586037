//! Tells what is wrong with the metadata of an image.
#![no_std]
#![no_main]

instar_kernel::main!(instar_parsers::ops::check);
