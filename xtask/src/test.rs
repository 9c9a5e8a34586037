//! Every test, and an honest count at the end.

use crate::cargo::{cargo, output};
use crate::image::{self, Kind};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

#[derive(clap::Args)]
pub struct Options {
    /// A test that is skipped because a program is missing fails the run
    #[arg(long)]
    pub strict: bool,
    /// All of what otherwise runs in part: every combination of convert's options with every content
    #[arg(long)]
    pub full: bool,
    /// Only tests whose names contain one of these
    pub filter: Vec<String>,
}

/// What test runners printed, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// How often each missing thing made a test say "skipped: needs …".
    skipped: BTreeMap<String, usize>,
    /// How often a test that runs on several engines did without one: "skipped: no firecracker". That is no failure even
    /// where skips are, as no distribution has all of them.
    engines: BTreeMap<String, usize>,
}

impl Tally {
    fn take(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            for part in rest.split([';', '.']) {
                let mut words = part.split_whitespace();
                if let (Some(count), Some(what)) =
                    (words.next().and_then(|word| word.parse::<usize>().ok()), words.next())
                {
                    match what {
                        "passed" => self.passed += count,
                        "failed" => self.failed += count,
                        "ignored" => self.ignored += count,
                        _ => {}
                    }
                }
            }
        } else if let Some(what) = line.trim_start().strip_prefix("skipped: needs ") {
            *self.skipped.entry(what.to_owned()).or_default() += 1;
        } else if let Some(engine) = line.trim_start().strip_prefix("skipped: no ") {
            *self.engines.entry(engine.to_owned()).or_default() += 1;
        }
    }

    /// What is wrong with a run of `expected` tests, if anything.
    fn complaint(&self, expected: Option<usize>, strict: bool) -> Option<String> {
        let executed = self.passed + self.failed;
        match expected {
            _ if self.failed > 0 => Some(format!("{} tests failed", self.failed)),
            _ if self.ignored > 0 => Some(format!("{} tests are ignored: a test runs or does not exist", self.ignored)),
            Some(expected) if executed < expected => Some(format!("only {executed} of {expected} tests ran")),
            _ if executed == 0 => Some("no test ran".to_owned()),
            _ if strict && !self.skipped.is_empty() => Some(format!("skipped although --strict: {:?}", self.skipped)),
            _ => None,
        }
    }
}

pub fn test(options: &Options) -> Result<()> {
    image::build(Kind::Tests)?;
    let instar = crate::build::build()?;
    let with_environment = |command: &mut Command| {
        command
            .env("INSTAR_TEST_IMAGES", Kind::Tests.directory())
            .env("INSTAR_IMAGES", Kind::Ops.directory())
            .env("INSTAR_BIN", &instar);
        if options.full {
            command.env("INSTAR_FULL", "1");
        }
    };
    let mut list = cargo(&["test", "--quiet", "--workspace", "--", "--list", "--format=terse"]);
    with_environment(&mut list);
    let expected =
        options.filter.is_empty().then_some(output(&mut list)?.lines().filter(|line| line.ends_with(": test")).count());

    let mut command = cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    with_environment(&mut command);
    command.args(&options.filter).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().context("stdout is piped")?;
    for line in BufReader::new(stdout).split(b'\n') {
        // A failing test may print anything: lines need not be UTF-8.
        let line = String::from_utf8_lossy(&line?).into_owned();
        tally.take(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    println!();
    for (what, count) in &tally.skipped {
        println!("{count} x skipped: needs {what}");
    }
    for (engine, count) in &tally.engines {
        println!("{count} x without engine {engine}");
    }
    let skipped: usize = tally.skipped.values().sum();
    println!("{} passed, {} failed, {skipped} skipped", tally.passed - skipped.min(tally.passed), tally.failed);
    match tally.complaint(expected, options.strict) {
        Some(complaint) => bail!("{complaint}"),
        None if !status.success() => bail!("cargo test ended with {status}"),
        None => Ok(()),
    }
}

/// The part of the tests that holds us beside qemu-img.
pub fn compat(filter: &[String]) -> Result<()> {
    let filter = match filter {
        [] => vec!["compat::".to_owned()],
        words => words.iter().map(|word| format!("compat::{word}")).collect(),
    };
    test(&Options { strict: true, full: false, filter })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.take(line));
        tally
    }

    const GOOD: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";

    #[test]
    fn results_of_several_runners_are_added_up() {
        let tally = tally(&[GOOD, "noise", GOOD, "skipped: needs qemu-img", "skipped: needs qemu-img"]);
        assert_eq!((tally.passed, tally.failed, tally.skipped["qemu-img"]), (6, 0, 2));
        assert_eq!(tally.complaint(Some(6), false), None);
    }

    #[test]
    fn a_truncated_run_fails() {
        assert_eq!(tally(&[GOOD]).complaint(Some(4), false).as_deref(), Some("only 3 of 4 tests ran"));
        assert_eq!(tally(&[]).complaint(None, false).as_deref(), Some("no test ran"));
    }

    #[test]
    fn a_skip_where_the_program_is_required_fails() {
        let tally = tally(&[GOOD, "skipped: needs strace"]);
        assert!(tally.complaint(Some(3), false).is_none());
        assert!(tally.complaint(Some(3), true).is_some_and(|text| text.contains("strace")));
    }

    #[test]
    fn an_engine_that_is_not_there_is_counted_and_is_no_skip() {
        let tally = tally(&[GOOD, "skipped: no firecracker", "skipped: no firecracker"]);
        assert_eq!((tally.engines["firecracker"], tally.skipped.len()), (2, 0));
        assert_eq!(tally.complaint(Some(3), true), None);
    }

    #[test]
    fn failures_and_ignored_tests_fail() {
        let failed = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured";
        assert!(tally(&[failed]).complaint(None, false).is_some());
        let ignored = "test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured";
        assert!(tally(&[ignored]).complaint(None, false).is_some());
    }
}
