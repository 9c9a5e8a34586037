//! `cargo xtask fuzz VERB`: coverage-guided fuzzing with the pinned stable toolchain, one file a verb.
//!
//! The targets are functions of the crate `instar-fuzz`, listed once in `fuzz/targets.toml`. [`engine`] builds them with
//! libFuzzer and the compiler's own coverage, and reads what libFuzzer says.

mod coverage;
pub mod engine;
mod issues;
pub mod ledger;
mod lines;
mod nightly;
mod plant;
pub mod registry;
mod replay;
mod report;
mod run;
mod starters;
mod tmin;

pub use plant::{Planted, read as planted};

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Verb {
    /// Fuzz one target, several, or all of them; a finding is minimised and ends with exit code 1
    Run(run::Options),
    /// Build every target with coverage
    Build,
    /// Run starters, regressions and what earlier runs have found, without looking for more
    Replay,
    /// Make fuzz/starters/ anew
    Starters(starters::Options),
    /// Break a copy of the code on purpose, and see that each target notices
    Plant(plant::Options),
    /// Say how long each target has run
    Ledger(ledger::Options),
    /// Say where each target stands: hours, executions, its last finding and what has been clean since
    Report,
    /// Say which lines and functions of the code under test the kept inputs reach
    Coverage(coverage::Options),
    /// Every target for its share of a night; findings are put on record, and only what nobody was told about fails
    Nightly(nightly::Options),
    /// Minimise an input that is a finding
    Tmin(tmin::Options),
}

pub fn fuzz(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Run(options) => run::run(options),
        Verb::Build => engine::Build::of_tree().build(&registry::names(&registry::read()?)),
        Verb::Replay => replay::replay(),
        Verb::Starters(options) => starters::starters(options),
        Verb::Plant(options) => plant::plant(options),
        Verb::Ledger(options) => ledger::ledger(options),
        Verb::Report => report::report(),
        Verb::Coverage(options) => coverage::coverage(options),
        Verb::Nightly(options) => nightly::nightly(options),
        Verb::Tmin(options) => tmin::tmin(options),
    }
}
