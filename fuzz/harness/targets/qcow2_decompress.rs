use super::{DISK, LAYER};
use crate::image::{FuzzImage, FuzzReader};
use crate::layout::le64;
use crate::model::qcow2::Byte;
use instar_abi::error::CodecError;
use instar_parsers::codec::{Codecs, Decoder};
use instar_parsers::image::Codec;
use instar_parsers::qcow2::{Header, L2Entry, L2Mapping, wire};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use std::cell::RefCell;
use zerocopy::IntoBytes as _;

/// log2 of the cluster sizes tried.
const CLUSTER_BITS: [u32; 5] = [9, 12, 16, 20, 21];

/// Both codecs, five cluster sizes. Bytes 0 to 7 are the L2 entry, its "compressed" bit forced on, and the rest
/// is the image. Where bit 63 of the entry is set, the stream is taken from within the image, whatever the
/// entry's offset says.
pub fn qcow2_decompress(data: &[u8]) {
    let Some(word) = le64(data, 0).filter(|_| data.len() >= 16) else { return };
    SETUP.with_borrow_mut(|setup| {
        for geometry in &mut setup.geometries {
            judge(geometry, [&mut setup.decoder, &mut setup.full], word, &data[8..]);
        }
    });
}

/// What stays the same from input to input.
struct Setup {
    geometries: Vec<Geometry>,
    decoder: Decoder,
    full: Decoder,
}

struct Geometry {
    header: Header,
    cluster: Vec<u8>,
    again: Vec<u8>,
}

thread_local! {
    static SETUP: RefCell<Setup> = RefCell::new(Setup {
        geometries: CLUSTER_BITS.into_iter().flat_map(|bits| [geometry(bits, 0), geometry(bits, 1)]).collect(),
        decoder: Codecs::SMALL.decoder(),
        full: Codecs::FULL.decoder(),
    });
}

fn geometry(bits: u32, compression_type: u8) -> Geometry {
    let mut wire: wire::Header = zerocopy::FromZeros::new_zeroed();
    wire.magic = wire::MAGIC;
    wire.version = 3.into();
    wire.cluster_bits = bits.into();
    wire.refcount_table_clusters = 1.into();
    wire.refcount_order = 4.into();
    wire.header_length = 112.into();
    wire.compression_type = compression_type;
    wire.incompatible_features = (u64::from(compression_type) << 3).into();
    let image = FuzzImage::placed(512).with(0, wire.as_bytes().to_vec());
    let header = Header::read(&mut FuzzReader::new(vec![image]), LAYER, DISK).expect("a sound header");
    let cluster = vec![0; header.cluster_size() as usize];
    Geometry { header, again: cluster.clone(), cluster }
}

fn judge(geometry: &mut Geometry, [decoder, full]: [&mut Decoder; 2], word: u64, image: &[u8]) {
    let Geometry { header, cluster, again } = geometry;
    let entry = (word & !(1 << 63) | 1 << 62).to_be_bytes();
    let entry = L2Entry::parse(header, &entry).expect("8 bytes").mapping(header);
    let L2Mapping::Compressed { offset, len } = entry else { panic!("a compressed entry is {entry:?}") };
    assert_eq!(Byte::Compressed(offset, len), crate::model::qcow2::compressed(header, word & !(1 << 63)));
    let cluster_size = header.cluster_size() as usize;
    assert!(len as usize <= cluster_size * 2, "a window of {len} bytes");
    let start = if word >> 63 == 1 { offset % (image.len() as u64) } else { offset };
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(image.len());
    let window = &image[start..start.saturating_add(len as usize).min(image.len())];

    let result = decoder.decode(header.compression(), window, cluster);
    if let Err(CodecError::Short { found, expected }) = result {
        assert!(found < expected && expected == cluster_size as u64, "{result:?}");
    }
    if result.is_ok() || cluster_size <= 4096 {
        // A decoder that has seen other streams, errors among them, and a fresh one say the same; what was in their
        // buffers before does not show. Errors do not depend on the cluster's size: large buffers are dear.
        again.fill(0x55);
        let fresh = Codecs::SMALL.decoder().decode(header.compression(), window, again);
        assert_eq!(result, fresh, "a used decoder and a fresh one");
    }
    if result.is_ok() {
        assert!(cluster == again, "the same stream, other bytes");
        match header.compression() {
            Codec::Deflate | Codec::Zlib => check_deflate(window, cluster),
            Codec::Zstd => check_zstd(full, window, cluster, again),
        }
    }
}

/// What was decoded is what another decoder gives, which may still ask for the end of the stream.
fn check_deflate(stream: &[u8], cluster: &[u8]) {
    let mut theirs = vec![0; cluster.len()];
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, len) = decompress(&mut DecompressorOxide::new(), stream, &mut theirs, 0, flags);
    assert!(len == cluster.len(), "another decoder fills {len} bytes: {status:?}");
    assert!(*cluster == theirs, "another decoder gives other bytes");
}

/// Two decoders of Zstandard may refuse different streams, but what both take they take for the same bytes.
fn check_zstd(full: &mut Decoder, stream: &[u8], cluster: &[u8], theirs: &mut [u8]) {
    if full.decode(Codec::Zstd, stream, theirs).is_ok() {
        assert!(cluster == theirs, "the full set's decoder gives other bytes");
    }
}
