//! libFuzzer: building targets with coverage, running them, and reading what they say.

use super::registry::{self, Target};
use crate::cargo::{root, succeed, target as target_folder};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Coverage by the compiler's own pass, which the stable toolchain has as well.
const RUSTFLAGS: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What every profile has: every overflow is a finding.
const PROFILE: &[&str] = &[
    "inherits='release'",
    "lto='off'",
    "panic='abort'",
    "strip='none'",
    "debug='line-tables-only'",
    "debug-assertions=true",
    "overflow-checks=true",
];

/// Built once and run for long: fast targets.
const RUN_LONG: &[&str] = &["opt-level=3", "codegen-units=1"];
/// Built again after every small change and run for seconds: what did not change is kept.
const BUILD_AGAIN: &[&str] = &["opt-level=1", "codegen-units=64", "incremental=true"];
/// Built once, and looked at: a block of the machine's code is one of the source's.
const MEASURE_LINES: &[&str] = &["opt-level=0", "codegen-units=16", "incremental=true", "package.\"*\".opt-level=3"];
/// Tables of addresses hold them in the file, and what nobody calls is there too.
const AS_LINKED: &str =
    "-Cllvm-args=-sanitizer-coverage-prune-blocks=0 -Crelocation-model=static -Clink-arg=-no-pie -Clink-dead-code";

/// MiB of memory that a target may take; the parsers' own budget is 64 MiB of heap.
const RSS_LIMIT_MIB: u32 = 2048;
/// Seconds for one input: a hang is a finding.
const TIMEOUT_S: u32 = 25;
/// The same where nothing is optimised, and what is too slow would be left out.
const MEASURE_TIMEOUT_S: u32 = 900;
/// Seconds for one input from which it is reported as slow.
const SLOW_S: u32 = 10;

/// A tree of sources and where it is built.
pub struct Build {
    /// The checkout, or a copy of it.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// What the builds are for.
    pub purpose: Purpose,
}

/// What builds are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One build, many inputs.
    RunLong,
    /// Many builds, each of a small change.
    BuildAgain,
    /// Blocks that are those of the source, at addresses that the file says.
    MeasureLines,
}

impl Purpose {
    const fn timeout_s(self) -> u32 {
        match self {
            Self::RunLong | Self::BuildAgain => TIMEOUT_S,
            Self::MeasureLines => MEASURE_TIMEOUT_S,
        }
    }

    const fn profile(self) -> &'static [&'static str] {
        match self {
            Self::RunLong => RUN_LONG,
            Self::BuildAgain => BUILD_AGAIN,
            Self::MeasureLines => MEASURE_LINES,
        }
    }
}

impl Build {
    /// This checkout.
    pub fn of_tree() -> Self {
        Self { root: root(), target: target_folder().join("fuzz"), purpose: Purpose::RunLong }
    }

    /// Builds the binaries of these targets.
    ///
    /// # Errors
    /// One does not build.
    pub fn build(&self, names: &[&str]) -> Result<()> {
        succeed(&mut self.command(names))
    }

    /// The command that builds these targets.
    pub fn command(&self, names: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).env("RUSTFLAGS", self.rustflags()).env("CARGO_TARGET_DIR", &self.target);
        command.env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.args(["build", "--quiet", "--package=instar-fuzz", "--features=libfuzzer", "--profile=fuzz"]);
        command.arg(format!("--target={TRIPLE}"));
        command.args(PROFILE.iter().chain(self.purpose.profile()).map(|line| format!("--config=profile.fuzz.{line}")));
        command.args(names.iter().map(|name| format!("--bin={name}")));
        command
    }

    fn rustflags(&self) -> String {
        match self.purpose {
            Purpose::RunLong | Purpose::BuildAgain => RUSTFLAGS.to_owned(),
            Purpose::MeasureLines => format!("{RUSTFLAGS} {AS_LINKED}"),
        }
    }

    /// Where the binary of a target is.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.target.join(TRIPLE).join("fuzz").join(name)
    }

    /// Starters and regressions of a target, as far as there are any.
    pub fn seeds(&self, name: &str) -> Vec<PathBuf> {
        let folders = ["starters", "regressions"].map(|kind| self.root.join("fuzz").join(kind).join(name));
        folders.into_iter().filter(|folder| folder.is_dir()).collect()
    }
}

/// Where inputs that earlier runs found are kept: `INSTAR_FUZZ_CORPUS`, else the user's cache.
///
/// # Errors
/// No such place, or it can't be made.
pub fn corpus(name: &str) -> Result<PathBuf> {
    let cache = || {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        cache
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
            .map(|dir| dir.join("instar/fuzz"))
    };
    let folder = std::env::var_os("INSTAR_FUZZ_CORPUS").map(PathBuf::from).or_else(cache);
    let folder = folder.context("neither INSTAR_FUZZ_CORPUS nor HOME is set")?.join(name);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Where findings are put.
///
/// # Errors
/// It can't be made.
pub fn artifacts(name: &str) -> Result<PathBuf> {
    let folder = target_folder().join("fuzz/artifacts").join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// How long to look for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many seconds.
    Seconds(u64),
    /// Not at all: only what is there.
    Replay,
}

/// What a run said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Inputs run.
    pub executions: u64,
    /// Edges covered.
    pub edges: u64,
    /// The engine's seed.
    pub seed: u64,
    /// What was found, if anything.
    pub finding: Option<Finding>,
}

/// A finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// The panic and its message, or the engine's summary.
    pub signature: String,
    /// The input.
    pub artifact: Option<PathBuf>,
}

/// Runs a target over folders of inputs, the first of which grows; what it says goes to `log`.
///
/// # Errors
/// It does not start.
pub fn run(
    build: &Build,
    target: &Target,
    folders: &[PathBuf],
    length: Length,
    seed: Option<u32>,
    log: &Path,
) -> Result<(Outcome, Duration)> {
    let mut command = command(build, target)?;
    match length {
        Length::Seconds(seconds) => command.arg(format!("-max_total_time={seconds}")),
        Length::Replay => command.arg("-runs=0"),
    };
    command.args(seed.map(|seed| format!("-seed={seed}"))).args(folders);
    finish(command, log)
}

/// Runs a target once over every input of these folders, of which the first is empty, and leaves in `control` what each met.
///
/// # Errors
/// It does not start, or does not get to the end.
pub fn merge(build: &Build, target: &Target, folders: &[PathBuf], control: &Path, log: &Path) -> Result<()> {
    let mut command = command(build, target)?;
    command.arg("-merge=1").arg(format!("-merge_control_file={}", control.display())).args(folders);
    match finish(command, log)?.0.finding {
        Some(finding) => bail!("{}: {}", target.name, finding.signature),
        None => Ok(()),
    }
}

/// Runs a target over one input.
///
/// # Errors
/// It does not start.
pub fn run_one(build: &Build, target: &Target, input: &Path, log: &Path) -> Result<Outcome> {
    let mut command = command(build, target)?;
    command.arg(input);
    Ok(finish(command, log)?.0)
}

fn command(build: &Build, target: &Target) -> Result<Command> {
    let mut command = Command::new(build.binary(&target.name));
    command
        .current_dir(&build.root)
        .stdin(Stdio::null())
        .env("RUST_BACKTRACE", "1")
        .arg(format!("-max_len={}", target.max_len))
        .arg(format!("-rss_limit_mb={RSS_LIMIT_MIB}"))
        .arg(format!("-timeout={}", build.purpose.timeout_s()))
        .arg(format!("-report_slow_units={SLOW_S}"))
        .arg(format!("-artifact_prefix={}/", artifacts(&target.name)?.display()))
        .arg("-print_final_stats=1");
    Ok(command)
}

fn finish(mut command: Command, log: &Path) -> Result<(Outcome, Duration)> {
    let file = created(log)?;
    let start = Instant::now();
    let status = command.stdout(file.try_clone()?).stderr(file).status().with_context(|| format!("{command:?}"))?;
    let took = start.elapsed();
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let outcome = read(&text, status.success());
    if outcome.finding.is_none()
        && outcome.executions == 0
        && !["Executed ", "MERGE-OUTER: "].iter().any(|word| text.contains(word))
    {
        bail!("{} ran no input, see {}", command.get_program().to_string_lossy(), log.display());
    }
    Ok((outcome, took))
}

/// A new file, in a folder that is made for it.
fn created(path: &Path) -> Result<fs::File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create(path).with_context(|| path.display().to_string())
}

/// Reads libFuzzer's output.
fn read(text: &str, success: bool) -> Outcome {
    let number = |line: &str, before: &str| -> Option<u64> {
        let rest = line.split_once(before)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let mut outcome = Outcome::default();
    let mut artifact = None;
    for line in text.lines() {
        if let Some(seed) = number(line, "INFO: Seed:") {
            outcome.seed = seed;
        }
        if line.starts_with('#')
            && let Some(edges) = number(line, " cov:")
        {
            outcome.edges = edges;
        }
        if let Some(executions) = number(line, "stat::number_of_executed_units:") {
            outcome.executions = executions;
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            artifact = Some(PathBuf::from(path.trim()));
        }
    }
    outcome.finding = (!success).then(|| Finding { signature: signature(text), artifact });
    outcome
}

/// The panic's place and message, or the engine's own summary.
fn signature(text: &str) -> String {
    let mut lines = text.lines();
    let panic = lines.find(|line| line.contains("panicked at ")).map(|line| {
        let message: Vec<&str> = lines
            .take_while(|line| !["note: ", "==", "stack backtrace:"].iter().any(|end| line.starts_with(end)))
            .collect();
        format!("{line} {}", message.join(" "))
    });
    let summary = || text.lines().find(|line| line.starts_with("SUMMARY") || line.contains("ERROR: libFuzzer"));
    let signature = panic.or_else(|| summary().map(str::to_owned)).unwrap_or_else(|| "no word of why".to_owned());
    signature.chars().take(600).collect()
}

/// What findings have in common: numbers that stand free become `N`.
pub fn key(signature: &str) -> String {
    let mut key = String::new();
    let mut last = ' ';
    let mut characters = signature.chars().peekable();
    while let Some(character) = characters.next() {
        if character.is_ascii_digit() && !last.is_alphanumeric() && last != '_' {
            while characters.next_if(char::is_ascii_alphanumeric).is_some() {}
            key.push('N');
            last = 'N';
        } else {
            key.push(character);
            last = character;
        }
    }
    // The thread's number and name say nothing.
    key.split_once("panicked at ").map_or(key.clone(), |(_, rest)| rest.to_owned())
}

/// The folder for what runs say.
pub fn log(name: &str, kind: &str) -> PathBuf {
    target_folder().join("fuzz/logs").join(format!("{name}-{kind}.log"))
}

/// Minimises a finding next to it; the smaller input is kept only if it is the same finding.
///
/// # Errors
/// Something does not start.
pub fn minimise(build: &Build, target: &Target, finding: &Finding, seconds: u64) -> Result<Option<PathBuf>> {
    let Some(artifact) = &finding.artifact else { return Ok(None) };
    if fs::metadata(artifact).map_or(0, |metadata| metadata.len()) <= 1 {
        return Ok(Some(artifact.clone()));
    }
    let name = artifact.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let small = artifact.with_file_name(format!("min-{name}"));
    let mut command = Command::new(build.binary(&target.name));
    command
        .current_dir(&build.root)
        .args(["-minimize_crash=1", "-runs=1000000"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={TIMEOUT_S}"))
        .arg(format!("-rss_limit_mb={RSS_LIMIT_MIB}"))
        .arg(format!("-exact_artifact_path={}", small.display()))
        .arg(artifact);
    let file = created(&log(&target.name, "minimise"))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status()?;
    if !small.exists() {
        return Ok(Some(artifact.clone()));
    }
    let again = run_one(build, target, &small, &log(&target.name, "minimised"))?;
    let same = again.finding.is_some_and(|again| key(&again.signature) == key(&finding.signature));
    Ok(Some(if same { small } else { artifact.clone() }))
}

/// The target of a name.
///
/// # Errors
/// There is none.
pub fn target_of(name: &str) -> Result<Target> {
    let mut targets = registry::select(&[name.to_owned()])?;
    targets.pop().context("the registry is empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "INFO: Seed: 42\n#2\tINITED cov: 700 ft: 9\n#900\tDONE   cov: 812 ft: 1300 corp: 12\n\
        stat::number_of_executed_units: 900\n";

    #[test]
    fn what_the_engine_says_is_read() {
        let outcome = read(GOOD, true);
        assert_eq!(outcome, Outcome { executions: 900, edges: 812, seed: 42, finding: None });
        let text = format!(
            "{GOOD}\nthread '<unnamed>' (7) panicked at parsers/src/a.rs:5:9:\nattempt to add with overflow\n\
            note: run with\n==7== ERROR: libFuzzer: deadly signal\nartifact_prefix='x/'; Test unit written to x/crash-0\n"
        );
        let finding = read(&text, false).finding.expect("a finding");
        assert!(finding.signature.ends_with("a.rs:5:9: attempt to add with overflow"), "{}", finding.signature);
        assert_eq!(finding.artifact, Some(PathBuf::from("x/crash-0")));
        let timeout = read("==7== ERROR: libFuzzer: timeout after 25 seconds\nSUMMARY: libFuzzer: timeout\n", false);
        assert!(timeout.finding.expect("a finding").signature.contains("timeout"));
        assert!(read("", false).finding.is_some());
    }

    /// The minimiser ends without a word, or leaves an empty file that is no finding.
    #[test]
    fn a_failed_minimisation_keeps_the_original() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = target_folder().join("fuzz/minimise-test");
        let build = Build { root: root(), target: folder.clone(), purpose: Purpose::RunLong };
        let (name, artifact) = ("a_failed_minimisation".to_owned(), folder.join("crash-0"));
        let target = Target { name, tier: "fast".into(), set: "N".into(), rooms: vec![], max_len: 64 };
        fs::create_dir_all(build.binary(&target.name).parent().expect("a folder")).expect("writable");
        fs::write(&artifact, b"what was found").expect("writable");
        let finding = Finding { signature: "panicked at a.rs:5: x".to_owned(), artifact: Some(artifact.clone()) };
        for script in [
            "exit 1",
            "for word; do case $word in -exact_artifact_path=*) : >\"${word#*=}\"; exit 1;; esac; done; echo Executed a file",
        ] {
            let binary = build.binary(&target.name);
            fs::write(&binary, format!("#!/bin/sh\n{script}\n")).expect("writable");
            fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("ours");
            let kept = minimise(&build, &target, &finding, 1).expect("it starts");
            assert_eq!(kept.as_ref(), Some(&artifact), "{script}");
        }
        assert_eq!(fs::read(&artifact).expect("still there"), b"what was found");
        fs::remove_dir_all(&folder).expect("ours");
    }

    #[test]
    fn numbers_do_not_tell_findings_apart_but_places_do() {
        let at = |line: u32, number: u32| {
            key(&format!("thread 'x' ({number}) panicked at a.rs:{line}: cluster {number:#x} of qcow2"))
        };
        assert_eq!(at(5, 1), at(5, 2));
        assert!(at(5, 1).ends_with("cluster N of qcow2"));
        assert_ne!(key("panicked at a.rs: x"), key("panicked at b.rs: x"));
    }
}
