//! Describes an image.
#![no_std]
#![no_main]

instar_kernel::main!(instar_parsers::ops::info);
