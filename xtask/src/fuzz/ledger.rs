//! `fuzz ledger`: how long each target has run, from `fuzz/ledger.jsonl`, to which only runs append.

use super::engine::Outcome;
use super::registry::{self, Target};
use crate::cargo::{output, root};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// Fewer hours than a release wants are an error
    #[arg(long)]
    check: bool,
}

/// Seconds that a release wants of each target of set R: 4 hours.
const TARGET_S: u64 = 4 * 3600;
/// Seconds that a release wants in all: 24 hours.
const ALL_S: u64 = 24 * 3600;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The target.
    pub target: String,
    /// The tree that ran, with `+` where it was changed.
    pub commit: String,
    /// How long it ran.
    pub seconds: u64,
    /// Inputs run.
    pub executions: u64,
    /// Edges covered at its end.
    pub edges: u64,
    /// 1 where it ended with a finding.
    pub findings: u64,
}

fn path() -> PathBuf {
    registry::folder().join("ledger.jsonl")
}

/// Records a run.
///
/// # Errors
/// The ledger can't be written, or git does not answer.
pub fn append(target: &str, outcome: &Outcome, took: Duration) -> Result<()> {
    let line = serde_json::json!({
        "target": target,
        "commit": commit()?,
        "seconds": took.as_secs(),
        "executions": outcome.executions,
        "edges": outcome.edges,
        "findings": u64::from(outcome.finding.is_some()),
        "seed": outcome.seed,
    });
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path())?;
    Ok(writeln!(file, "{line}")?)
}

/// The tree as it is, with `+` where it was changed.
///
/// # Errors
/// git does not answer.
pub fn commit() -> Result<String> {
    let git = |arguments: &[&str]| output(Command::new("git").current_dir(root()).args(arguments));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--", "*.rs", "*.toml"])?.is_empty();
    Ok(format!("{}{}", commit.trim(), if changed { "+" } else { "" }))
}

/// All runs.
///
/// # Errors
/// A line that is none, with its number.
pub fn read() -> Result<Vec<Line>> {
    match fs::read_to_string(path()) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("fuzz/ledger.jsonl"),
    }
}

/// The lines of a ledger.
///
/// # Errors
/// One that is none, with its number.
pub fn parse(text: &str) -> Result<Vec<Line>> {
    let parse = |(index, line): (usize, &str)| {
        let value: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("fuzz/ledger.jsonl:{}", index + 1))?;
        let number = |key: &str| {
            value[key].as_u64().with_context(|| format!("fuzz/ledger.jsonl:{}: {key} is no number", index + 1))
        };
        let text = |key: &str| {
            let text = value[key].as_str().map(str::to_owned);
            text.with_context(|| format!("fuzz/ledger.jsonl:{}: {key} is no text", index + 1))
        };
        Ok(Line {
            target: text("target")?,
            commit: text("commit")?,
            seconds: number("seconds")?,
            executions: number("executions")?,
            edges: number("edges")?,
            findings: number("findings")?,
        })
    };
    text.lines().enumerate().map(parse).collect()
}

pub fn ledger(options: &Options) -> Result<()> {
    let (targets, lines) = (registry::read()?, read()?);
    let mut sums: BTreeMap<&str, Line> = BTreeMap::new();
    for line in &lines {
        let sum =
            sums.entry(&line.target).or_insert_with(|| Line { seconds: 0, executions: 0, findings: 0, ..line.clone() });
        sum.seconds += line.seconds;
        sum.executions += line.executions;
        sum.findings += line.findings;
        sum.edges = line.edges;
    }
    println!("{:<18} {:>8} {:>12} {:>6} {:>9}", "target", "hours", "executions", "edges", "findings");
    for (name, sum) in &sums {
        let hours = sum.seconds as f64 / 3600.0;
        println!("{name:<18} {hours:>8.2} {:>12} {:>6} {:>9}", sum.executions, sum.edges, sum.findings);
    }
    let complaints = complaints(&targets, &lines);
    if options.check && !complaints.is_empty() {
        bail!("{}", complaints.join("; "));
    }
    Ok(())
}

/// What a release lacks.
fn complaints(targets: &[Target], lines: &[Line]) -> Vec<String> {
    let seconds = |wanted: Option<&str>| -> u64 {
        lines.iter().filter(|line| wanted.is_none_or(|name| line.target == name)).map(|line| line.seconds).sum()
    };
    let short = |name: &str, found: u64, wanted: u64| {
        (found < wanted).then(|| format!("{name}: {:.1} of {} hours", found as f64 / 3600.0, wanted / 3600))
    };
    let required = targets.iter().filter(|target| target.set == "R");
    let mut complaints: Vec<String> =
        required.filter_map(|target| short(&target.name, seconds(Some(&target.name)), TARGET_S)).collect();
    complaints.extend(short("in all", seconds(None), ALL_S));
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"target":"a","commit":"0","seconds":14400,"executions":9,"edges":5,"findings":0,"seed":1}"#;

    #[test]
    fn lines_are_read_and_broken_ones_named() {
        assert_eq!(parse(LINE).expect("sound")[0].seconds, 14400);
        let broken = parse(&format!("{LINE}\n{{}}")).expect_err("no target");
        assert!(broken.to_string().contains(":2"), "{broken}");
        assert!(parse("x").is_err());
    }

    #[test]
    fn a_release_wants_hours_of_each_required_target_and_in_all() {
        let target = |name: &str, set: &str| Target {
            name: name.into(),
            tier: "fast".into(),
            set: set.into(),
            rooms: vec![],
            max_len: 1,
        };
        let lines = parse(LINE).expect("sound");
        let complaints = complaints(&[target("a", "R"), target("b", "R"), target("c", "N")], &lines);
        assert_eq!(complaints, ["b: 0.0 of 4 hours", "in all: 4.0 of 24 hours"]);
    }
}
