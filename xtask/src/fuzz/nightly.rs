//! `fuzz nightly`: every target for its share of a night, and nobody there to look.
//!
//! ```text
//! build ─▸ each target: starters, regressions, corpus, then its share of the time ─▸ ledger
//!                └▸ a finding: minimised, run three times alone, put on record; the next target goes on
//! ```
//!
//! A finding that is on record has reached a person and is no failure of the night. What fails it comes last, when all
//! targets have run: a finding that could not be put on record, a target that does not build, one that ran nothing.

use super::engine::{self, Build, Finding, Length, Outcome};
use super::issues::{Facts, Filed, Issues};
use super::ledger;
use super::registry::{self, Target};
use crate::cargo::target as target_folder;
use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// Only these targets, with commas between
    #[arg(long, value_delimiter = ',')]
    targets: Vec<String>,
    /// Most seconds of a target
    #[arg(long, default_value_t = 3600)]
    duration: u64,
    /// Seconds for all targets together, builds not counted: 450 minutes leave 30 of an eight-hour job
    #[arg(long, default_value_t = 450 * 60)]
    budget: u64,
    /// Run only what is there, and look for nothing more
    #[arg(long)]
    seed_corpus_only: bool,
    /// The engine's seed; without it, a random one for each target
    #[arg(long)]
    rng: Option<u32>,
    /// Where findings are put; without it, `fuzz/issues` in the target directory
    #[arg(long)]
    issues: Option<PathBuf>,
}

/// Seconds after which a target of little input space has seen it.
const FAST_S: u64 = 300;
/// Seconds for making a finding smaller.
const MINIMISE_S: u64 = 300;
/// How often an input must fail alone to be called proven.
const PROOFS: u32 = 3;

/// Seconds of each target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares {
    fast: u64,
    deep: u64,
}

impl Shares {
    /// Fast targets have what saturates them, deep ones share the rest; nobody has more than `duration`.
    fn of(targets: &[Target], duration: u64, budget: u64) -> Self {
        let count = |wanted: bool| targets.iter().filter(|target| (target.tier == "fast") == wanted).count() as u64;
        let (fast, deep) = (count(true), count(false));
        let even = budget / (fast + deep).max(1);
        let fast_s = FAST_S.min(duration).min(even);
        Self { fast: fast_s, deep: duration.min(budget.saturating_sub(fast * fast_s) / deep.max(1)) }
    }

    fn seconds(self, target: &Target) -> u64 {
        if target.tier == "fast" { self.fast } else { self.deep }
    }
}

/// What a target came to.
enum Ran {
    /// It has run, perhaps to a finding, which is on record or is not.
    Ran { outcome: Outcome, took: Duration, new: usize, filed: Option<Result<Filed>> },
    /// It does not build, does not start, or ran no input.
    Failed(String),
}

/// What all targets of a night have in common.
struct Night<'a> {
    build: &'a Build,
    issues: &'a Issues,
    commit: String,
    seed: Option<u32>,
    minimise_s: u64,
}

pub fn nightly(options: &Options) -> Result<()> {
    let targets = registry::select(&options.targets)?;
    let issues = options.issues.clone().unwrap_or_else(|| target_folder().join("fuzz/issues"));
    // Before hours of work for nobody.
    let issues = Issues::at(issues)?;
    let build = Build::of_tree();
    let commit = ledger::commit()?;
    let night = Night { build: &build, issues: &issues, commit, seed: options.rng, minimise_s: MINIMISE_S };
    let shares = Shares::of(&targets, options.duration, options.budget);
    println!("{} targets: {} s each of the fast ones, {} s of the deep ones", targets.len(), shares.fast, shares.deep);
    if shares.deep < FAST_S && !options.seed_corpus_only {
        println!("the budget gives deep targets less than {FAST_S} s: it wants more time, or more jobs");
    }
    // One that does not build keeps no other from running.
    let together = build.build(&registry::names(&targets)).is_ok();
    let mut failures = Vec::new();
    for target in &targets {
        let length =
            if options.seed_corpus_only { Length::Replay } else { Length::Seconds(shares.seconds(target).max(1)) };
        let ran = match together || build.build(&[&target.name]).is_ok() {
            true => engine::corpus(&target.name).map(|corpus| night.run(target, &corpus, length)),
            false => Ok(Ran::Failed("does not build".to_owned())),
        };
        let ran = ran.unwrap_or_else(|error| Ran::Failed(format!("{error:#}")));
        println!("{}", line(target, &ran));
        failures.extend(failure(target, &ran));
        if let Ran::Ran { outcome, took, .. } = &ran
            && !options.seed_corpus_only
        {
            ledger::append(&target.name, outcome, *took)?;
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

impl Night<'_> {
    /// Runs a target; whatever goes wrong is told of it alone.
    fn run(&self, target: &Target, corpus: &Path, length: Length) -> Ran {
        self.try_run(target, corpus, length).unwrap_or_else(|error| Ran::Failed(format!("{error:#}")))
    }

    fn try_run(&self, target: &Target, corpus: &Path, length: Length) -> Result<Ran> {
        let mut folders = vec![corpus.to_owned()];
        folders.extend(self.build.seeds(&target.name));
        let count = || Ok::<_, std::io::Error>(fs::read_dir(corpus)?.count());
        let before = count()?;
        let log = engine::log(&target.name, "nightly");
        let (outcome, took) = engine::run(self.build, target, &folders, length, self.seed, &log)?;
        let new = count()?.saturating_sub(before);
        let filed = outcome.finding.as_ref().map(|finding| self.file(target, finding, outcome.seed, &log));
        Ok(Ran::Ran { outcome, took, new, filed })
    }

    /// Makes a finding smaller, proves it, and puts it on record with what the first run printed.
    fn file(&self, target: &Target, finding: &Finding, seed: u64, log: &Path) -> Result<Filed> {
        let log = fs::read(log)?;
        let artifact = engine::minimise(self.build, target, finding, self.minimise_s)?;
        let finding = Finding { artifact, ..finding.clone() };
        let mut proven = 0;
        for _ in 0..PROOFS {
            let Some(input) = &finding.artifact else { break };
            let again = engine::run_one(self.build, target, input, &engine::log(&target.name, "proof"))?;
            let key = again.finding.map(|again| engine::key(&again.signature));
            proven += u32::from(key == Some(engine::key(&finding.signature)));
        }
        let facts = Facts { target, commit: &self.commit, seed, proven: (proven, PROOFS), log: &log };
        self.issues.file(&finding, &facts)
    }
}

/// What is told of a target.
fn line(target: &Target, ran: &Ran) -> String {
    let name = &target.name;
    match ran {
        Ran::Failed(why) => format!("{name:<18} FAILED  {why}"),
        Ran::Ran { outcome, took, new, filed } => {
            let Outcome { executions, edges, .. } = outcome;
            let verdict = match filed {
                None => "clean".to_owned(),
                Some(Ok(Filed::New(path))) => format!("FINDING  {}", path.display()),
                Some(Ok(Filed::Again(path))) => format!("KNOWN FINDING  {}", path.display()),
                Some(Err(error)) => format!("FINDING NOBODY WAS TOLD ABOUT  {error:#}"),
            };
            let seconds = took.as_secs();
            format!("{name:<18} {seconds:>5} s {executions:>10} runs {edges:>6} edges {new:>5} new inputs  {verdict}")
        }
    }
}

/// Why the night has failed on account of a target.
fn failure(target: &Target, ran: &Ran) -> Option<String> {
    let name = &target.name;
    match ran {
        Ran::Failed(why) => Some(format!("{name}: {why}")),
        Ran::Ran { filed: Some(Err(error)), .. } => {
            Some(format!("{name}: a finding that nobody was told about: {error:#}"))
        }
        Ran::Ran { outcome, filed: None, .. } if outcome.executions == 0 => Some(format!("{name}: ran no input")),
        Ran::Ran { .. } => None,
    }
}

#[cfg(test)]
mod tests;
