//! The built-in machine on KVM.
//!
//! One memory slot, no interrupt controller, no event descriptors: a guest that polls needs neither,
//! and each costs milliseconds at the end of the process. A lane's queues are served on the thread
//! of its own vCPU, the whole ring per exit, straight between guest memory and the disk.
//!
//! ```text
//! elf      the op image, checked       memory   guest memory: volatile copies, vectored file I/O
//! block    virtio-blk requests         queue    queues of one lane, adopted at the doorbell
//! registers a device's registers       mmio, pci where they lie on other machines' buses
//! strict   disks as others show them   vcpu     state at entry and the exit loop
//! processor  what guests see of theirs
//! shared   what vCPUs share            sandbox  what the process gives up before it
//! run      one run, start to end
//! process  fork, signals, descriptors
//! ```
//!
//! For machines that other programs make: `vhost_user` serves the same disks over sockets, `outside` starts and ends
//! such a program, `memory_file` is the memory of its guest, and `guardian` cleans up behind a launcher that was killed.
//!
//! This is the only room of the launcher with unsafe code.

pub mod block;
pub mod elf;
pub mod guardian;
pub mod memory;
pub mod memory_file;
pub mod mmio;
pub mod outside;
pub mod pci;
pub mod process;
pub mod processor;
pub mod queue;
pub mod registers;
pub mod run;
pub mod sandbox;
pub mod shared;
pub mod strict;
pub mod vcpu;
pub mod vhost_user;
