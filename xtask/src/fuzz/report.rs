//! `fuzz report`: where each target stands, by its files and by the ledger.

use super::ledger::{self, Line};
use super::plant;
use super::registry::{self, Target};
use anyhow::Result;
use std::fmt;
use std::fs;

/// What the ledger says of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Runs {
    seconds: u64,
    executions: u64,
    /// Of the last run.
    edges: u64,
    findings: u64,
    /// The tree of the last finding.
    last_finding: Option<String>,
    /// Seconds of clean runs after it.
    clean_seconds: u64,
    /// Seconds of the longest clean run.
    longest_clean: u64,
}

impl Runs {
    /// Those of a target, in the ledger's order.
    fn of(target: &str, lines: &[Line]) -> Self {
        let mut runs = Self::default();
        for line in lines.iter().filter(|line| line.target == target) {
            runs.seconds += line.seconds;
            runs.executions += line.executions;
            runs.edges = line.edges;
            runs.findings += line.findings;
            if line.findings > 0 {
                runs.last_finding = Some(line.commit.clone());
                runs.clean_seconds = 0;
            } else {
                runs.clean_seconds += line.seconds;
                runs.longest_clean = runs.longest_clean.max(line.seconds);
            }
        }
        runs
    }
}

/// What a target has besides its runs.
struct Files {
    starters: usize,
    regressions: usize,
    planted: usize,
}

pub fn report() -> Result<()> {
    let (targets, lines, planted) = (registry::read()?, ledger::read()?, plant::read()?);
    let count = |kind: &str, name: &str| {
        fs::read_dir(registry::folder().join(kind).join(name)).map_or(0, |entries| entries.flatten().count())
    };
    println!("{HEAD}");
    for target in &targets {
        let files = Files {
            starters: count("starters", &target.name),
            regressions: count("regressions", &target.name),
            planted: planted.iter().filter(|planted| planted.target == target.name).count(),
        };
        println!("{}", Row(target, &files, &Runs::of(&target.name, &lines)));
    }
    let of_all = |number: fn(&Line) -> u64| lines.iter().map(number).sum::<u64>();
    let hours = of_all(|line| line.seconds) as f64 / 3600.0;
    let (runs, executions) = (lines.len(), of_all(|line| line.executions));
    let findings = of_all(|line| line.findings);
    println!(
        "\n{} targets, {runs} runs, {hours:.2} hours, {executions} executions, {findings} findings",
        targets.len()
    );
    Ok(())
}

/// A table of Markdown, so that a page can quote it.
const HEAD: &str = "\
| target | set | tier | starters | regressions | planted bugs | hours | executions | edges | findings | last finding at | clean since, s | longest clean run, s |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// A target's row.
struct Row<'a>(&'a Target, &'a Files, &'a Runs);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Target { name, set, tier, .. }, Files { starters, regressions, planted }, runs) = self;
        let hours = runs.seconds as f64 / 3600.0;
        let Runs { executions, edges, findings, clean_seconds, longest_clean, .. } = runs;
        let last = runs.last_finding.as_deref().unwrap_or("–");
        write!(f, "| {name} | {set} | {tier} | {starters} | {regressions} | {planted} | {hours:.2} | {executions} ")?;
        write!(f, "| {edges} | {findings} | {last} | {clean_seconds} | {longest_clean} |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        let line = |target: &str, commit: &str, seconds: u64, findings: u64| {
            format!(
                r#"{{"target":"{target}","commit":"{commit}","seconds":{seconds},"executions":10,"edges":{seconds},"findings":{findings}}}"#
            )
        };
        let text = [
            line("a", "c1", 400, 0),
            line("b", "c1", 9, 0),
            line("a", "c2+", 5, 1),
            line("a", "c3", 60, 0),
            line("a", "c3", 30, 0),
        ];
        ledger::parse(&text.join("\n")).expect("sound")
    }

    #[test]
    fn what_was_clean_before_the_last_finding_is_not_clean_since() {
        let runs = Runs::of("a", &lines());
        assert_eq!((runs.seconds, runs.executions, runs.edges, runs.findings), (495, 40, 30, 1));
        assert_eq!((runs.last_finding.as_deref(), runs.clean_seconds, runs.longest_clean), (Some("c2+"), 90, 400));
        assert_eq!(Runs::of("b", &lines()).last_finding, None);
        assert_eq!(Runs::of("never run", &lines()), Runs::default());
    }

    #[test]
    fn a_row_has_a_cell_for_each_column() {
        let target = Target { name: "a".into(), tier: "deep".into(), set: "R".into(), rooms: vec![], max_len: 1 };
        let row =
            Row(&target, &Files { starters: 1, regressions: 2, planted: 3 }, &Runs::of("a", &lines())).to_string();
        let cells = |line: &str| line.matches('|').count();
        assert!(HEAD.lines().all(|line| cells(line) == cells(&row)), "{row}");
        assert!(row.ends_with("| c2+ | 90 | 400 |"), "{row}");
    }
}
