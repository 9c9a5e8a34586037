//! Every crash a plan can meet: whole epochs, and any subset of the patches of the one in flight.

use super::{Patch, Plan};
use alloc::vec::Vec;

/// Crashes within an epoch that are tried.
const TORN: usize = 16;

/// The file after the first `epochs` epochs, and after those patches of the next one that `keep` names by their bit.
#[must_use]
pub fn crashed(plan: &Plan, before: &[u8], epochs: usize, keep: u64) -> Vec<u8> {
    let mut file = before.to_vec();
    for (number, epoch) in plan.epochs.iter().enumerate().take(epochs.saturating_add(1)) {
        for (patch, bit) in epoch.patches.iter().zip((0..64u32).cycle()) {
            if number < epochs || keep.wrapping_shr(bit) & 1 != 0 {
                apply(&mut file, patch);
            }
        }
    }
    file
}

/// Calls `check` with every state that a crash can leave; subsets of a long epoch are drawn by `seed`.
pub fn every_crash(plan: &Plan, before: &[u8], mut seed: u64, mut check: impl FnMut(usize, Vec<u8>)) {
    for epochs in 0..=plan.epochs.len() {
        check(epochs, crashed(plan, before, epochs, 0));
        for _ in 0..TORN {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            check(epochs, crashed(plan, before, epochs, seed >> 16));
        }
    }
}

/// Applies a patch to a file that memory can hold; what it can't hold is left out.
fn apply(file: &mut Vec<u8>, patch: &Patch) {
    let (at, bytes) = match patch {
        Patch::Write { at, bytes } => (*at, bytes.clone()),
        Patch::ZeroFill { at, len } => (*at, alloc::vec![0; usize::try_from(*len).unwrap_or(0)]),
        Patch::Append { bytes } => (file.len() as u64, bytes.clone()),
        Patch::SetLen { len } => return file.resize(usize::try_from(*len).unwrap_or(0), 0),
    };
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let Some(end) = at.checked_add(bytes.len()) else { return };
    if file.len() < end {
        file.resize(end, 0);
    }
    if let Some(there) = file.get_mut(at..end) {
        there.copy_from_slice(&bytes);
    }
}
