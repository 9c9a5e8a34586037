//! A machine for tests: disks in memory or in files, one lane or several, with faults on purpose.

mod machine;
mod qemu;

pub use machine::{FakeLane, Fault, INFO, Machine, MemoryDisk, request};
pub use qemu::{qemu_img, qemu_io, scratch};
