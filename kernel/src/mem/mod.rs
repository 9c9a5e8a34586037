//! Memory: the heap, and the rights of every page.

mod dma;
mod heap;
mod paging;
mod placed;

pub use dma::Identity;
pub use heap::{exhausted, extend, init, region};
#[cfg(feature = "guest")]
pub use paging::load;
pub use paging::{BadRange, Map, Rights, Tables};
pub use placed::placed;
