//! Codecs of clusters. Decoding gives exactly one cluster or a typed error, whatever the stream holds.

mod deflate;
mod encode;
mod zstd;

pub use encode::Encoder;

use crate::image::Codec;
use instar_abi::error::CodecError;

/// A lane's decoders; their memory is kept from cluster to cluster.
#[derive(Default)]
pub struct Decoder {
    zstd: zstd::Zstd,
}

impl Decoder {
    /// Fills `cluster` from a stream. What follows the stream is ignored: clusters share sectors.
    ///
    /// # Errors
    /// [`CodecError`]; `cluster` holds anything then.
    pub fn decode(&mut self, codec: Codec, stream: &[u8], cluster: &mut [u8]) -> Result<(), CodecError> {
        match codec {
            Codec::Deflate => deflate::decode(stream, cluster),
            Codec::Zstd => self.zstd.decode(stream, cluster),
        }
    }
}

#[cfg(test)]
mod tests;
