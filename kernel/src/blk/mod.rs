//! Block queues over virtio-drivers' split virtqueue: deep, batched, polled.

mod device;
mod lane;
mod queue;

pub use device::Device;
pub use lane::Lane;
pub use queue::{Chains, Finished, Queue, Refused};
