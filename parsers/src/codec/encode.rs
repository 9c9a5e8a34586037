//! Encoding of clusters, for `-c`: a cluster that does not become smaller is written as it is.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// One codec's way to make a cluster smaller.
pub trait Encode {
    /// The stream for a cluster; `None` where it is not shorter.
    fn encode(&mut self, cluster: &[u8]) -> Option<Vec<u8>>;
}

/// A lane's encoder; its memory is kept from cluster to cluster.
pub struct Encoder(Box<dyn Encode>);

impl Encoder {
    pub(super) fn new(codec: impl Encode + 'static) -> Self {
        Self(Box::new(codec))
    }

    /// The stream for a cluster; `None` where it is not shorter.
    pub fn encode(&mut self, cluster: &[u8]) -> Option<Vec<u8>> {
        self.0.encode(cluster)
    }
}

/// Nothing becomes smaller.
impl Default for Encoder {
    fn default() -> Self {
        struct AsIs;
        impl Encode for AsIs {
            fn encode(&mut self, _: &[u8]) -> Option<Vec<u8>> {
                None
            }
        }
        Self::new(AsIs)
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::Codecs;
    use crate::image::Codec;
    use instar_abi::request::Compression;

    /// A guest's lane has a stack of 128 KiB.
    #[test]
    fn what_is_encoded_decodes_to_itself_on_a_small_stack() {
        let work = || {
            for (compression, codec) in [(Compression::Zlib, Codec::Deflate), (Compression::Zstd, Codec::Zstd)] {
                let mut encoder = Codecs::FULL.encoder(Some(compression));
                let mut decoders = [Codecs::SMALL, Codecs::FULL].map(|set| set.decoder());
                for bits in [9, 12, 16, 21] {
                    let text: Vec<u8> = (0..1u32 << bits).map(|index| (index % 97 * (index >> 9) % 7) as u8).collect();
                    let noise: Vec<u8> =
                        (0..1u32 << bits).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
                    for plain in [text, noise, vec![0; 1 << bits]] {
                        let Some(stream) = encoder.encode(&plain) else { continue };
                        assert!(stream.len() < plain.len());
                        for decoder in &mut decoders {
                            let mut cluster = vec![0; plain.len()];
                            decoder.decode(codec, &stream, &mut cluster).unwrap();
                            assert!(cluster == plain, "{codec:?} {bits}");
                        }
                    }
                }
                let mut state = 1u64;
                let mut random = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                };
                // Many that do not become smaller: none leaves anything behind.
                for _ in 0..500 {
                    let random: Vec<u8> = (0..512).map(|_| random()).collect();
                    assert_eq!(encoder.encode(&random), None);
                }
                let random: Vec<u8> = (0..65536).map(|_| random()).collect();
                assert_eq!(encoder.encode(&random), None);
            }
        };
        std::thread::Builder::new().stack_size(96 << 10).spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn a_set_without_encoders_leaves_clusters_as_they_are() {
        assert!(!Codecs::SMALL.can_encode());
        for compression in [None, Some(Compression::Zlib), Some(Compression::Zstd)] {
            assert_eq!(Codecs::SMALL.encoder(compression).encode(&[0; 512]), None);
        }
        assert_eq!(Codecs::FULL.encoder(None).encode(&[0; 512]), None);
    }
}
