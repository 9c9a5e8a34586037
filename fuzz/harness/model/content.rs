//! The content of a qcow2 layer, sector by sector.

use super::qcow2::{Byte, lookup};
use crate::image::FuzzImage;
use instar_parsers::codec::{Codecs, Decoder};
use instar_parsers::qcow2::Header;

/// The smallest part of a disk that is all of one kind: a subcluster has 512 bytes at least.
pub const SECTOR_LEN: u64 = 512;

/// A sector of a layer.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and is looked at once")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sector {
    /// The layer below decides.
    Hole,
    /// These bytes.
    Bytes([u8; SECTOR_LEN as usize]),
    /// The image is broken here.
    Broken,
}

/// Reads a layer: the one place that decodes.
pub struct Layer<'a> {
    image: FuzzImage<'a>,
    header: &'a Header,
    data_file: Option<FuzzImage<'a>>,
    decoder: Decoder,
    decoded: Option<(u64, Option<Vec<u8>>)>, // by the cluster's place in the disk
}

impl<'a> Layer<'a> {
    /// A layer of these bytes, and of the external data file's where it has one.
    #[must_use]
    pub fn new(image: FuzzImage<'a>, header: &'a Header, data_file: Option<FuzzImage<'a>>) -> Self {
        Self { image, header, data_file, decoder: Codecs::SMALL.decoder(), decoded: None }
    }

    /// The sector at `at`, a multiple of 512.
    pub fn sector(&mut self, at: u64) -> Sector {
        let mut bytes = [0; SECTOR_LEN as usize];
        match lookup(&self.image, self.header, at) {
            Byte::Hole => return Sector::Hole,
            Byte::Broken => return Sector::Broken,
            Byte::Zero => {}
            Byte::Data(offset) => self.data_file.as_ref().unwrap_or(&self.image).fill(offset, &mut bytes),
            Byte::Compressed(offset, len) => {
                let cluster_size = u64::from(self.header.cluster_size());
                let start = at - at % cluster_size;
                if self.decoded.as_ref().is_none_or(|(decoded, _)| *decoded != start) {
                    self.decoded = Some((start, self.decode(offset, len)));
                }
                let Some((_, Some(cluster))) = &self.decoded else { return Sector::Broken };
                let within = (at - start) as usize;
                bytes.copy_from_slice(&cluster[within..][..SECTOR_LEN as usize]);
            }
        }
        Sector::Bytes(bytes)
    }

    /// What lies past the end of the file reads as zeros; a stream that starts there is none.
    fn decode(&mut self, offset: u64, len: u32) -> Option<Vec<u8>> {
        let mut stream = vec![0; len as usize];
        self.image.fill(offset, &mut stream);
        let mut cluster = vec![0; self.header.cluster_size() as usize];
        let decoded = self.decoder.decode(self.header.compression(), &stream, &mut cluster);
        (offset < self.image.len() && decoded.is_ok()).then_some(cluster)
    }
}
