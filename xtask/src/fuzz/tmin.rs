//! `fuzz tmin`: the smallest input that is still the same finding.

use super::engine::{self, Build, Finding};
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// The target
    target: String,
    /// The input
    input: PathBuf,
    /// Seconds at most
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

pub fn tmin(options: &Options) -> Result<()> {
    let target = engine::target_of(&options.target)?;
    let build = Build::of_tree();
    build.build(&[&target.name])?;
    let input = options.input.canonicalize().with_context(|| options.input.display().to_string())?;
    let outcome = engine::run_one(&build, &target, &input, &engine::log(&target.name, "tmin"))?;
    let Some(finding) = outcome.finding else { bail!("{} is no finding", input.display()) };
    let finding = Finding { artifact: Some(input), ..finding };
    if let Some(path) = engine::minimise(&build, &target, &finding, options.seconds)? {
        println!("{}\n{}", finding.signature, path.display());
    }
    Ok(())
}
