//! A run of a disk, and where its bytes are.

use instar_abi::request::DiskId;

/// How a cluster is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// A raw deflate stream.
    Deflate,
    /// A deflate stream with zlib's header and checksum.
    Zlib,
    /// A Zstandard frame.
    Zstd,
}

/// What a run of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes as they are, from `offset` of a disk of the job. What lies past that disk's end is zero.
    Data {
        /// The disk.
        disk: DiskId,
        /// First byte.
        offset: u64,
    },
    /// Reads as zeros.
    Zero,
    /// Nothing at this layer: the layer below decides; without one it reads as zeros.
    Hole,
    /// No content, but a place for it: zeros where it hides what is below, else as a hole. [`Chain`](super::Chain) makes
    /// either of it.
    Reserved {
        /// The disk.
        disk: DiskId,
        /// First byte of the place.
        offset: u64,
        /// It reads as zeros.
        hides: bool,
    },
    /// A part of a compressed cluster.
    Encoded {
        /// The disk.
        disk: DiskId,
        /// First byte of the stream.
        offset: u64,
        /// Bytes that hold the stream; it may end before.
        len: u32,
        /// Zeros that follow them: what the image says there is, and lies past its end.
        padding: u32,
        /// How it is compressed.
        codec: Codec,
        /// Bytes of the whole cluster, decoded.
        cluster_size: u32,
        /// Where in the decoded cluster the extent starts.
        skip: u32,
    },
}

/// A run of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the disk.
    pub start: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// What it is.
    pub kind: Kind,
}

impl Extent {
    /// The first byte after it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// The first `len` bytes, and the rest, which is not empty; `None` for a rest where there is none.
    #[must_use]
    pub fn split(self, len: u64) -> (Self, Option<Self>) {
        let Some(rest) = self.len.checked_sub(len).filter(|rest| *rest > 0) else { return (self, None) };
        let kind = match self.kind {
            Kind::Data { disk, offset } => Kind::Data { disk, offset: offset.saturating_add(len) },
            Kind::Reserved { disk, offset, hides } => {
                Kind::Reserved { disk, offset: offset.saturating_add(len), hides }
            }
            Kind::Encoded { disk, offset, len: stream_len, padding, codec, cluster_size, skip } => {
                let skip = u64::from(skip).saturating_add(len);
                let skip = u32::try_from(skip).unwrap_or(u32::MAX);
                Kind::Encoded { disk, offset, len: stream_len, padding, codec, cluster_size, skip }
            }
            kind @ (Kind::Zero | Kind::Hole) => kind,
        };
        (Self { len, ..self }, Some(Self { start: self.start.saturating_add(len), len: rest, kind }))
    }

    /// What it reads as, without the place where there is no content.
    #[must_use]
    pub const fn as_read(self) -> Self {
        let kind = match self.kind {
            Kind::Reserved { hides: true, .. } => Kind::Zero,
            Kind::Reserved { hides: false, .. } => Kind::Hole,
            kind => kind,
        };
        Self { kind, ..self }
    }

    /// Takes `next` in when it continues this extent; whether it did.
    pub fn merge(&mut self, next: &Self) -> bool {
        let continues = match (self.kind, next.kind) {
            (Kind::Data { disk, offset }, Kind::Data { disk: next_disk, offset: next_offset }) => {
                disk == next_disk && offset.checked_add(self.len) == Some(next_offset)
            }
            (
                Kind::Reserved { disk, offset, hides },
                Kind::Reserved { disk: next_disk, offset: next_offset, hides: next_hides },
            ) => (disk, hides) == (next_disk, next_hides) && offset.checked_add(self.len) == Some(next_offset),
            (Kind::Zero, Kind::Zero) | (Kind::Hole, Kind::Hole) => true,
            _ => false,
        };
        let joined = continues && self.end() == next.start;
        if joined {
            self.len = self.len.saturating_add(next.len);
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_split_merges_again_but_for_compressed_clusters() {
        let disk = DiskId(3);
        let encoded = |skip| {
            let (codec, cluster_size) = (Codec::Zstd, 65536);
            Kind::Encoded { disk, offset: 77, len: 512, padding: 0, codec, cluster_size, skip }
        };
        for (kind, merges) in [
            (Kind::Data { disk, offset: 4096 }, true),
            (Kind::Reserved { disk, offset: 4096, hides: true }, true),
            (Kind::Zero, true),
            (Kind::Hole, true),
            (encoded(100), false),
        ] {
            let whole = Extent { start: 1000, len: 300, kind };
            for at in [1, 100, 299] {
                let (mut head, tail) = whole.split(at);
                let tail = tail.expect("a rest");
                assert_eq!((head.end(), tail.end(), tail.len), (1000 + at, 1300, 300 - at));
                assert_eq!(head.merge(&tail), merges);
                assert!(!merges || head == whole);
            }
            assert_eq!(whole.split(300), (whole, None));
            assert_eq!(whole.split(301), (whole, None));
        }
        let (_, tail) = Extent { start: 0, len: 10, kind: encoded(5) }.split(4);
        assert_eq!(tail.map(|tail| tail.kind), Some(encoded(9)));
    }
}
