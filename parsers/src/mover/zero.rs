//! Where a unit is zero.

use super::ZERO_BLOCK;
use alloc::vec::Vec;
use core::ops::Range;

/// Whether all bytes are zero. Written out in four wide words, and never inlined: this is the one loop over all content,
/// and it must be fast where everything is compiled for size.
#[inline(never)]
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let block_is_zero = |block: &[u8; 64]| match block.as_chunks::<16>().0 {
        [a, b, c, d] => {
            let word = u128::from_ne_bytes;
            (word(*a) | word(*b) | word(*c) | word(*d)) == 0
        }
        _ => false,
    };
    blocks.iter().all(block_is_zero) && rest.iter().all(|&byte| byte == 0)
}

/// The parts of `bytes`, whole sectors, that are to be written: all but runs of at least `sparse_len` zeros. A run
/// that is longer than `bytes` can show counts as long enough.
#[must_use]
pub fn data_runs(bytes: &[u8], sparse_len: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let block_len = if sparse_len < ZERO_BLOCK { 512 } else { ZERO_BLOCK };
    let mut at = 0;
    for block in bytes.chunks(block_len) {
        let end = block.len().saturating_add(at);
        if !is_zero(block) {
            match runs.last_mut() {
                Some(run) if at.saturating_sub(run.end) < sparse_len || at == run.end => run.end = end,
                None if at < sparse_len => runs.push(0..end),
                _ => runs.push(at..end),
            }
        }
        at = end;
    }
    if let Some(run) = runs.last_mut()
        && at.saturating_sub(run.end) < sparse_len
    {
        run.end = at;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_is_not_zero() {
        for len in [0, 1, 255, 256, 257, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for index in (0..len).step_by(31) {
                bytes[index] = 0x10;
                assert!(!is_zero(&bytes), "{index} of {len}");
                bytes[index] = 0;
            }
        }
    }

    #[test]
    fn short_runs_of_zeros_are_written() {
        let mut bytes = vec![0; 65536];
        bytes[8192] = 1;
        bytes[16384] = 1;
        bytes[65535] = 1;
        assert_eq!(data_runs(&bytes, 4096), [8192..12288, 16384..20480, 61440..65536]);
        assert_eq!(data_runs(&bytes, 8192), [8192..20480, 61440..65536]);
        assert_eq!(data_runs(&bytes, 12288), [0..20480, 61440..65536]);
        assert_eq!(data_runs(&bytes, 65536).as_slice(), std::slice::from_ref(&(0..65536)));
        assert_eq!(data_runs(&bytes, 512), [8192..8704, 16384..16896, 65024..65536]);
        assert_eq!(data_runs(&vec![0; 65536], 4096), []);
        assert_eq!(data_runs(&[1; 1536], 4096).as_slice(), std::slice::from_ref(&(0..1536)));
    }
}
