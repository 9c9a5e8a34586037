//! The processor: the ring-0 stub, ports, and how a guest ends.
//!
//! Everything else in the guest runs in ring 3 and never needs ring 0 again, but to die.

#[cfg(feature = "guest")]
pub(crate) mod entry;
pub mod epitaph;
#[cfg(feature = "guest")]
mod memory_functions;
pub(crate) mod port;
#[cfg(feature = "guest")]
pub(crate) mod prepare;
#[cfg(feature = "provoke")]
pub mod provoke;
pub(crate) mod sleep;
pub mod start_info;
