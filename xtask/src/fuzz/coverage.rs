//! `fuzz coverage`: which lines and functions of the code under test the kept inputs reach.
//!
//! ```text
//! target, unoptimised ──> __sancov_pcs: an address for every block ──> line tables: file and line
//! starters, regressions, corpus ──> libFuzzer's merge, whose control file says which blocks each input met
//! ```
//!
//! A line counts as reached when any code of it lies in a block that was met by any target, a function when its first
//! block was. What is generic counts only as far as a target makes it.

use super::engine::{self, Build, Purpose};
use super::ledger;
use super::lines::{self, Row};
use super::registry::{self, Target};
use crate::cargo::{root, target as target_folder};
use anyhow::{Context as _, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;

#[derive(clap::Args)]
pub struct Options {
    /// Only what these targets reach
    targets: Vec<String>,
    /// A file with fewer lines reached than its floor is an error
    #[arg(long, conflicts_with = "targets")]
    check: bool,
    /// Write the figures to fuzz/coverage.json, with the commit
    #[arg(long, conflicts_with = "targets")]
    record: bool,
    /// Name every function that no input reaches
    #[arg(long)]
    functions: bool,
}

/// What reads images. Of other rooms, files that no input reaches are not what these targets are for.
const READERS: &str = "parsers/";
/// Percent of the lines of such a file that must be reached.
const FLOOR: usize = 70;

/// A file: for each line, and for each line on which a function begins, whether it was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct File {
    lines: BTreeMap<u32, bool>,
    functions: BTreeMap<u32, bool>,
}

impl File {
    /// Without derived code, which belongs to lines of the type that it is of.
    fn without_derives(&mut self, source: &str) {
        let mut end: Option<String> = None; // of the type that this line is in
        for (line, text) in (1..).zip(source.lines()) {
            if text.trim_start().starts_with("#[derive(") {
                let indent = text.len() - text.trim_start().len();
                end = Some(format!("{}}}", &text[..indent]));
            }
            let Some(last) = &end else { continue };
            self.lines.remove(&line);
            self.functions.remove(&line);
            let is_last = text == last || text == last.replace('}', ");");
            if is_last || (text.ends_with(';') && text.contains("struct ")) {
                end = None;
            }
        }
    }
}

/// Files by their names.
type Files = BTreeMap<String, File>;

pub fn coverage(options: &Options) -> Result<()> {
    let targets = registry::select(&options.targets)?;
    let target = target_folder().join("fuzz/coverage");
    let build = Build { root: root(), target, purpose: Purpose::MeasureLines };
    build.build(&registry::names(&targets))?;
    let mut files = Files::new();
    for target in &targets {
        let binary = fs::read(build.binary(&target.name))?;
        let rows = lines::rows(&binary, &build.root).with_context(|| target.name.clone())?;
        let met = met(&build, target)?;
        println!("{:<18} {:>7} blocks met", target.name, met.len());
        take(&mut files, &rows, &met);
    }
    let rooms: BTreeSet<&str> = targets.iter().flat_map(|target| target.rooms.iter().map(String::as_str)).collect();
    files.retain(|name, file| counts(name, &rooms) && (name.starts_with(READERS) || reached(&file.lines) > 0));
    for (name, file) in &mut files {
        let source = fs::read_to_string(build.root.join(name)).with_context(|| name.clone())?;
        file.without_derives(&source);
    }
    files.retain(|_, file| !file.lines.is_empty());
    println!("\n{}", Table(&files));
    if options.functions {
        missed_functions(&build, &files)?;
    }
    let text = json(&files);
    fs::write(build.target.join("coverage.json"), &text)?;
    if options.record {
        fs::write(registry::folder().join("coverage.json"), record(&ledger::commit()?, &files))?;
    }
    let short = short(&files);
    if options.check && !short.is_empty() { bail!("too little is reached: {}", short.join("; ")) } else { Ok(()) }
}

/// Blocks that the kept inputs of a target meet, by their place in its table.
fn met(build: &Build, target: &Target) -> Result<BTreeSet<usize>> {
    let folder = build.target.join("merged");
    let (control, out) = (folder.join(format!("{}.control", target.name)), folder.join(&target.name));
    // What is there would be gone on with.
    let _ = fs::remove_file(&control);
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out)?;
    let mut folders = vec![out.clone(), engine::corpus(&target.name)?];
    folders.extend(build.seeds(&target.name));
    engine::merge(build, target, &folders, &control, &engine::log(&target.name, "coverage"))?;
    let text = fs::read_to_string(&control).with_context(|| control.display().to_string())?;
    fs::remove_dir_all(&out)?;
    Ok(met_of(&text))
}

/// Reads libFuzzer's control file: `COV FILE BLOCK BLOCK …`, each block once.
fn met_of(text: &str) -> BTreeSet<usize> {
    let blocks = |line: &str| -> Vec<usize> {
        let blocks = line.strip_prefix("COV ").map(|rest| rest.split(' ').skip(1).filter_map(|word| word.parse().ok()));
        blocks.into_iter().flatten().collect()
    };
    text.lines().flat_map(blocks).collect()
}

/// Adds what a target reaches.
fn take(files: &mut Files, rows: &[Row], met: &BTreeSet<usize>) {
    for row in rows {
        let reached = met.contains(&row.block.index);
        let file = files.entry(row.file.clone()).or_default();
        *file.lines.entry(row.line).or_default() |= reached;
        if row.first && row.block.entry {
            *file.functions.entry(row.line).or_default() |= reached;
        }
    }
}

/// Whether a file is under test: of a target's room, and neither a check, whose branches are findings, nor a test.
fn counts(file: &str, rooms: &BTreeSet<&str>) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let tests = file.contains("/tests/") || name == "tests.rs" || name.ends_with("_tests.rs");
    rooms.iter().any(|room| file.starts_with(room)) && name != "invariants.rs" && !tests
}

/// Files that are below their floor: of what reads images; the launcher's rooms have other tests.
fn short(files: &Files) -> Vec<String> {
    let readers = files.iter().filter(|(name, _)| name.starts_with(READERS));
    let below = readers.filter(|(_, file)| percent(&file.lines) < FLOOR);
    below.map(|(name, file)| format!("{name}: {} of {FLOOR} %", percent(&file.lines))).collect()
}

fn reached(places: &BTreeMap<u32, bool>) -> usize {
    places.values().filter(|reached| **reached).count()
}

fn percent(places: &BTreeMap<u32, bool>) -> usize {
    100 * reached(places) / places.len().max(1)
}

/// A line a file, then the sum of each folder.
struct Table<'a>(&'a Files);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, lines: (usize, usize), functions: (usize, usize)| {
            let percent = 100 * lines.0 / lines.1.max(1);
            let ((lines, of_lines), (functions, of_functions)) = (lines, functions);
            writeln!(
                f,
                "{percent:>3} % {lines:>6} of {of_lines:>6} lines {functions:>5} of {of_functions:>5} functions  {name}"
            )
        };
        let mut folders: BTreeMap<&str, [(usize, usize); 2]> = BTreeMap::new();
        for (name, file) in self.0 {
            let [lines, functions] = [&file.lines, &file.functions].map(|places| (reached(places), places.len()));
            row(name, lines, functions)?;
            let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
            let sum = folders.entry(folder).or_default();
            for (sum, one) in sum.iter_mut().zip([lines, functions]) {
                *sum = (sum.0 + one.0, sum.1 + one.1);
            }
        }
        folders.into_iter().try_for_each(|(name, [lines, functions])| row(&format!("{name}/"), lines, functions))
    }
}

/// Prints the functions that no input reaches, each by the line of the source on which it begins.
fn missed_functions(build: &Build, files: &Files) -> Result<()> {
    println!("functions that no input reaches:");
    for (name, file) in files {
        let source = fs::read_to_string(build.root.join(name)).with_context(|| name.clone())?;
        let lines: Vec<&str> = source.lines().collect();
        for line in file.functions.iter().filter(|(_, reached)| !**reached).map(|(line, _)| *line) {
            let text = lines.get(line as usize - 1).map_or("", |text| text.trim());
            println!("{name}:{line}: {text}");
        }
    }
    Ok(())
}

/// Reached and missed lines of each file.
fn json(files: &Files) -> String {
    let of_kind = |places: &BTreeMap<u32, bool>, wanted: bool| -> Vec<u32> {
        places.iter().filter(|(_, reached)| **reached == wanted).map(|(line, _)| *line).collect()
    };
    let file = |(name, file): (&String, &File)| {
        let (reached, missed) = (of_kind(&file.lines, true), of_kind(&file.lines, false));
        let functions = of_kind(&file.functions, false);
        (name.clone(), serde_json::json!({ "reached": reached, "missed": missed, "missed_functions": functions }))
    };
    serde_json::Value::Object(files.iter().map(file).collect()).to_string()
}

/// The figures that pages quote, a line a file: reached and all lines, reached and all functions.
fn record(commit: &str, files: &Files) -> String {
    let of = |places: &BTreeMap<u32, bool>| format!("[{}, {}]", reached(places), places.len());
    let file = |(name, file): (&String, &File)| {
        format!("    \"{name}\": {{ \"lines\": {}, \"functions\": {} }}", of(&file.lines), of(&file.functions))
    };
    let files: Vec<String> = files.iter().map(file).collect();
    format!("{{\n  \"commit\": \"{commit}\",\n  \"files\": {{\n{}\n  }}\n}}\n", files.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::super::lines::Block;
    use super::*;

    #[test]
    fn what_was_met_is_read_from_the_control_file() {
        let text = "2\n0\na/b\nc d\nSTARTED 0 5\nFT 0 9 10\nCOV 0 3 4\nSTARTED 1 6\nFT 1 11\nCOV 1 7\nCOV 2\n";
        assert_eq!(met_of(text), [3, 4, 7].into());
    }

    fn files() -> Files {
        let row = |index: usize, entry: bool, first: bool, line: u32| Row {
            block: Block { address: 0, index, entry },
            first,
            file: "parsers/src/a.rs".to_owned(),
            line,
        };
        // Two functions; the second one's block is met by no input. Line 7 is in blocks of both kinds.
        let rows = [row(0, true, true, 5), row(0, true, false, 6), row(1, false, true, 7), row(2, false, true, 7)];
        let mut files = Files::new();
        take(&mut files, &rows, &[0, 1].into());
        take(&mut files, &[row(3, true, true, 9), row(3, true, false, 10)], &BTreeSet::new());
        files
    }

    #[test]
    fn a_line_is_reached_by_any_of_its_blocks_and_a_function_by_its_first() {
        let files = files();
        let file = &files["parsers/src/a.rs"];
        assert_eq!(file.lines, [(5, true), (6, true), (7, true), (9, false), (10, false)].into());
        assert_eq!(file.functions, [(5, true), (9, false)].into());
        let mut again = files.clone();
        // Another target meets what this one did not, and what is reached stays so.
        let block = Block { address: 0, index: 8, entry: true };
        let row = Row { block, first: true, file: "parsers/src/a.rs".to_owned(), line: 9 };
        take(&mut again, std::slice::from_ref(&row), &[8].into());
        take(&mut again, &[row], &BTreeSet::new());
        assert_eq!(reached(&again["parsers/src/a.rs"].functions), 2);
    }

    #[test]
    fn what_is_derived_does_not_count() {
        let mut file = files().remove("parsers/src/a.rs").expect("it is there");
        file.without_derives("#[derive(Clone)]\nstruct A(u8);\n\n\nfn a() {\n\n\n    #[derive(Debug)]\n    struct B {\n        a: u8,\n    }\n}\n");
        assert_eq!(file.lines.keys().copied().collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(file.functions, [(5, true)].into());
    }

    #[test]
    fn a_file_below_its_floor_is_named_with_its_share() {
        assert_eq!(short(&files()), ["parsers/src/a.rs: 60 of 70 %"]);
        let elsewhere = files().into_values().map(|file| ("launcher/src/a.rs".to_owned(), file)).collect();
        assert!(short(&elsewhere).is_empty());
    }

    #[test]
    fn checks_and_tests_are_not_what_is_tested() {
        let rooms = BTreeSet::from(["parsers/src/vpc"]);
        assert!(counts("parsers/src/vpc/map.rs", &rooms));
        for other in ["vpc/invariants.rs", "vpc/tests.rs", "vpc/tests/make.rs", "vpc/bat_tests.rs", "qcow2/map.rs"] {
            assert!(!counts(&format!("parsers/src/{other}"), &rooms), "{other}");
        }
    }

    #[test]
    fn figures_are_told_by_file_and_by_folder() {
        let files = files();
        let table = Table(&files).to_string();
        let rows: Vec<&str> = table.lines().collect();
        let figures = " 60 %      3 of      5 lines     1 of     2 functions  ";
        assert_eq!(rows, ["parsers/src/a.rs", "parsers/src/"].map(|name| format!("{figures}{name}")));
        let value: serde_json::Value = serde_json::from_str(&record("c1", &files)).expect("JSON");
        assert_eq!(value["commit"], "c1");
        assert_eq!(value["files"]["parsers/src/a.rs"], serde_json::json!({ "lines": [3, 5], "functions": [1, 2] }));
        let lines = r#"{"parsers/src/a.rs":{"missed":[9,10],"missed_functions":[9],"reached":[5,6,7]}}"#;
        assert_eq!(json(&files), lines);
    }
}
