//! The list of fuzz targets and everything that must agree with it.

use crate::cargo::{metadata, root};
use crate::fuzz::registry::{self, Target};
use crate::fuzz::{Planted, ledger, planted};
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Lines of a file that hands bytes to a target.
const TARGET_LINES_MAX: usize = 15;
/// Starters of a target, and their bytes.
const STARTERS_MAX: (usize, u64) = (64, 512 << 10);
/// Planted bugs that each target must have.
const PLANTED_MIN: usize = 2;

pub fn check() -> Result<Vec<String>> {
    let targets = registry::read()?;
    let folder = registry::folder();
    let mut findings = Vec::new();
    findings.extend(differences("fuzz/Cargo.toml", &targets, &binaries()?));
    findings.extend(differences("fuzz/fuzz_targets", &targets, &stems(&folder.join("fuzz_targets"))?));
    findings.extend(differences("fuzz/starters", &targets, &stems(&folder.join("starters"))?));
    let all = planted()?;
    for target in &targets {
        findings.extend(fields(target));
        let count = all.iter().filter(|planted| planted.target == target.name).count();
        if count < PLANTED_MIN {
            findings.push(format!("fuzz/planted: {count} bugs for {}, at least {PLANTED_MIN}", target.name));
        }
        let lines = fs::read_to_string(folder.join("fuzz_targets").join(format!("{}.rs", target.name)));
        if lines.is_ok_and(|text| text.lines().count() > TARGET_LINES_MAX) {
            findings.push(format!("fuzz/fuzz_targets/{}.rs: more than {TARGET_LINES_MAX} lines", target.name));
        }
        findings.extend(starters(&folder.join("starters").join(&target.name), &target.name)?);
    }
    let known: BTreeSet<&str> = registry::names(&targets).into_iter().collect();
    findings.extend(
        all.iter()
            .filter(|planted| !known.contains(planted.target.as_str()))
            .map(|planted| format!("fuzz/planted: no target {}", planted.target)),
    );
    // Code that moves takes its planted bugs along.
    let place = |planted: &Planted| planted.place(&root()).err();
    findings
        .extend(all.iter().filter_map(|planted| Some(format!("fuzz/planted: '{}' {}", planted.bug, place(planted)?))));
    findings.extend(ledger::read().err().map(|error| format!("{error:#}")));
    Ok(findings)
}

/// Names in one place only.
fn differences(place: &str, targets: &[Target], found: &BTreeSet<String>) -> Vec<String> {
    let listed: BTreeSet<String> = targets.iter().map(|target| target.name.clone()).collect();
    let missing = listed.difference(found).map(|name| format!("{place}: {name} of fuzz/targets.toml is missing"));
    let unknown = found.difference(&listed).map(|name| format!("{place}: {name} is not in fuzz/targets.toml"));
    missing.chain(unknown).collect()
}

/// Binaries of the crate that need the engine.
fn binaries() -> Result<BTreeSet<String>> {
    let metadata = metadata(&["--no-deps"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let package = packages.iter().find(|package| package["name"] == "instar-fuzz").context("instar-fuzz is missing")?;
    let targets = package["targets"].as_array().context("a package has targets")?;
    let with_engine = targets.iter().filter(|target| {
        target["required-features"].as_array().is_some_and(|features| features.iter().any(|name| name == "libfuzzer"))
    });
    Ok(with_engine.filter_map(|target| target["name"].as_str()).map(str::to_owned).collect())
}

/// Names of a folder's entries, without what follows a dot.
fn stems(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.path().file_stem().unwrap_or_default().to_string_lossy().into_owned())).collect()
}

fn fields(target: &Target) -> Option<String> {
    let sound = matches!(target.tier.as_str(), "deep" | "fast")
        && matches!(target.set.as_str(), "R" | "+" | "N")
        && (1..=4 << 20).contains(&target.max_len)
        && !target.rooms.is_empty()
        && target.rooms.iter().all(|room| root().join(room).is_dir());
    (!sound).then(|| format!("fuzz/targets.toml: {}: tier, set, rooms or max_len", target.name))
}

fn starters(folder: &Path, name: &str) -> Result<Option<String>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder)? {
        sum.0 += 1;
        sum.1 += entry?.metadata()?.len();
    }
    let sound = sum.0 >= 1 && sum.0 <= STARTERS_MAX.0 && sum.1 <= STARTERS_MAX.1;
    Ok((!sound).then(|| format!("fuzz/starters/{name}: {} files, {} bytes", sum.0, sum.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        let (name, tier, set) = (name.to_owned(), "deep".to_owned(), "R".to_owned());
        Target { name, tier, set, rooms: vec!["xtask/src".to_owned()], max_len: 4096 }
    }

    #[test]
    fn a_target_missing_from_any_list_is_reported() {
        let found = ["a", "c"].map(str::to_owned).into();
        let findings = differences("here", &[target("a"), target("b")], &found);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(differences("here", &[target("a"), target("c")], &found).is_empty());
    }

    #[test]
    fn an_entry_names_rooms_that_exist() {
        assert_eq!(fields(&target("a")), None);
        assert!(fields(&Target { rooms: vec!["no/such".into()], ..target("a") }).is_some());
        assert!(fields(&Target { max_len: 0, ..target("a") }).is_some());
        assert!(fields(&Target { tier: "slow".into(), ..target("a") }).is_some());
    }
}
