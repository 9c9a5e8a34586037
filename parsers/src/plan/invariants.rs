//! What a planner must keep beyond what one plan shows ([`Plan::check`]): the rest of the fuzzing specification's
//! section 3, for tests and fuzz targets.

use super::sim::every_crash;
use super::{Patch, Plan};
use alloc::vec::Vec;
use core::fmt::Debug;

/// Bytes that a planner may take whatever it plans: 64 KiB.
const ALLOCATED_MIN: u64 = 64 << 10;

/// PI-8: the same input twice gives the same plans, which are returned.
///
/// # Panics
/// It gives others.
pub fn check_repeatable<T: PartialEq + Debug>(mut planner: impl FnMut() -> T) -> T {
    let (first, second) = (planner(), planner());
    assert!(first == second, "PI-8: another plan for the same input");
    first
}

/// PI-9: what changes nothing has no patches.
///
/// # Panics
/// It has some.
pub fn check_no_op(plan: &Plan) {
    assert!(plan.epochs.is_empty() && plan.old_len == plan.final_len, "PI-9: a plan for nothing: {plan:?}");
}

/// PI-11: the planner's memory grows with its patches only. `unit`: bytes of the largest piece of metadata.
///
/// # Panics
/// It holds more.
pub fn check_memory(plans: &[Plan], unit: u64) {
    let patches = || plans.iter().flat_map(|plan| &plan.epochs).flat_map(|epoch| &epoch.patches);
    let held = patches().fold(0u64, |sum, patch| match patch {
        Patch::Write { bytes, .. } | Patch::Append { bytes } => sum.saturating_add(bytes.len() as u64),
        Patch::ZeroFill { .. } | Patch::SetLen { .. } => sum,
    });
    let most = ALLOCATED_MIN.saturating_add(unit.saturating_mul(patches().count() as u64));
    assert!(held <= most, "PI-11: {held} bytes for {} patches", patches().count());
}

/// PI-12: what is refused has changed nothing. `written`: what the disk holds, which was empty.
///
/// # Panics
/// It holds something.
pub fn check_refusal<T, E: Debug>(result: &Result<T, E>, written: &[u8]) {
    if let Err(error) = result {
        assert!(written.is_empty(), "PI-12: {} bytes were written before {error:?}", written.len());
    }
}

/// PI-13: whatever a crash leaves, `judge` finds nothing corrupt in it. It is told how many epochs were complete.
pub fn check_crash_order(plan: &Plan, before: &[u8], seed: u64, judge: impl FnMut(usize, Vec<u8>)) {
    every_crash(plan, before, seed, judge);
}

#[cfg(test)]
mod tests {
    use super::super::Epoch;
    use super::*;
    use std::panic::catch_unwind;

    fn plan() -> Plan {
        let mut plan = Plan::new(0, 1024);
        plan.push(Epoch::new("data").write(512, vec![7; 512]));
        plan.commit("header", 0, vec![1; 512]);
        plan
    }

    #[test]
    fn each_rule_can_be_broken() {
        let mut number = 0;
        check_repeatable(plan);
        assert!(
            catch_unwind(move || check_repeatable(|| {
                number += 1;
                number
            }))
            .is_err()
        );
        check_no_op(&Plan::new(7, 7));
        assert!(catch_unwind(|| check_no_op(&plan())).is_err());
        check_memory(&[plan()], 512);
        let mut large = plan();
        large.push(Epoch::new("much").write(1024, vec![0; 128 << 10]));
        assert!(catch_unwind(|| check_memory(&[large], 512)).is_err());
        check_refusal(&Err::<(), _>("no"), &[]);
        check_refusal(&Ok::<_, ()>(()), &[1]);
        assert!(catch_unwind(|| check_refusal(&Err::<(), _>("no"), &[1])).is_err());
    }

    #[test]
    fn a_header_before_its_data_is_caught() {
        let judge = |_: usize, file: Vec<u8>| {
            let has_header = file.first() == Some(&1);
            assert!(!has_header || file[512..] == [7; 512], "PI-13");
        };
        check_crash_order(&plan(), &[], 1, judge);
        let mut swapped = plan();
        swapped.epochs.swap(0, 1);
        assert!(catch_unwind(|| check_crash_order(&swapped, &[0; 1024], 1, judge)).is_err());
    }
}
