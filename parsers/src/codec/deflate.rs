//! Raw deflate.
//!
//! # Source
//! As QEMU 10.0's `qcow2_zlib_decompress`: the cluster must be filled, and what the stream holds beyond it does not
//! matter.

use instar_abi::error::CodecError;
use zune_inflate::errors::DecodeErrorStatus;
use zune_inflate::{DeflateDecoder, DeflateOptions};

/// The decoder checks its limit once a block or match, and its buffer grows in steps.
const LIMIT_SLACK: usize = 64 << 10;

pub fn decode(stream: &[u8], cluster: &mut [u8]) -> Result<(), CodecError> {
    let options =
        DeflateOptions::default().set_limit(cluster.len().saturating_add(LIMIT_SLACK)).set_size_hint(cluster.len());
    let bytes = match DeflateDecoder::new_with_options(stream, options).decode_deflate() {
        Ok(bytes) => bytes,
        Err(error) => match error.error {
            // More than a cluster: enough.
            DecodeErrorStatus::OutputLimitExceeded(..) => error.data,
            _ => return Err(CodecError::Stream),
        },
    };
    match bytes.get(..cluster.len()) {
        Some(bytes) => {
            cluster.copy_from_slice(bytes);
            Ok(())
        }
        None => Err(CodecError::Short { found: bytes.len() as u64, expected: cluster.len() as u64 }),
    }
}
