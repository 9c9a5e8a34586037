//! What every plan must satisfy, whoever made it.
//!
//! The numbers are those of the fuzzing specification, section 3.

use super::{Patch, Plan};
use alloc::vec::Vec;

/// The first rule that a plan breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanFault {
    /// PI-1: more patches than the planner promised.
    TooManyPatches {
        /// How many there are.
        found: usize,
    },
    /// PI-2, PI-10: offsets or lengths overflow.
    Overflow,
    /// PI-3: a write or a fill ends past the final length.
    PastFinalLen {
        /// Where it ends.
        end: u64,
    },
    /// PI-4: an append ends past the final length.
    AppendPastFinalLen {
        /// Where it ends.
        end: u64,
    },
    /// PI-5: two writes overlap.
    Overlap {
        /// Where the second starts.
        at: u64,
    },
    /// PI-6: the length after the last patch is another.
    FinalLen {
        /// What it is.
        found: u64,
    },
    /// PI-7: a patch that changes nothing.
    EmptyPatch,
    /// PI-14: the commit point is not one write within one sector, alone in its epoch.
    CommitPoint,
}

/// A commit point lies within one sector: 512 bytes.
const SECTOR_LEN: u64 = 512;

impl Plan {
    /// Checks the rules that concern the plan alone: PI-1 to PI-7, PI-10 and the shape of PI-14.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, patches_max: usize) -> Result<(), PlanFault> {
        let found = self.epochs.iter().fold(0usize, |sum, epoch| sum.saturating_add(epoch.patches.len()));
        if found > patches_max {
            return Err(PlanFault::TooManyPatches { found });
        }
        self.check_lengths()?;
        self.check_overlaps()?;
        self.check_commit()
    }

    fn patches(&self) -> impl Iterator<Item = &Patch> {
        self.epochs.iter().flat_map(|epoch| &epoch.patches)
    }

    fn check_lengths(&self) -> Result<(), PlanFault> {
        let mut len = self.old_len;
        let mut sum = self.final_len;
        for patch in self.patches() {
            match patch {
                Patch::Write { at, bytes } => {
                    let count = bytes.len() as u64;
                    sum = sum.checked_add(count).ok_or(PlanFault::Overflow)?;
                    len = len.max(self.end_of(*at, count)?);
                }
                Patch::ZeroFill { at, len: count } => len = len.max(self.end_of(*at, *count)?),
                Patch::Append { bytes } => {
                    let count = bytes.len() as u64;
                    sum = sum.checked_add(count).ok_or(PlanFault::Overflow)?;
                    if count == 0 {
                        return Err(PlanFault::EmptyPatch);
                    }
                    len = len.checked_add(count).ok_or(PlanFault::Overflow)?;
                    if len > self.final_len {
                        return Err(PlanFault::AppendPastFinalLen { end: len });
                    }
                }
                Patch::SetLen { len: new } if *new == len => return Err(PlanFault::EmptyPatch),
                Patch::SetLen { len: new } => len = *new,
            }
        }
        if len == self.final_len { Ok(()) } else { Err(PlanFault::FinalLen { found: len }) }
    }

    fn end_of(&self, at: u64, count: u64) -> Result<u64, PlanFault> {
        if count == 0 {
            return Err(PlanFault::EmptyPatch);
        }
        let end = at.checked_add(count).ok_or(PlanFault::Overflow)?;
        if end > self.final_len { Err(PlanFault::PastFinalLen { end }) } else { Ok(end) }
    }

    fn check_overlaps(&self) -> Result<(), PlanFault> {
        let mut ranges: Vec<(u64, u64)> = self
            .patches()
            .filter_map(|patch| match patch {
                Patch::Write { at, bytes } => Some((*at, at.saturating_add(bytes.len() as u64))),
                _ => None,
            })
            .collect();
        ranges.sort_unstable();
        let overlap = ranges.iter().zip(ranges.iter().skip(1)).find(|((_, end), (at, _))| at < end);
        overlap.map_or(Ok(()), |(_, (at, _))| Err(PlanFault::Overlap { at: *at }))
    }

    fn check_commit(&self) -> Result<(), PlanFault> {
        let Some(index) = self.commit else { return Ok(()) };
        match self.epochs.get(index).map(|epoch| epoch.patches.as_slice()) {
            Some([Patch::Write { at, bytes }])
                if crate::align::within(*at, SECTOR_LEN).saturating_add(bytes.len() as u64) <= SECTOR_LEN =>
            {
                Ok(())
            }
            _ => Err(PlanFault::CommitPoint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Epoch;
    use super::*;

    fn check(old_len: u64, final_len: u64, patches: Vec<Patch>, expected: Result<(), PlanFault>) {
        let mut plan = Plan::new(old_len, final_len);
        plan.push(patches.into_iter().fold(Epoch::new("test"), Epoch::with));
        assert_eq!(plan.check(4), expected, "{plan:?}");
    }

    #[test]
    fn each_rule_can_be_broken() {
        let write = |at, len: usize| Patch::Write { at, bytes: vec![1; len] };
        check(0, 0, vec![], Ok(()));
        check(0, 1024, vec![write(0, 512), write(512, 512)], Ok(()));
        check(512, 1024, vec![Patch::Append { bytes: vec![1; 512] }], Ok(()));
        check(1024, 512, vec![Patch::SetLen { len: 512 }], Ok(()));
        check(0, 5, vec![write(0, 1), write(1, 1), write(2, 1), write(3, 1), write(4, 1)], {
            Err(PlanFault::TooManyPatches { found: 5 })
        });
        check(0, 512, vec![write(u64::MAX, 2)], Err(PlanFault::Overflow));
        check(0, 512, vec![write(1, 512)], Err(PlanFault::PastFinalLen { end: 513 }));
        check(512, 513, vec![Patch::Append { bytes: vec![1; 2] }], Err(PlanFault::AppendPastFinalLen { end: 514 }));
        check(0, 1024, vec![write(0, 600), write(512, 512)], Err(PlanFault::Overlap { at: 512 }));
        check(0, 1024, vec![write(0, 512)], Err(PlanFault::FinalLen { found: 512 }));
        check(512, 512, vec![write(0, 0)], Err(PlanFault::EmptyPatch));
        check(512, 512, vec![Patch::SetLen { len: 512 }], Err(PlanFault::EmptyPatch));
        check(512, 512, vec![Patch::ZeroFill { at: 0, len: 0 }], Err(PlanFault::EmptyPatch));
    }

    #[test]
    fn a_commit_point_is_one_write_within_a_sector() {
        for (at, len, expected) in [
            (0, 512, Ok(())),
            (8, 8, Ok(())),
            (508, 8, Err(PlanFault::CommitPoint)),
            (0, 513, Err(PlanFault::CommitPoint)),
        ] {
            let mut plan = Plan::new(1024, 1024);
            plan.commit("header", at, vec![1; len]);
            assert_eq!(plan.check(1), expected);
        }
    }
}
