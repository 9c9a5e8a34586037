use super::*;
use crate::testing::{qemu_img, qemu_io, scratch};

/// Text-like bytes: compressible, not trivial.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 24
    };
    (0..len).map(|index| if index % 7 < 4 { b'a' + (index % 13) as u8 } else { next() as u8 & 0x3f }).collect()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    miniz_oxide::deflate::compress_to_vec(bytes, 6)
}

const SETS: [Codecs; 2] = [Codecs::SMALL, Codecs::FULL];

/// A frame of one or more raw blocks, after RFC 8878; `window` is the window descriptor.
fn raw_frame(bytes: &[u8], window: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window];
    let blocks: Vec<&[u8]> = bytes.chunks(64 << 10).collect();
    for (index, block) in blocks.iter().enumerate() {
        let last = u32::from(index + 1 == blocks.len());
        frame.extend(&((block.len() as u32) << 3 | last).to_le_bytes()[..3]);
        frame.extend(*block);
    }
    frame
}

#[test]
fn a_stream_of_exactly_a_cluster_is_decoded() {
    for (set, bits) in SETS.iter().flat_map(|set| [9, 12, 16, 20, 21].map(|bits| (set, bits))) {
        let plain = sample(1 << bits);
        for (codec, stream) in [(Codec::Deflate, deflated(&plain)), (Codec::Zstd, raw_frame(&plain, 11 << 3))] {
            let mut cluster = vec![0; plain.len()];
            let mut trailing = stream.clone();
            trailing.extend(sample(700));
            let mut decoder = set.decoder();
            assert_eq!(decoder.decode(codec, &stream, &mut cluster), Ok(()), "{codec:?} {bits}");
            assert_eq!(cluster, plain);
            cluster.fill(0);
            assert_eq!(decoder.decode(codec, &trailing, &mut cluster), Ok(()), "{codec:?} {bits}, trailing bytes");
            assert_eq!(cluster, plain);
        }
    }
}

#[test]
fn too_little_is_an_error_and_too_much_is_as_in_qemu() {
    let plain = sample(70_000);
    let mut cluster = vec![0; 65536];
    for mut decoder in SETS.map(|set| set.decoder()) {
        assert_eq!(decoder.decode(Codec::Deflate, &deflated(&plain), &mut cluster), Ok(()));
        assert_eq!(cluster, plain[..65536]);
        let bomb = deflated(&vec![0; 16 << 20]);
        assert_eq!(decoder.decode(Codec::Deflate, &bomb, &mut cluster), Ok(()));
        assert_eq!(decoder.decode(Codec::Zstd, &raw_frame(&plain, 8 << 3), &mut cluster), Err(CodecError::Stream));
        let short = CodecError::Short { found: 512, expected: 65536 };
        for (codec, stream) in [(Codec::Deflate, deflated(&plain[..512])), (Codec::Zstd, raw_frame(&plain[..512], 0))] {
            assert_eq!(decoder.decode(codec, &stream, &mut cluster), Err(short));
            assert!(decoder.decode(codec, &[], &mut cluster).is_err());
            assert!(decoder.decode(codec, &stream[..stream.len() / 2], &mut cluster).is_err());
        }
    }
}

#[test]
fn a_frame_with_a_huge_window_is_refused() {
    for mut decoder in SETS.map(|set| set.decoder()) {
        let mut cluster = vec![0; 512];
        let frame = raw_frame(&sample(512), 31 << 3);
        assert_eq!(decoder.decode(Codec::Zstd, &frame, &mut cluster), Err(CodecError::Window));
    }
}

/// A distance code of one word, and the half of it that stays unused: zlib refuses a stream that uses it, and so does
/// QEMU. Found by the fuzz target `qcow2_decompress`, when another decoder took both halves for the one word.
#[test]
fn the_unused_half_of_a_distance_code_is_refused() {
    let mut cluster = vec![0; 512];
    let (_, stream) = include_bytes!("../../../fuzz/regressions/qcow2_decompress/unused-distance-code").split_at(8);
    assert_eq!(Codecs::SMALL.decoder().decode(Codec::Deflate, stream, &mut cluster), Err(CodecError::Stream));
}

/// miniz_oxide is the second opinion.
#[test]
fn a_bent_stream_is_decoded_as_by_another_decoder_or_refused() {
    let plain = sample(4096);
    let stream = deflated(&plain);
    let mut decoder = Codecs::SMALL.decoder();
    for index in 0..stream.len() {
        for bit in 0..8 {
            let mut bent = stream.clone();
            bent[index] ^= 1 << bit;
            let mut ours = vec![0; 4096];
            let mut theirs = vec![0; 4096];
            let result = decoder.decode(Codec::Deflate, &bent, &mut ours);
            let expected = miniz_oxide::inflate::decompress_slice_iter_to_slice(
                &mut theirs,
                std::iter::once(bent.as_slice()),
                false,
                true,
            );
            match (result, expected) {
                // A stream that does not end fills a cluster all the same; miniz_oxide asks for more of it.
                (Ok(()), _) => assert_eq!(ours, theirs, "{index}.{bit}"),
                (Err(error), Ok(len)) => assert_ne!(len, 4096, "{index}.{bit}: {error:?}"),
                (Err(_), Err(_)) => {}
            }
            let zstd = raw_frame(&bent, 8 << 3);
            let _ = decoder.decode(Codec::Zstd, &zstd[index.min(9)..], &mut ours);
        }
    }
}

/// QEMU's own frames, whole and bent.
#[test]
fn frames_of_qemus_decode_and_bent_ones_never_panic() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    std::fs::write(dir.join("a.raw"), sample(65536)).unwrap();
    qemu_img(dir, "convert -f raw -O qcow2 -c -o compression_type=zstd a.raw a.qcow2").unwrap();
    qemu_io(dir, "a.qcow2", "read 0 64k").unwrap();
    let file = std::fs::read(dir.join("a.qcow2")).unwrap();
    let at = file.windows(4).position(|bytes| bytes == [0x28, 0xb5, 0x2f, 0xfd]).expect("a frame");
    let stream = &file[at..];
    let mut decoders = SETS.map(|set| set.decoder());
    let mut clusters = [vec![0; 65536], vec![0; 65536]];
    for (decoder, cluster) in decoders.iter_mut().zip(&mut clusters) {
        assert_eq!(decoder.decode(Codec::Zstd, stream, cluster), Ok(()));
        assert_eq!(*cluster, sample(65536));
    }
    for index in (0..stream.len().min(40_000)).step_by(17) {
        let mut bent = stream.to_vec();
        bent[index] ^= 1 << (index % 8);
        let mut results = [Ok(()); 2];
        for ((result, decoder), cluster) in results.iter_mut().zip(&mut decoders).zip(&mut clusters) {
            *result = decoder.decode(Codec::Zstd, &bent, cluster);
        }
        assert!(results != [Ok(()); 2] || clusters[0] == clusters[1], "two decoders, two contents: byte {index}");
    }
    for decoder in &mut decoders {
        assert_eq!(decoder.decode(Codec::Zstd, stream, &mut clusters[0]), Ok(()), "an error leaves nothing behind");
    }
}
