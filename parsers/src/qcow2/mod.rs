//! qcow2, versions 2 and 3.
//!
//! ```text
//! cluster 0   header | extensions | backing file name
//! …           L1 table ──> L2 tables ──> data clusters (here, or in the external data file)
//!             refcount table ──> refcount blocks: a count for every cluster of the file
//!             snapshot table ──> an L1 table each
//!             bitmap directory ──> bitmap tables ──> bitmaps
//!             LUKS header and key slots
//! ```
//!
//! `wire` has the bytes, [`Header`] and [`Extensions`] what opens, [`Qcow2`] maps, and `facts` tells what
//! `info` shows. Bytes past the end of the file read as zeros in every table, as in QEMU; an L2 table or a
//! data cluster that starts past it is an error, unlike in QEMU, which reads zeros without a word.

mod bitmap;
mod check;
pub mod create;
mod extensions;
mod facts;
mod header;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
mod l2;
mod limits;
mod map;
mod refcount;
mod snapshot;
pub mod wire;

pub use bitmap::Bitmap;
pub use check::check;
pub use extensions::{BitmapsPlace, CryptoPlace, Extensions};
pub use facts::facts;
pub use header::{Crypt, Header, TablePlace};
pub use l2::{L2Entry, L2Mapping, Subcluster};
pub use map::Qcow2;
pub use refcount::Refcounts;
pub use snapshot::{Snapshot, Snapshots};

#[cfg(test)]
mod tests;
