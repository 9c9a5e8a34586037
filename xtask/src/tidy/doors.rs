//! Doors: which crate may depend on which (docs/architecture.md).

use crate::cargo::metadata;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;

/// Every crate of the workspace and the crates of ours that it may depend on. Tests may use anything.
const DOORS: &[(&str, &[&str])] = &[
    ("instar-abi", &[]),
    ("instar-io", &[]),
    ("instar-kernel", &["instar-abi", "instar-io"]),
    ("instar-parsers", &["instar-abi", "instar-io"]),
    ("instar-images", &["instar-abi", "instar-io", "instar-kernel", "instar-parsers"]),
    ("instar", &["instar-abi"]),
    ("instar-fuzz", &["instar-abi", "instar-io", "instar-parsers", "instar"]),
    ("xtask", &[]),
];

pub fn check() -> Result<Vec<String>> {
    let metadata = metadata(&["--no-deps"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let used = package["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|dependency| dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|dependency| ours.contains(dependency));
        findings.extend(closed_doors(name, used));
    }
    Ok(findings)
}

/// Dependencies for which there is no door.
fn closed_doors<'a>(name: &'a str, used: impl Iterator<Item = &'a str>) -> Vec<String> {
    let Some((_, open)) = DOORS.iter().find(|(door, _)| *door == name) else {
        return vec![format!("{name}: not in the table of doors (xtask/src/tidy/doors.rs)")];
    };
    used.filter(|dependency| !open.contains(dependency))
        .map(|dependency| format!("{name} → {dependency}: there is no such door (docs/architecture.md)"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::closed_doors;

    #[test]
    fn the_launcher_links_no_parser() {
        assert_eq!(closed_doors("instar", ["instar-abi", "instar-parsers"].into_iter()).len(), 1);
        assert!(closed_doors("instar", ["instar-abi"].into_iter()).is_empty());
    }

    #[test]
    fn an_unknown_crate_is_a_finding() {
        assert_eq!(closed_doors("instar-utils", [].into_iter()).len(), 1);
    }
}
