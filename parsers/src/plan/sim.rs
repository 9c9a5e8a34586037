//! Every crash a plan can meet: whole epochs, and any subset of the patches of the one in flight.

use super::{Patch, Plan};

/// The file after the first `epochs` epochs, and after those patches of the next one that `keep` names by their bit.
pub fn crashed(plan: &Plan, before: &[u8], epochs: usize, keep: u64) -> Vec<u8> {
    let mut file = before.to_vec();
    for epoch in &plan.epochs[..epochs] {
        epoch.patches.iter().for_each(|patch| apply(&mut file, patch));
    }
    if let Some(epoch) = plan.epochs.get(epochs) {
        for (index, patch) in epoch.patches.iter().enumerate() {
            if keep >> (index % 64) & 1 != 0 {
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
        for _ in 0..16 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            check(epochs, crashed(plan, before, epochs, seed >> 16));
        }
    }
}

fn apply(file: &mut Vec<u8>, patch: &Patch) {
    let mut put = |at: u64, bytes: &[u8]| {
        let at = at as usize;
        if file.len() < at + bytes.len() {
            file.resize(at + bytes.len(), 0);
        }
        file[at..at + bytes.len()].copy_from_slice(bytes);
    };
    match patch {
        Patch::Write { at, bytes } => put(*at, bytes),
        Patch::ZeroFill { at, len } => put(*at, &vec![0; *len as usize]),
        Patch::Append { bytes } => file.extend_from_slice(bytes),
        Patch::SetLen { len } => file.resize(*len as usize, 0),
    }
}
