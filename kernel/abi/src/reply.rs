//! The reply: frames that the guest writes to the control device.
//!
//! Each write holds whole frames and is padded with zeros to a sector; each starts where the one
//! before ended. A frame is a 4-byte little-endian payload length, the payload's CRC-32, and the payload:
//! `postcard` of a [`Frame`]. A length of zero ends the write. The last frame is [`Frame::End`];
//! a run without it has crashed.

use crate::check::{Checked, Finding};
use crate::control::{FRAME_LEN_MAX, SECTOR_LEN};
use crate::error::Error;
use crate::facts;
use crate::request::{DiskId, LayerId, NeedKind};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// One message of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The facts of the image that info describes.
    Image(facts::Image),
    /// More of its snapshots, in table order.
    Snapshots(Vec<facts::Snapshot>),
    /// More of its format-specific facts; a tree may go on in the next frame.
    Specific(Vec<facts::Node>),
    /// More of what only we tell of it, where that was asked for; after all of its specific facts.
    Details(Vec<facts::Node>),
    /// Work done so far, of a total; never more than the total, never less than before.
    Progress {
        /// Done, in units of the operation's own.
        done: u64,
        /// All of it.
        total: u64,
    },
    /// Content that could not be read and is zeros in the output, in any order.
    Unreadable(Vec<Unreadable>),
    /// Ranges that the launcher is to copy from disk to disk. The write of the reply completes when it has; it fails
    /// when it can't, and nothing is known of the ranges then.
    Copy(Vec<CopyRange>),
    /// The part that is to be copied begins past the end of the sources: there is nothing to copy.
    PastEnd,
    /// More names that the job needs. Comes before anything was written.
    Needs(Vec<Need>),
    /// More of what map tells, ascending and without gaps.
    Extents(Vec<MapExtent>),
    /// What measure found.
    Measured(Measured),
    /// What compare found.
    Compared(Compared),
    /// More of what check found, in its order; at most [`crate::check::FINDINGS_MAX`].
    Findings(Vec<Finding>),
    /// How a check came out; after all findings.
    Checked(Checked),
    /// The last frame.
    End(End),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Everything is done and flushed.
    Done {
        /// Final length of each disk written, in bytes.
        lengths: Vec<FinalLength>,
    },
    /// Nothing was written; run again with what the [`Frame::Needs`] frames named.
    NeedsMore,
    /// Nothing was written; run again in the op's image with every codec: this one would do it, but slowly.
    NeedsFull,
    /// The operation failed.
    Failed(Error),
}

/// A run of a disk as map tells of it, in the words of QEMU's block status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapExtent {
    /// First byte in the disk.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// How deep the layer that it is of lies below the top.
    pub depth: u32,
    /// A layer has it; else no layer of the chain does, and it reads as zeros.
    pub is_present: bool,
    /// It reads as zeros.
    pub is_zero: bool,
    /// There are clusters for it that hold content, as far as the format knows.
    pub is_data: bool,
    /// It is compressed.
    pub is_compressed: bool,
    /// Where its bytes are, as they are.
    pub at: Option<DiskOffset>,
}

/// A byte of a disk of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskOffset {
    /// The disk.
    pub disk: DiskId,
    /// The byte.
    pub offset: u64,
}

/// The size of an image to be made, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// With the content that there is.
    pub required: u64,
    /// With content everywhere.
    pub fully_allocated: u64,
    /// What the bitmaps of the source would add; `None`: they can't be copied.
    pub bitmaps: Option<u64>,
}

/// How a comparison came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// The first difference.
    pub difference: Option<Difference>,
    /// The virtual sizes differ, and what both disks have is the same: a difference is in the rest of the longer one.
    pub past_common: bool,
}

/// A difference between two disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Difference {
    /// Their virtual sizes.
    Size,
    /// How they are allocated, at this byte.
    Allocation(u64),
    /// Their content, in the sector that starts at this byte.
    Content(u64),
}

/// Content that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// First byte in the disk of the source that it is of.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// A range to be copied, in whole sectors; ranges of one frame do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRange {
    /// The disk to read.
    pub from: DiskId,
    /// First byte there.
    pub from_offset: u64,
    /// The output.
    pub to: DiskId,
    /// First byte there.
    pub to_offset: u64,
    /// Bytes.
    pub len: u64,
}

/// The exact length an output is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalLength {
    /// The output.
    pub disk: DiskId,
    /// Bytes, at most the output's capacity.
    pub len: u64,
}

/// A name that an image holds and the job can't go on without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The layer that names it.
    pub layer: LayerId,
    /// What it is to that layer.
    pub kind: NeedKind,
    /// The name, the image's own bytes.
    pub name: Vec<u8>,
    /// The format recorded with it, the image's own bytes.
    pub format: Option<Vec<u8>>,
}

/// Bytes before each payload.
pub const FRAME_HEADER_LEN: usize = 8;

/// CRC-32 as zlib has it, by a table of 1 KiB: a larger one is faster only for long frames.
static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// Why a frame can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// More than [`FRAME_LEN_MAX`] bytes.
    FrameLen,
}

/// Appends one frame to `batch`.
///
/// # Errors
/// [`EncodeError::FrameLen`]; `batch` is as before then.
pub fn encode_frame(frame: &Frame, batch: &mut Vec<u8>) -> Result<(), EncodeError> {
    let payload = postcard::to_allocvec(frame).map_err(|_| EncodeError::FrameLen)?;
    let len = u32::try_from(payload.len()).map_err(|_| EncodeError::FrameLen)?;
    if len > FRAME_LEN_MAX {
        return Err(EncodeError::FrameLen);
    }
    batch.extend_from_slice(&len.to_le_bytes());
    batch.extend_from_slice(&CRC.checksum(&payload).to_le_bytes());
    batch.extend_from_slice(&payload);
    Ok(())
}

/// Pads a batch of frames with zeros to whole sectors, ready to be written.
pub fn pad_batch(batch: &mut Vec<u8>) {
    batch.resize(batch.len().next_multiple_of(SECTOR_LEN as usize), 0);
}

/// Why bytes are no batch of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A frame runs past the write, or is longer than [`FRAME_LEN_MAX`].
    Len {
        /// What its header says.
        found: u32,
    },
    /// The payload's checksum differs.
    Checksum,
    /// The payload is no [`Frame`], or bytes follow it.
    Encoding,
    /// Something other than zeros follows the last frame of a write.
    Padding,
}

/// Decodes the frames of one write, handing each to `sink`.
///
/// # Errors
/// The first fault; frames before it have been handed over.
pub fn decode_batch(mut batch: &[u8], mut sink: impl FnMut(Frame)) -> Result<(), FrameError> {
    while let Some((header, rest)) = batch.split_first_chunk::<FRAME_HEADER_LEN>() {
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len == 0 {
            break;
        }
        let (payload, rest) = usize::try_from(len)
            .ok()
            .filter(|_| len <= FRAME_LEN_MAX)
            .and_then(|len| rest.split_at_checked(len))
            .ok_or(FrameError::Len { found: len })?;
        if CRC.checksum(payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(FrameError::Checksum);
        }
        let (frame, trailing) = postcard::take_from_bytes::<Frame>(payload).map_err(|_| FrameError::Encoding)?;
        if !trailing.is_empty() {
            return Err(FrameError::Encoding);
        }
        sink(frame);
        batch = rest;
    }
    if batch.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(FrameError::Padding) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn decode(batch: &[u8]) -> (Vec<Frame>, Result<(), FrameError>) {
        let mut frames = Vec::new();
        let result = decode_batch(batch, |frame| frames.push(frame));
        (frames, result)
    }

    #[test]
    fn a_progress_frame_has_golden_bytes() {
        let mut batch = Vec::new();
        encode_frame(&Frame::Progress { done: 1, total: 300 }, &mut batch).expect("short");
        assert_eq!(batch[..4], [4, 0, 0, 0]);
        assert_eq!(batch[8..], [4, 1, 0xAC, 0x02]);
        pad_batch(&mut batch);
        assert_eq!(batch.len(), 512);
        assert_eq!(decode(&batch), (vec![Frame::Progress { done: 1, total: 300 }], Ok(())));
    }

    #[test]
    fn every_single_byte_change_of_a_batch_is_noticed() {
        let mut batch = Vec::new();
        encode_frame(&Frame::End(End::NeedsMore), &mut batch).expect("short");
        encode_frame(&Frame::Progress { done: 7, total: 7 }, &mut batch).expect("short");
        pad_batch(&mut batch);
        for index in 0..batch.len() {
            let mut bent = batch.clone();
            bent[index] ^= 0x40;
            assert!(decode(&bent).1.is_err(), "byte {index}");
        }
    }

    #[test]
    fn a_frame_past_the_limit_is_refused_on_both_sides() {
        let frame = Frame::Specific(vec![facts::Node {
            depth: 0,
            key: vec![],
            value: facts::Value::Text(vec![b'x'; FRAME_LEN_MAX as usize]),
        }]);
        let mut batch = Vec::new();
        assert_eq!(encode_frame(&frame, &mut batch), Err(EncodeError::FrameLen));
        assert!(batch.is_empty());
        let mut long = (FRAME_LEN_MAX + 1).to_le_bytes().to_vec();
        long.resize(FRAME_LEN_MAX as usize + 64, 1);
        assert_eq!(decode(&long).1, Err(FrameError::Len { found: FRAME_LEN_MAX + 1 }));
    }
}
