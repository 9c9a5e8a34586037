//! A change of a file as data: epochs of patches, a flush between them, one commit point.
//!
//! ```text
//! epoch "tables"      Write, Append, ZeroFill, SetLen …     nothing leads here yet
//! flush
//! commit "header"     one Write within one sector           old state or new, never half
//! flush
//! ```
//!
//! A plan is computed without writing, checked ([`Plan::check`]), applied as it stands ([`fn@apply`]), and in tests
//! replayed against every crash (`sim`, `invariants`).

mod apply;
mod check;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
#[cfg(any(test, feature = "invariants"))]
pub mod sim;

pub use apply::{apply, flush};
pub use check::PlanFault;

use alloc::vec::Vec;

/// One change. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// Replaces bytes at a place.
    Write {
        /// First byte.
        at: u64,
        /// What goes there.
        bytes: Vec<u8>,
    },
    /// Adds bytes at the end, wherever that is when the patch applies.
    Append {
        /// What is added.
        bytes: Vec<u8>,
    },
    /// Makes a range zero.
    ZeroFill {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// Sets the length of the file.
    SetLen {
        /// Bytes.
        len: u64,
    },
}

/// Patches in any order, then a flush.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Finishes the sentence "after this flush the file also holds …".
    pub name: &'static str,
    /// The patches.
    pub patches: Vec<Patch>,
}

impl Epoch {
    /// An epoch without patches.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, patches: Vec::new() }
    }

    /// With one more patch.
    #[must_use]
    pub fn with(mut self, patch: Patch) -> Self {
        self.patches.push(patch);
        self
    }

    /// With one more write.
    #[must_use]
    pub fn write(self, at: u64, bytes: Vec<u8>) -> Self {
        self.with(Patch::Write { at, bytes })
    }
}

/// A change of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Length of the file before.
    pub old_len: u64,
    /// Length of the file after.
    pub final_len: u64,
    /// In order.
    pub epochs: Vec<Epoch>,
    /// The epoch that is the commit point; `None`: the plan makes no new state reachable.
    pub commit: Option<usize>,
}

impl Plan {
    /// A plan without patches.
    #[must_use]
    pub const fn new(old_len: u64, final_len: u64) -> Self {
        Self { old_len, final_len, epochs: Vec::new(), commit: None }
    }

    /// Adds an epoch; one without patches is left out.
    pub fn push(&mut self, epoch: Epoch) {
        if !epoch.patches.is_empty() {
            self.epochs.push(epoch);
        }
    }

    /// Adds the commit point.
    pub fn commit(&mut self, name: &'static str, at: u64, bytes: Vec<u8>) {
        self.commit = Some(self.epochs.len());
        self.push(Epoch::new(name).write(at, bytes));
    }
}
