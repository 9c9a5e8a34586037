//! `fuzz plant`: proves that each target can fail.
//!
//! A planted bug is a literal replacement in one file. Each is made in a copy of the tree, built, and run from the
//! starters; the target must find it, with the signature that was foretold.

use super::engine::{self, Build, Length, Purpose};
use super::registry::{self, Target};
use crate::cargo::{output, root, target as target_folder};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct Options {
    /// Only bugs of these targets
    #[arg(long)]
    target: Vec<String>,
    /// Seconds after which a bug counts as missed
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

/// A bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planted {
    /// The target that must notice.
    pub target: String,
    /// What is wrong then.
    pub bug: String,
    file: String,
    find: String,
    replace: String,
    expect: String,
}

/// What became of a bug.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Caught { seconds: f64 },
    Missed(String),
    Broken(String),
}

/// The bugs of `fuzz/planted/*.toml`.
///
/// # Errors
/// A file that can't be read, or an entry that is not complete.
pub fn read() -> Result<Vec<Planted>> {
    let mut files: Vec<PathBuf> = fs::read_dir(registry::folder().join("planted"))
        .context("fuzz/planted")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let mut all = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "toml")) {
        all.extend(parse(&fs::read_to_string(file)?).with_context(|| file.display().to_string())?);
    }
    Ok(all)
}

fn parse(text: &str) -> Result<Vec<Planted>> {
    let table: toml::Table = text.parse()?;
    let list = table.get("planted").and_then(toml::Value::as_array).context("no [[planted]]")?;
    list.iter()
        .map(|entry| {
            let text = |key: &str| {
                let text = entry.get(key).and_then(toml::Value::as_str);
                text.map(str::to_owned).with_context(|| format!("{key} is missing"))
            };
            Ok(Planted {
                target: text("target")?,
                bug: text("bug")?,
                file: text("file")?,
                find: text("find")?,
                replace: text("replace")?,
                expect: text("expect")?,
            })
        })
        .collect()
}

pub fn plant(options: &Options) -> Result<()> {
    let targets = registry::select(&options.target)?;
    let all = read()?;
    let folder = target_folder().join("fuzz/plant");
    let (root, target) = (folder.join("tree"), folder.join("target"));
    let build = Build { root, target, purpose: Purpose::BuildAgain };
    copy_tree(&build.root)?;
    // A tree that fails without a bug proves nothing.
    build.build(&registry::names(&targets))?;
    for target in &targets {
        let log = engine::log(&target.name, "plant");
        let (outcome, _) = engine::run(&build, target, &build.seeds(&target.name), Length::Replay, None, &log)?;
        if let Some(finding) = outcome.finding {
            bail!("{} fails without a planted bug: {}", target.name, finding.signature);
        }
    }
    let mut failures = 0;
    for target in &targets {
        for planted in all.iter().filter(|planted| planted.target == target.name) {
            let verdict = judge(planted, target, &build, options.seconds)?;
            let (word, detail) = match &verdict {
                Verdict::Caught { seconds } => ("caught", format!("{seconds:.1} s")),
                Verdict::Missed(why) => ("MISSED", why.clone()),
                Verdict::Broken(why) => ("BROKEN", why.clone()),
            };
            println!("{word}  {:<18} {:<60} {detail}", target.name, planted.bug);
            failures += usize::from(!matches!(verdict, Verdict::Caught { .. }));
        }
    }
    if failures > 0 { bail!("{failures} planted bugs were missed or are broken") } else { Ok(()) }
}

impl Planted {
    /// Where in a tree it is planted, and the text there; or why it is nowhere.
    pub fn place(&self, root: &Path) -> std::result::Result<(PathBuf, String), String> {
        let path = root.join(&self.file);
        let sound = fs::read_to_string(&path).map_err(|_| format!("no file {}", self.file))?;
        match sound.matches(&self.find).count() {
            1 => Ok((path, sound)),
            count => Err(format!("matches {count} times in {}", self.file)),
        }
    }
}

fn judge(planted: &Planted, target: &Target, build: &Build, seconds: u64) -> Result<Verdict> {
    let (path, sound) = match planted.place(&build.root) {
        Ok(place) => place,
        Err(why) => return Ok(Verdict::Broken(why)),
    };
    fs::write(&path, sound.replace(&planted.find, &planted.replace))?;
    let verdict = judge_bent(planted, target, build, seconds);
    fs::write(&path, sound)?;
    verdict
}

fn judge_bent(planted: &Planted, target: &Target, build: &Build, seconds: u64) -> Result<Verdict> {
    let built = build.command(&[&target.name]).output()?;
    if !built.status.success() {
        let text = String::from_utf8_lossy(&built.stderr).into_owned();
        let error = text.lines().find(|line| line.starts_with("error")).unwrap_or("no error said").to_owned();
        return Ok(Verdict::Broken(format!("does not build: {error}")));
    }
    let grown = build.target.join("corpus");
    let _ = fs::remove_dir_all(&grown);
    fs::create_dir_all(&grown)?;
    let mut folders = vec![grown];
    folders.extend(build.seeds(&target.name).into_iter().filter(|folder| folder.parent().is_some_and(is_starters)));
    let log = engine::log(&target.name, "plant");
    let (outcome, took) = engine::run(build, target, &folders, Length::Seconds(seconds), Some(1), &log)?;
    Ok(match outcome.finding {
        Some(finding) if finding.signature.contains(&planted.expect) => Verdict::Caught { seconds: took.as_secs_f64() },
        Some(finding) => Verdict::Missed(format!("found something else: {}", finding.signature)),
        None => Verdict::Missed(format!("{} runs without a finding", outcome.executions)),
    })
}

fn is_starters(folder: &Path) -> bool {
    folder.ends_with("starters")
}

/// Copies what git knows and what it would take, so that the tree is never bent in place. Files that are the same
/// stay untouched: cargo builds only what has changed.
fn copy_tree(to: &Path) -> Result<()> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let list = output(Command::new("git").current_dir(root()).args(arguments))?;
    let names: BTreeSet<&str> = list.split('\0').filter(|name| !name.is_empty()).collect();
    for name in &names {
        let Ok(bytes) = fs::read(root().join(name)) else { continue };
        let copy = to.join(name);
        if fs::read(&copy).ok().as_ref() != Some(&bytes) {
            fs::create_dir_all(copy.parent().context("a file has a folder")?)?;
            fs::write(copy, bytes)?;
        }
    }
    remove_others(to, to, &names)
}

/// Removes files that the tree no longer has.
fn remove_others(folder: &Path, top: &Path, names: &BTreeSet<&str>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.strip_prefix(top)?.to_string_lossy().into_owned();
        if path.is_dir() {
            remove_others(&path, top, names)?;
        } else if !names.contains(name.as_str()) || !root().join(&name).exists() {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_bug_has_one_place() {
        let place = |find: &str, file: &str| {
            let planted = Planted {
                target: String::new(),
                bug: String::new(),
                file: file.to_owned(),
                find: find.to_owned(),
                replace: String::new(),
                expect: String::new(),
            };
            planted.place(&root()).map(|_| ())
        };
        assert_eq!(place("name = \"xtask\"", "xtask/Cargo.toml"), Ok(()));
        assert_eq!(place("no such text", "xtask/Cargo.toml"), Err("matches 0 times in xtask/Cargo.toml".to_owned()));
        assert!(place("=", "xtask/Cargo.toml").is_err_and(|why| why.starts_with("matches ")));
        assert_eq!(place("a", "no/such/file"), Err("no file no/such/file".to_owned()));
    }

    #[test]
    fn a_planted_bug_has_all_its_fields() {
        let good =
            "[[planted]]\ntarget = \"a\"\nbug = \"b\"\nfile = \"c\"\nfind = \"d\"\nreplace = \"\"\nexpect = \"e\"\n";
        assert_eq!(parse(good).expect("sound").len(), 1);
        for line in good.lines().skip(1) {
            assert!(parse(&good.replace(line, "")).is_err(), "{line}");
        }
    }
}
