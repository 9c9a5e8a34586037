//! Raw deflate, both ways, as QEMU 10.0's `qcow2_zlib_compress` and `qcow2_zlib_decompress` do it.

use super::encode::Encode;
use super::noise::NoiseTest;
use alloc::boxed::Box;
use alloc::vec::Vec;
use instar_abi::error::CodecError;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush, Status, compress_bound};

/// log2 of the window in bytes: 4 KiB is what other readers of qcow2 promise to decode.
const WINDOW_BITS: u8 = 12;
/// The same as zlib-rs takes it for streams without a header: negative.
const RAW_WINDOW_BITS: i32 = -12;
/// The level whose matches zlib's default level, which is QEMU's, finds: zlib-rs leaves them out below it, and gives up to
/// 9 % more.
const LEVEL: i32 = 9;
/// Of streams whose header tells of their window.
const WINDOW_BITS_MAX: u8 = 15;
/// As QEMU: all the memory there can be.
const MEMORY_LEVEL: i32 = 9;

/// A decoder, made when the first stream comes.
pub struct Decoder {
    inflate: Option<Box<Inflate>>,
    /// Whether streams have zlib's header.
    has_header: bool,
}

impl Decoder {
    /// For raw deflate.
    pub const fn raw() -> Self {
        Self { inflate: None, has_header: false }
    }

    /// For streams with zlib's header and checksum.
    pub const fn zlib() -> Self {
        Self { inflate: None, has_header: true }
    }

    /// Fills `cluster`. What the stream holds beyond it does not matter, nor whether it ends; distances may reach back
    /// to the cluster's start, whatever the window, as zlib has it for a stream that is decoded in one call.
    pub fn decode(&mut self, stream: &[u8], cluster: &mut [u8]) -> Result<(), CodecError> {
        let inflate = match &mut self.inflate {
            Some(inflate) => {
                inflate.reset(self.has_header);
                inflate
            }
            none => {
                let window_bits = if self.has_header { WINDOW_BITS_MAX } else { WINDOW_BITS };
                none.insert(Box::new(Inflate::new(self.has_header, window_bits)))
            }
        };
        let ended = inflate.decompress(stream, cluster, InflateFlush::Finish);
        let (found, expected) = (inflate.total_out(), cluster.len() as u64);
        match ended {
            Ok(Status::StreamEnd | Status::BufError) if found == expected => Ok(()),
            Ok(_) => Err(CodecError::Short { found, expected }),
            Err(_) => Err(CodecError::Stream),
        }
    }
}

/// An encoder, made when the first cluster comes; it has some 300 KiB of memory.
#[derive(Default)]
pub struct Encoder {
    deflate: Option<Box<Deflate>>,
    /// Room for whatever comes out. Streams always end: zlib-rs 0.6.8 carries what is left of one that did not across
    /// resets, until it has no room for it.
    stream: Vec<u8>,
    noise: NoiseTest,
}

impl Encode for Encoder {
    fn encode(&mut self, cluster: &[u8]) -> Option<Vec<u8>> {
        if self.noise.is_noise(cluster) {
            return None;
        }
        self.stream.resize(compress_bound(cluster.len()), 0);
        let deflate = match &mut self.deflate {
            Some(deflate) => {
                deflate.reset();
                deflate
            }
            none => {
                let window_bits = RAW_WINDOW_BITS;
                let config =
                    DeflateConfig { level: LEVEL, window_bits, mem_level: MEMORY_LEVEL, ..DeflateConfig::default() };
                none.insert(Box::new(Deflate::new_with_config(config)))
            }
        };
        let ended = deflate.compress(cluster, &mut self.stream, DeflateFlush::Finish);
        let len = usize::try_from(deflate.total_out()).ok().filter(|&len| len < cluster.len())?;
        (ended == Ok(Status::StreamEnd)).then(|| self.stream.get(..len).unwrap_or_default().to_vec())
    }
}
