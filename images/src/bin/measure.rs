//! Tells how large a new image would be.
#![no_std]
#![no_main]

instar_kernel::main!(instar_parsers::ops::measure);
