//! Codecs of clusters. Decoding gives exactly one cluster or a typed error, whatever the stream holds.
//!
//! | | deflate | Zstandard |
//! |---|---|---|
//! | [`Codecs::SMALL`] | decodes | decodes, in small code |
//! | [`Codecs::FULL`] | decodes, encodes | decodes, encodes |
//!
//! An op image links what its set names and nothing else: the full set does not fit an ordinary image (ADR 0009).

mod deflate;
mod encode;
mod noise;
mod zstd;
mod zstd_full;

pub use encode::Encoder;

use crate::image::Codec;
use alloc::boxed::Box;
use instar_abi::error::CodecError;
use instar_abi::request::Compression;

/// Window that a frame of Zstandard may ask for: 8 MiB is what RFC 8878 wants every decoder to support; clusters have at
/// most 2.
const ZSTD_WINDOW_LEN_MAX: u64 = 8 << 20;

/// What an op image can do with clusters.
#[derive(Clone, Copy, Debug)]
pub struct Codecs {
    zstd: fn() -> Box<dyn Decode>,
    encoder: Option<fn(Compression) -> Encoder>,
}

impl Codecs {
    /// Decoders only.
    pub const SMALL: Self = Self { zstd: || Box::<zstd::Zstd>::default(), encoder: None };
    /// Every codec, both ways.
    pub const FULL: Self = Self {
        zstd: || Box::<zstd_full::Decoder>::default(),
        encoder: Some(|compression| match compression {
            Compression::Zlib => Encoder::new(deflate::Encoder::default()),
            Compression::Zstd => Encoder::new(zstd_full::Encoder::default()),
        }),
    };

    /// A lane's decoders.
    #[must_use]
    pub fn decoder(&self) -> Decoder {
        Decoder { new_zstd: self.zstd, deflate: deflate::Decoder::raw(), zlib: deflate::Decoder::zlib(), zstd: None }
    }

    /// Whether there are encoders.
    #[must_use]
    pub const fn can_encode(&self) -> bool {
        self.encoder.is_some()
    }

    /// A lane's encoder; one that leaves every cluster as it is for `None`, or where the set has none.
    #[must_use]
    pub fn encoder(&self, compression: Option<Compression>) -> Encoder {
        self.encoder.zip(compression).map_or_else(Encoder::default, |(encoder, compression)| encoder(compression))
    }
}

/// One codec's way back to a cluster.
trait Decode {
    /// Fills `cluster` from a stream that may end before its bytes do.
    fn decode(&mut self, stream: &[u8], cluster: &mut [u8]) -> Result<(), CodecError>;
}

/// A lane's decoders; each is made when its first stream comes, and its memory is kept from cluster to cluster.
pub struct Decoder {
    new_zstd: fn() -> Box<dyn Decode>,
    deflate: deflate::Decoder,
    zlib: deflate::Decoder,
    zstd: Option<Box<dyn Decode>>,
}

impl Decoder {
    /// Fills `cluster` from a stream. What follows the stream is ignored: clusters share sectors.
    ///
    /// # Errors
    /// [`CodecError`]; `cluster` holds anything then.
    pub fn decode(&mut self, codec: Codec, stream: &[u8], cluster: &mut [u8]) -> Result<(), CodecError> {
        match codec {
            Codec::Deflate => self.deflate.decode(stream, cluster),
            Codec::Zlib => self.zlib.decode(stream, cluster),
            Codec::Zstd => self.zstd.get_or_insert_with(self.new_zstd).decode(stream, cluster),
        }
    }
}

#[cfg(test)]
mod tests;
