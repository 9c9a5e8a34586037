//! `fuzz starters`: the committed inputs, made by the crate itself.

use crate::cargo::cargo;
use anyhow::{Result, bail};

#[derive(clap::Args)]
pub struct Options {
    /// Change nothing; a difference is an error
    #[arg(long)]
    check: bool,
}

pub fn starters(options: &Options) -> Result<()> {
    let mut command = cargo(&["run", "--quiet", "--package=instar-fuzz", "--bin=starters", "--"]);
    if options.check {
        command.arg("--check");
    }
    match command.status()?.success() {
        true => Ok(()),
        false if options.check => bail!("fuzz/starters/ is not what the crate makes: run `cargo xtask fuzz starters`"),
        false => bail!("the starters could not be made"),
    }
}
