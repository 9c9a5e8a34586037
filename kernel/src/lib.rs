//! The guest kernel: from the PVH entry point to a running operation, and out again.
//!
//! [`main!`] makes an op image of an operation. The life of a run, in the order of the rooms:
//! `arch` enters ring 3 and reads what the machine tells; `mem` takes the heap; `bus` finds the devices; `blk` drives their queues; `mailbox` fetches the request
//! and sends the replies; `smp` runs more lanes. A guest that can't go on leaves an
//! epitaph (`death`).
//!
//! Unsafe code lives in `arch`, `bus`, `mem`, `blk` and `smp`, behind safe functions.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod arch;
pub mod blk;
pub mod bus;
pub mod command_line;
pub mod death;
pub mod machine;
pub mod mailbox;
pub mod mem;
pub mod smp;

#[cfg(feature = "guest")]
mod run;
#[cfg(feature = "guest")]
pub use run::run;

/// Makes an op image: `instar_kernel::main!(instar_parsers::ops::info)`.
///
/// The operation is a function `fn(&Request, &mut Machine) -> Result<End, Error>`, generic over `Env` or not.
#[macro_export]
macro_rules! main {
    ($operation:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn instar_main(start_info: u64) -> ! {
            $crate::run(start_info, |request, machine| $operation(request, machine))
        }
    };
}
