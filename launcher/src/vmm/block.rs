//! One virtio-blk request: from a descriptor chain to the disk and back.
//!
//! Every number in it is the guest's. A request that is well-formed but wrong (past the end, a write
//! to a read-only disk, a type nobody knows) is answered with an error status, as a device would.
//! A chain that is not well-formed ends the run.

use super::memory::{GuestSegments, Memory};
use crate::disk::{Disk, Segments};
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

/// How a guest broke the contract of its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestFault {
    /// A doorbell, register or port for a device that does not exist.
    NoSuchDevice {
        /// What it named.
        index: u32,
    },
    /// Queue registers that can't be: sizes, addresses outside memory.
    QueueSetup {
        /// The device.
        device: u32,
    },
    /// An available ring that says more than it can hold, or lies outside memory by now.
    Ring {
        /// The device.
        device: u32,
    },
    /// A descriptor chain without header or status, in the wrong order, or outside memory.
    Chain {
        /// The device.
        device: u32,
    },
    /// A register that is not accessed in this width, or whose turn it is not: strict machines mind.
    Register {
        /// Where it lies.
        address: u64,
    },
    /// A lane that does not exist or already runs.
    Lane {
        /// What it named.
        index: u32,
    },
}

/// How long a chain of descriptors may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chains {
    /// As long as the queue, or as its table of descriptors.
    Any,
    /// One data descriptor, as the narrowest machines take.
    OneSegment,
}

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;

const STATUS_OK: u8 = 0;
const STATUS_IO_ERROR: u8 = 1;
const STATUS_UNSUPPORTED: u8 = 2;

/// Bytes of `virtio_blk_req` before the data.
const HEADER_LEN: u32 = 16;

/// Serves one chain and returns how many bytes of it were written.
///
/// # Errors
/// The chain is not well-formed.
pub fn serve(
    device: u32,
    mut chain: DescriptorChain<&GuestMemoryMmap>,
    disk: &dyn Disk,
    chains: Chains,
    memory: &Memory,
) -> Result<u32, GuestFault> {
    let bad = GuestFault::Chain { device };
    let header = chain.next().filter(|d| !d.is_write_only() && d.len() == HEADER_LEN).ok_or(bad)?;
    let header: [u8; HEADER_LEN as usize] = memory.read(header.addr().0).map_err(|_| bad)?;
    let [k0, k1, k2, k3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    let kind = u32::from_le_bytes([k0, k1, k2, k3]);
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);

    let mut segments = GuestSegments::default();
    let mut last = chain.next().ok_or(bad)?;
    for next in chain.by_ref() {
        // Data of a read is written by the device, data of a write is not; the status always is.
        if last.is_write_only() != (kind == READ) {
            return Err(bad);
        }
        segments.push(memory.segment(last.addr().0, last.len()).map_err(|_| bad)?);
        last = next;
    }
    if chains == Chains::OneSegment && segments.count() > 1 {
        return Err(bad);
    }
    // The chain's iterator also ends at a descriptor that points nowhere; then `last` still has a successor.
    if last.has_next() || !last.is_write_only() || last.len() != 1 {
        return Err(bad);
    }
    memory.segment(last.addr().0, last.len()).map_err(|_| bad)?;
    let (status, data_written) = perform(kind, sector, &mut segments, disk);
    memory.write(last.addr().0, &[status]).map_err(|_| bad)?;
    Ok(data_written + 1)
}

/// Does what the request asks; returns its status and the bytes of data the device has written.
fn perform(kind: u32, sector: u64, segments: &mut GuestSegments<'_>, disk: &dyn Disk) -> (u8, u32) {
    let len = segments.len();
    let in_range = sector
        .checked_mul(512)
        .filter(|_| len.is_multiple_of(512) && sector.checked_add(len / 512).is_some_and(|end| end <= disk.sectors()));
    let result = match (kind, in_range) {
        (READ, Some(offset)) => disk.read(offset, segments),
        (WRITE, Some(offset)) if !disk.read_only() => disk.write(offset, segments),
        (FLUSH, _) if len == 0 => disk.flush(),
        (READ | WRITE | FLUSH, _) => return (STATUS_IO_ERROR, 0),
        _ => return (STATUS_UNSUPPORTED, 0),
    };
    match result {
        Ok(()) if kind == READ => (STATUS_OK, u32::try_from(len).unwrap_or(u32::MAX - 1)),
        Ok(()) => (STATUS_OK, 0),
        Err(_) => (STATUS_IO_ERROR, 0),
    }
}
