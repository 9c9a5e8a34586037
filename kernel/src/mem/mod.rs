//! Memory: the heap, memory for devices, and what the machine has placed.

pub mod c_alloc;
mod dma;
mod heap;
mod placed;

pub use dma::Identity;
#[cfg(feature = "provoke")]
pub use dma::rings;
pub use heap::{exhausted, init, region};
pub use placed::placed;
