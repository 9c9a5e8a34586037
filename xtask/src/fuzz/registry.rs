//! `fuzz/targets.toml`: the one list of targets.

use crate::cargo::root;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::PathBuf;

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of its function and binary.
    pub name: String,
    /// "deep" or "fast".
    pub tier: String,
    /// "R": every release ships it; "N": ours.
    pub set: String,
    /// Folders that it covers.
    pub rooms: Vec<String>,
    /// Bytes of the largest input.
    pub max_len: u64,
}

/// The folder of the crate.
pub fn folder() -> PathBuf {
    root().join("fuzz")
}

/// All targets.
///
/// # Errors
/// The file is missing, or an entry is not complete.
pub fn read() -> Result<Vec<Target>> {
    let path = folder().join("targets.toml");
    parse(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)
}

/// The targets' names.
pub fn names(targets: &[Target]) -> Vec<&str> {
    targets.iter().map(|target| target.name.as_str()).collect()
}

/// The targets of these names, all of them where none is named.
///
/// # Errors
/// A name that is not in the list.
pub fn select(wanted: &[String]) -> Result<Vec<Target>> {
    let targets = read()?;
    if let Some(unknown) = wanted.iter().find(|name| targets.iter().all(|target| target.name != **name)) {
        bail!("no target {unknown}; there are: {}", names(&targets).join(", "));
    }
    Ok(targets.into_iter().filter(|target| wanted.is_empty() || wanted.contains(&target.name)).collect())
}

fn parse(text: &str) -> Result<Vec<Target>> {
    let table: toml::Table = text.parse()?;
    let list = table.get("target").and_then(toml::Value::as_array).context("fuzz/targets.toml has no [[target]]")?;
    list.iter().map(entry).collect()
}

fn entry(entry: &toml::Value) -> Result<Target> {
    let name = entry.get("name").and_then(toml::Value::as_str).context("a target without a name")?;
    let missing = |key: &str| format!("{name}: {key} is missing or of another type");
    let text =
        |key: &str| entry.get(key).and_then(toml::Value::as_str).map(str::to_owned).with_context(|| missing(key));
    let rooms = entry.get("rooms").and_then(toml::Value::as_array).with_context(|| missing("rooms"))?;
    let rooms = rooms.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect();
    let max_len = entry.get("max_len").and_then(toml::Value::as_integer).with_context(|| missing("max_len"))?;
    Ok(Target {
        name: name.to_owned(),
        tier: text("tier")?,
        set: text("set")?,
        rooms,
        max_len: u64::try_from(max_len)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_all_its_fields() {
        let good = "[[target]]\nname = \"a\"\ntier = \"fast\"\nset = \"R\"\nrooms = [\"x\"]\nmax_len = 5\n";
        assert_eq!(parse(good).expect("sound")[0].max_len, 5);
        for line in good.lines().skip(1) {
            assert!(parse(&good.replace(line, "")).is_err(), "{line}");
        }
        assert!(parse("").is_err());
    }
}
