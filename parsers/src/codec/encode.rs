//! Encoding of clusters, for `-c`.
//!
//! # Source
//! As QEMU 10.0's `qcow2_zlib_compress`: raw deflate, and a cluster that does not become smaller is written as it is.
//! QEMU's window is 4 KiB, ours is deflate's own, as the specification says; QEMU decodes a cluster in one call, to
//! which the window does not matter.

use alloc::boxed::Box;
use alloc::vec::Vec;
use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{CompressionStrategy, CompressorOxide, TDEFLFlush, TDEFLStatus, compress};

/// zlib's default level.
const LEVEL: u8 = 6;
/// log2 of the window in bytes.
const WINDOW_BITS: u8 = 15;

/// A lane's encoder; its memory, some 400 KiB, is made when first needed and kept.
#[derive(Default)]
pub struct Encoder {
    deflate: Option<Box<CompressorOxide>>,
}

impl Encoder {
    /// The stream for a cluster; `None` where it is not shorter.
    pub fn encode(&mut self, cluster: &[u8]) -> Option<Vec<u8>> {
        let mut stream = alloc::vec![0; cluster.len().saturating_sub(1)];
        let deflate = self.deflate.get_or_insert_with(|| {
            let strategy = CompressionStrategy::Default;
            Box::new(CompressorOxide::with_params(DataFormat::Raw, LEVEL, strategy, WINDOW_BITS))
        });
        deflate.reset();
        let (status, _, len) = compress(deflate, cluster, &mut stream, TDEFLFlush::Finish);
        // A shorter vector, too: it is kept while other lanes are waited for.
        (status == TDEFLStatus::Done).then(|| stream.get(..len).unwrap_or_default().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Decoder;
    use crate::image::Codec;

    /// A guest's lane has a stack of 128 KiB.
    #[test]
    fn what_is_encoded_decodes_to_itself_on_a_small_stack() {
        let work = || {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for bits in [9, 12, 16, 21] {
                let text: Vec<u8> = (0..1u32 << bits).map(|index| (index % 97 * (index >> 9) % 7) as u8).collect();
                let noise: Vec<u8> = (0..1u32 << bits).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
                for plain in [text, noise, vec![0; 1 << bits]] {
                    let Some(stream) = encoder.encode(&plain) else { continue };
                    assert!(stream.len() < plain.len());
                    let mut cluster = vec![0; plain.len()];
                    decoder.decode(Codec::Deflate, &stream, &mut cluster).unwrap();
                    assert!(cluster == plain, "{bits}");
                }
            }
            let mut state = 1u64;
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            };
            let random: Vec<u8> = (0..65536).map(|_| random()).collect();
            assert_eq!(encoder.encode(&random), None);
        };
        std::thread::Builder::new().stack_size(96 << 10).spawn(work).unwrap().join().unwrap();
    }
}
