//! Clusters that deflate can do nothing with: what is encrypted or compressed already. To find that out takes it ten times
//! as long.

use alloc::vec::Vec;

/// Shortest cluster that is looked at.
const LEN_MIN: usize = 4096;
/// Pearson's chi-squared of its bytes against equal shares, from which on they are no noise. Noise has 255 ± 23; at 512
/// a code for single bytes saves less than 0.1 % of 64 KiB, and no more than its own table costs in 4 KiB.
const CHI_SQUARED_MAX: u64 = 512;
/// How far back repeats are looked for: deflate's window here.
const WINDOW: u32 = 4096;
/// One repeated word in so many is no noise any more: about a hundredth could be saved.
const REPEATS_SHARE: usize = 256;
/// log2 of the words that are remembered.
const SLOTS_BITS: u32 = 12;

/// Memory to look for repeats: words of four bytes and where they were last.
#[derive(Default)]
pub struct NoiseTest(Vec<(u32, u32)>);

impl NoiseTest {
    /// Whether a cluster looks like noise: each byte as often as any other, and hardly a word that comes again.
    pub fn is_noise(&mut self, cluster: &[u8]) -> bool {
        let head = cluster.get(..LEN_MIN);
        head.is_some_and(is_flat) && is_flat(cluster) && !self.repeats(cluster)
    }

    fn repeats(&mut self, cluster: &[u8]) -> bool {
        self.0.clear();
        self.0.resize(1 << SLOTS_BITS, (0, 0));
        let mut left = cluster.len().checked_div(REPEATS_SHARE).unwrap_or(0);
        // From 1 on: 0 is no place.
        for (at, bytes) in (1u32..).zip(cluster.windows(4)) {
            let word = bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            // Fibonacci hashing.
            let hash = word.wrapping_mul(0x9e37_79b1) >> (32 - SLOTS_BITS);
            let Some(slot) = usize::try_from(hash).ok().and_then(|hash| self.0.get_mut(hash)) else { continue };
            let (known, place) = core::mem::replace(slot, (word, at));
            if known == word && place != 0 && at.saturating_sub(place) <= WINDOW {
                left = left.saturating_sub(1);
                if left == 0 {
                    return true;
                }
            }
        }
        false
    }
}

fn is_flat(bytes: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    for byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count = count.saturating_add(1);
        }
    }
    // chi² = 256 / n × Σ c² − n.
    let squares =
        counts.iter().fold(0u64, |sum, &count| sum.saturating_add(u64::from(count).saturating_mul(count.into())));
    let len = bytes.len() as u64;
    squares.saturating_mul(256) < len.saturating_mul(len.saturating_add(CHI_SQUARED_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn only_what_cannot_be_compressed_is_noise() {
        let mut test = NoiseTest::default();
        for len in [4096, 65536, 2 << 20] {
            let noise = random(len);
            assert!(test.is_noise(&noise), "{len}");
            let repeated: Vec<u8> = noise.chunks(1024).step_by(2).flat_map(|part| [part, part].concat()).collect();
            let counted: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let text: Vec<u8> = noise.iter().map(|byte| b'a' + byte % 26).collect();
            // A fortieth of it comes again.
            let mut in_part = noise.clone();
            (0..len / 4096).for_each(|page| in_part.copy_within(page * 4096..page * 4096 + 100, page * 4096 + 2000));
            for plain in [repeated, counted, text, in_part, vec![0; len]] {
                assert!(!test.is_noise(&plain), "{len} {:?}", &plain[..8]);
            }
        }
        assert!(!test.is_noise(&random(4095)), "too little to tell");
    }
}
