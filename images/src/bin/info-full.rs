//! Describes an image and looks into its content, too.
#![no_std]
#![no_main]

instar_kernel::main!(instar_parsers::ops::info_full);
