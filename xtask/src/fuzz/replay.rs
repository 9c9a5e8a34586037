//! `fuzz replay`: everything that is kept, through the optimised targets with all checks.

use super::engine::{self, Build, Length};
use super::registry;
use anyhow::{Result, bail};

pub fn replay() -> Result<()> {
    let targets = registry::read()?;
    let build = Build::of_tree();
    build.build(&registry::names(&targets))?;
    let mut found = Vec::new();
    for target in &targets {
        let mut folders = vec![engine::corpus(&target.name)?];
        folders.extend(build.seeds(&target.name));
        let log = engine::log(&target.name, "replay");
        let (outcome, took) = engine::run(&build, target, &folders, Length::Replay, None, &log)?;
        println!("{:<18} {:>7} runs in {:.1} s", target.name, outcome.executions, took.as_secs_f64());
        if let Some(finding) = outcome.finding {
            println!("  {}", finding.signature);
            println!("  log      {}", log.display());
            found.push(target.name.as_str());
        }
    }
    if found.is_empty() { Ok(()) } else { bail!("findings in {}", found.join(", ")) }
}
