//! `fuzz run`: looks for findings for a while.

use super::engine::{self, Build, Length};
use super::{ledger, registry};
use anyhow::{Result, bail};

#[derive(clap::Args)]
pub struct Options {
    /// The targets
    #[arg(required_unless_present = "all")]
    targets: Vec<String>,
    /// Every target, one after the other
    #[arg(long, conflicts_with = "targets")]
    all: bool,
    /// Seconds a target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The engine's seed; without it, a random one, which the ledger records
    #[arg(long)]
    seed: Option<u32>,
}

/// Seconds for minimising a finding.
const MINIMISE_S: u64 = 60;

pub fn run(options: &Options) -> Result<()> {
    let targets = registry::select(&options.targets)?;
    let build = Build::of_tree();
    build.build(&registry::names(&targets))?;
    let mut found = Vec::new();
    for target in &targets {
        let mut folders = vec![engine::corpus(&target.name)?];
        folders.extend(build.seeds(&target.name));
        let log = engine::log(&target.name, "run");
        let length = Length::Seconds(options.seconds);
        let (outcome, took) = engine::run(&build, target, &folders, length, options.seed, &log)?;
        let per_second = outcome.executions / took.as_secs().max(1);
        println!(
            "{:<18} {:>4} s {:>10} runs {:>7}/s {:>5} edges  {}",
            target.name,
            took.as_secs(),
            outcome.executions,
            per_second,
            outcome.edges,
            if outcome.finding.is_some() { "FINDING" } else { "clean" }
        );
        ledger::append(&target.name, &outcome, took)?;
        if let Some(finding) = &outcome.finding {
            let artifact = engine::minimise(&build, target, finding, MINIMISE_S)?;
            println!("  {}", finding.signature);
            println!("  log      {}", log.display());
            match artifact {
                Some(path) => println!("  input    {}", path.display()),
                None => println!("  input    none was written"),
            }
            found.push(target.name.as_str());
        }
    }
    if found.is_empty() { Ok(()) } else { bail!("findings in {}", found.join(", ")) }
}
