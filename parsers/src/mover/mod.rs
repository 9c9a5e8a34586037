//! The one data path: from a chain of layers to a new image.
//!
//! ```text
//! lane 0   take ▸ read ▸ decode ▸ zero test ▸ encode ▸ allocate ▸ write
//! lane 1          take ▸ read ▸ decode ▸ zero test ▸ encode ▸ allocate ▸ write
//! ```
//!
//! A stretch is up to [`STRETCH_UNITS`] units of the disk that hold data; what is zero is never
//! read. Lanes take stretches in the order of the disk from one [`Source`], and clusters are handed out in that order, so
//! that the output has the same bytes with any number of lanes. Each turn of a lane is one kick: the writes of one
//! stretch and the reads of the next.

mod buffers;
mod filling;
mod granules;
mod lane;
mod ledger;
mod loss;
mod progress;
mod salvage;
mod shared;
mod stretch;
mod target;
mod zero;

pub use buffers::Buffers;
pub use filling::{Filling, Slot};
pub use ledger::Ledger;
pub use loss::LOSSES_MAX;
pub use progress::Progress;
pub use shared::{Moved, run};
pub use stretch::{Mark, Piece, Source, Stretch, Wanted, Zeros};
pub use target::{Format, Target};
pub use zero::is_zero;

/// A unit: buffer and alignment of a stretch, 64 KiB. A target's clusters may be smaller or larger.
pub const UNIT: u64 = 64 << 10;
/// Most units of a stretch: 1 MiB, or one cluster where a larger one is compressed. Twice as much was no faster, half as
/// much costs an exit too many.
pub const STRETCH_UNITS: usize = 16;
/// Stretches that a lane has in flight at a time where devices work meanwhile; else one, which is there with the kick.
pub const STRETCHES_AHEAD: usize = 4;
/// Buffers of a lane for each stretch in flight, beside those that wait for clusters: one is read, one is written.
pub const BUFFERS_MAX: usize = 2 * STRETCH_UNITS;
/// Stretches of all lanes that may wait for clusters: 8 MiB.
pub const WAITING_MAX: usize = 8;
/// Runs of zeros are looked for in blocks of this many bytes, or of a sector where less is asked for.
pub const ZERO_BLOCK: usize = 4096;
