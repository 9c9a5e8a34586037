//! Every starter and every regression through its target, without an engine.

use instar_fuzz::TARGETS;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn files(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target);
    let Ok(entries) = std::fs::read_dir(&folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    files
}

fn replay(folder: &str) -> usize {
    let mut count = 0;
    for (name, target) in TARGETS {
        for file in files(folder, name) {
            let data = std::fs::read(&file).expect("a readable file");
            let start = Instant::now();
            // The name is in the output of a failing test.
            println!("{name}: {}", file.display());
            target(&data);
            // Unoptimised, on a busy machine; the engine's own limit is 25 s.
            assert!(start.elapsed().as_secs() < 10, "{} takes {:?}", file.display(), start.elapsed());
            count += 1;
        }
    }
    count
}

#[test]
fn no_starter_is_a_finding() {
    let count = replay("starters");
    assert!(count >= TARGETS.len(), "only {count} starters");
}

#[test]
fn no_defect_comes_back() {
    replay("regressions");
}

#[test]
fn short_and_plain_inputs_are_harmless() {
    for (name, target) in TARGETS {
        for byte in [0, 0x5a, 0xff] {
            for len in [0, 1, 2, 7, 8, 9, 15, 16, 71, 72, 103, 104, 511, 512, 513, 519, 520, 1024, 4097] {
                println!("{name}: {len} bytes of {byte:#x}");
                target(&vec![byte; len]);
            }
        }
    }
}

#[test]
fn the_registry_and_the_library_name_the_same_targets() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("targets.toml")).expect("the registry");
    let registry: toml::Table = text.parse().expect("TOML");
    let targets = registry["target"].as_array().expect("a list").iter();
    let mut registered: Vec<&str> = targets.map(|target| target["name"].as_str().expect("a name")).collect();
    let mut ours: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    registered.sort_unstable();
    ours.sort_unstable();
    assert_eq!(registered, ours);
}
