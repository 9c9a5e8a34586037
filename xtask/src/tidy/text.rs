//! What sources may say, and where.

use crate::cargo::{output, root};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

/// The only folders with unsafe code.
const UNSAFE_ROOMS: &[&str] = &[
    "kernel/src/arch/",
    "kernel/src/bus/",
    "kernel/src/mem/",
    "kernel/src/blk/",
    "kernel/src/smp/",
    "launcher/src/vmm/",
];

/// Lines of a source file from which it is split by concept.
const FILE_LINES_MAX: usize = 800;

pub fn check() -> Result<Vec<String>> {
    let files = output(Command::new("git").current_dir(root()).args(["ls-files", "-z"]))?;
    let mut findings = Vec::new();
    let mut unsafe_counts = BTreeMap::new();
    for name in files.split('\0').filter(|name| !name.is_empty()) {
        let Ok(bytes) = fs::read(root().join(name)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        // This file holds the forbidden words themselves.
        if name.ends_with(".rs") && name != "xtask/src/tidy/text.rs" {
            findings.extend(source(name, &text));
            *unsafe_counts.entry(room(name)).or_insert(0) += count_unsafe(&text);
        }
        if !name.ends_with(".lock") {
            findings.extend(everywhere(name, &text));
        }
    }
    for (room, count) in unsafe_counts.into_iter().filter(|(_, count)| *count > 0) {
        println!("tidy: {count:>3} unsafe in {room}");
    }
    let setup = fs::read_to_string(root().join("xtask/setup-debian.sh")).context("xtask/setup-debian.sh")?;
    findings.extend(
        crate::doctor::packages()
            .filter(|package| !setup.contains(package))
            .map(|package| format!("xtask/setup-debian.sh does not install {package}, which tests need")),
    );
    Ok(findings)
}

fn room(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn count_unsafe(text: &str) -> usize {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| {
            ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern ", "unsafe trait "]
                .iter()
                .map(|word| line.matches(word).count())
                .sum::<usize>()
        })
        .sum()
}

/// Rules for Rust sources.
fn source(name: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if count_unsafe(text) > 0 && !UNSAFE_ROOMS.iter().any(|room| name.starts_with(room)) {
        findings.push(format!("{name}: unsafe code outside its rooms"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(format!("{name}: {lines} lines; which concept wants a file of its own?"));
    }
    for word in ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX", "TODO"] {
        if text.contains(word) {
            findings.push(format!("{name}: {word}"));
        }
    }
    findings
}

/// Rules for every text file.
fn everywhere(name: &str, text: &str) -> Vec<String> {
    let home = ["/ro", "ot/"].concat();
    let work = ["/wo", "rk/"].concat();
    [home, work]
        .iter()
        .filter(|path| text.contains(path.as_str()))
        .map(|path| format!("{name}: {path} is a path of one machine"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_stays_in_its_rooms() {
        let text = "fn f() { unsafe { g() } }\n// unsafe { in a comment }\n";
        assert_eq!(count_unsafe(text), 1);
        assert!(source("kernel/src/mem/heap.rs", text).is_empty());
        assert_eq!(source("parsers/src/lib.rs", text).len(), 1);
    }

    #[test]
    fn unfinished_work_and_long_files_are_findings() {
        assert_eq!(source("a.rs", "fn f() { todo!() }").len(), 1);
        assert_eq!(source("a.rs", "#[ignore]").len(), 1);
        assert_eq!(source("a.rs", &"\n".repeat(FILE_LINES_MAX + 1)).len(), 1);
        assert!(source("a.rs", &"\n".repeat(FILE_LINES_MAX)).is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_a_finding() {
        let path = ["/ro", "ot/x"].concat();
        assert_eq!(everywhere("docs/a.md", &path).len(), 1);
        assert!(everywhere("docs/a.md", "/dev/kvm").is_empty());
    }
}
