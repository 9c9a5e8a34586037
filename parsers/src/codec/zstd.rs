//! Zstandard in small code: half of what the full set's decoder needs, and slower.
//!
//! # Source
//! As QEMU 10.0's `qcow2_zstd_decompress`: the frame must hold exactly one cluster.

use super::{Decode, ZSTD_WINDOW_LEN_MAX};
use alloc::boxed::Box;
use instar_abi::error::CodecError;
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::io::Read;

/// A decoder, made when the first frame comes.
#[derive(Default)]
pub struct Zstd {
    decoder: Option<Box<FrameDecoder>>,
}

impl Decode for Zstd {
    fn decode(&mut self, mut stream: &[u8], cluster: &mut [u8]) -> Result<(), CodecError> {
        let decoder = self.decoder.get_or_insert_with(|| {
            let mut decoder = Box::new(FrameDecoder::new());
            decoder.set_max_window_size(ZSTD_WINDOW_LEN_MAX);
            decoder
        });
        decoder.reset(&mut stream).map_err(|error| match error {
            FrameDecoderError::WindowSizeTooBig { .. } => CodecError::Window,
            _ => CodecError::Stream,
        })?;
        let expected = cluster.len() as u64;
        let mut left = cluster;
        loop {
            // A block has at most 128 KiB, so what is decoded and not yet taken stays small.
            decoder.decode_blocks(&mut stream, BlockDecodingStrategy::UptoBlocks(1)).map_err(|_| CodecError::Stream)?;
            let len = decoder.read(left).map_err(|_| CodecError::Stream)?;
            left = left.split_at_mut_checked(len).unwrap_or_default().1;
            if left.is_empty() && decoder.can_collect() > 0 {
                return Err(CodecError::Stream);
            }
            if decoder.is_finished() && decoder.can_collect() == 0 {
                break;
            }
        }
        match left.len() as u64 {
            0 => Ok(()),
            missing => Err(CodecError::Short { found: expected.saturating_sub(missing), expected }),
        }
    }
}
