//! Every limit that the launcher sets, in one place.
#![forbid(unsafe_code)]

use instar_abi::request::Budget;
use std::time::Duration;

pub use crate::machine::Limits;

/// Info answers in milliseconds. 24 MiB of reply: 65,536 snapshots with names of 255 bytes.
pub const INFO: Limits = Limits {
    memory_len: 128 << 20,
    reply_len: 24 << 20,
    time: Duration::from_secs(10),
    largest_file: None,
    large_pages: false,
};

/// Convert replies with progress and needs only. 256 MiB of memory hold the buffers of eight lanes and
/// the metadata caches; a day is longer than any honest copy.
pub const CONVERT: Limits = Limits {
    memory_len: 256 << 20,
    reply_len: 8 << 20,
    time: Duration::from_secs(24 * 3600),
    largest_file: Some(OUTPUT_CAPACITY),
    large_pages: true,
};

/// What only reads. A reply is printed as it comes: 64 GiB tell of every cluster of a disk of hundreds of TiB.
pub const READ: Limits = Limits {
    memory_len: 256 << 20,
    reply_len: 64 << 30,
    time: Duration::from_secs(24 * 3600),
    largest_file: None,
    large_pages: false,
};

/// What images may make info use up: 64 MiB of metadata, as a service in front of users allows.
pub const INFO_BUDGET: Budget = Budget { heap_bytes: 64 << 20, read_bytes: 64 << 20, steps: 1 << 22, depth: 1 };

/// What an image may make check use up. It counts the tables it reads by a rule of its own, and knows those that it has met before.
pub const CHECK_BUDGET: Budget =
    Budget { heap_bytes: 128 << 20, read_bytes: READ_MAX, steps: u64::MAX, depth: DEPTH_LIMIT };

/// Bytes of tables that a walk along a disk may read, however long the files are: those of a fragmented image of tens of TiB.
const READ_MAX: u64 = 64 << 30;
/// Bytes of tables that a walk may read of the shortest files.
const READ_MIN: u64 = 64 << 20;
/// The same for each byte of the files that have tables. A table is read once, in windows of which it may fill an eighth.
const READ_PER_BYTE: u64 = 32;

/// Steps of a walk along the shortest files.
const STEPS_MIN: u64 = 8 << 20;
/// The same for each byte of the files that have tables. An entry is at least four bytes, and costs at most seven steps; the
/// stricter comparison goes along twice.
const STEPS_PER_BYTE: u64 = 4;

/// What images may make operations use up that go along a disk: map, measure, compare, convert, dd.
///
/// Such a walk goes through the entries of tables, each once. So it costs what there are of tables in the files, whatever
/// the virtual size is; it costs more only where entries lead to the same tables again and again, as those of no honest
/// image do. `tables_len`: bytes of all files that may hold tables.
#[must_use]
pub fn walk_budget(tables_len: u64) -> Budget {
    let at_most = |min: u64, per_byte: u64| tables_len.saturating_mul(per_byte).saturating_add(min);
    let read_bytes = at_most(READ_MIN, READ_PER_BYTE).min(READ_MAX);
    Budget { heap_bytes: 128 << 20, read_bytes, steps: at_most(STEPS_MIN, STEPS_PER_BYTE), depth: DEPTH_LIMIT }
}

/// Layers of a chain unless configured otherwise.
pub const DEPTH_MAX: u32 = 16;
/// Layers of a chain that a configuration can ask for.
pub const DEPTH_LIMIT: u32 = 64;
/// Files of a job unless configured otherwise, each layer, data file and extent counted.
pub const FILES_MAX: usize = 256;

/// Most names that a run may ask for: the gate is to say that there are too many, up to here.
pub const NEEDS_MAX: usize = 4 * FILES_MAX;

/// Most runs of one job: each answers what the one before asked for, one layer at least.
pub const RUNS_MAX: u32 = DEPTH_LIMIT * 2 + 1;

/// Capacity of an output: 1 EiB. The host does not know the virtual size, only the guest does; the
/// file system ends a run earlier.
pub const OUTPUT_CAPACITY: u64 = 1 << 60;

/// Most extents of a source that the request lists; beyond, its holes are unknown (ABI: `Disk::data`).
pub const HOST_EXTENTS_MAX: usize = 65_536;

/// `-S` when it is not given, as in qemu-img: 4 KiB.
pub const SPARSE_LEN: u32 = 4096;
/// Largest `-S`, as in qemu-img: 16 MiB.
pub const SPARSE_LEN_MAX: u32 = 16 << 20;
