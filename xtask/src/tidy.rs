//! The rules that a tool can see. Each finding names the place and the rule.

mod doors;
mod fuzz;
mod images;
mod text;

use anyhow::{Result, bail};

pub fn tidy() -> Result<()> {
    let mut findings = Vec::new();
    findings.extend(doors::check()?);
    findings.extend(images::check()?);
    findings.extend(fuzz::check()?);
    findings.extend(text::check()?);
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    Ok(())
}
