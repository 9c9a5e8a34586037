//! The processor: the ring-0 stub, ports, and how a guest ends.
//!
//! Everything else in the guest runs in ring 3. What ring 3 needs from ring 0 after boot is one
//! software interrupt that loads the page tables, once.

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
pub mod start_info;
