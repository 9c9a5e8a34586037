//! Nights over targets that are scripts: a shell plays libFuzzer.

use super::super::engine::Purpose;
use super::*;
use std::os::unix::fs::PermissionsExt as _;

/// A folder with scripts for targets, a corpus and a place for findings.
struct Place {
    folder: PathBuf,
    build: Build,
    issues: Issues,
}

impl Place {
    fn new(name: &str) -> Self {
        let folder = target_folder().join("fuzz/test").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("corpus")).expect("writable");
        let build = Build { root: folder.clone(), target: folder.clone(), purpose: Purpose::RunLong };
        let issues = Issues::at(folder.join("issues")).expect("writable");
        Self { folder, build, issues }
    }

    /// Runs a target that is this script.
    fn run(&self, target: &Target, script: &str) -> Ran {
        let binary = self.build.binary(&target.name);
        fs::create_dir_all(binary.parent().expect("a folder")).expect("writable");
        fs::write(&binary, format!("#!/bin/sh\n{script}\n")).expect("writable");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("ours");
        let night = Night { build: &self.build, issues: &self.issues, commit: "c1".into(), seed: None, minimise_s: 1 };
        night.run(target, &self.folder.join("corpus"), Length::Seconds(1))
    }

    fn issues(&self) -> Vec<serde_json::Value> {
        let files = fs::read_dir(self.folder.join("issues")).expect("it is there");
        let text = |entry: fs::DirEntry| fs::read_to_string(entry.path()).expect("readable");
        files.map(|entry| serde_json::from_str(&text(entry.expect("an entry"))).expect("JSON")).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Names are of one test each: logs are by name.
fn target(name: &str, tier: &str) -> Target {
    Target { name: name.into(), tier: tier.into(), set: "N".into(), rooms: vec![], max_len: 64 }
}

const CLEAN: &str = "echo x >corpus/found; echo '#9 DONE cov: 5 ft: 6'; echo 'stat::number_of_executed_units: 9'";
/// Fails on any input that holds `bad`; the minimiser has nothing smaller.
const BROKEN: &str = "case \"$*\" in *minimize_crash*) exit 1;; esac
    for word; do file=$word; done
    [ -d \"$file\" ] && { file=$PWD/crash-0; printf 'so bad!' >$file; }
    grep -q bad $file || { echo Executed; exit 0; }
    echo \"thread 'x' panicked at parsers/src/a.rs:5:9:\"; echo \"cluster $$ of it\"; echo \"Test unit written to $file\"
    exit 77";

#[test]
fn a_finding_is_proven_and_filed_and_the_night_goes_on() {
    let place = Place::new("nightly-finding");
    let broken = place.run(&target("test_filed", "deep"), BROKEN);
    assert!(
        matches!(&broken, Ran::Ran { filed: Some(Ok(Filed::New(_))), .. }),
        "{}",
        line(&target("test_filed", "deep"), &broken)
    );
    assert_eq!(failure(&target("test_filed", "deep"), &broken), None, "it has reached a person");
    let issue = &place.issues()[0];
    assert_eq!((&issue["failed_alone"], &issue["target"]), (&"3 of 3".into(), &"test_filed".into()));
    assert_eq!(issue["input_base64"], "c28gYmFkIQ==");
    assert!(issue["log"].as_str().is_some_and(|log| log.contains("parsers/src/a.rs:5:9")), "{issue}");
    // The same night, or the next one; the process has another number then, and the message with it.
    let again = place.run(&target("test_filed", "deep"), BROKEN);
    assert!(matches!(again, Ran::Ran { filed: Some(Ok(Filed::Again(_))), .. }));
    assert_eq!(place.issues()[0]["seen"].as_array().map(Vec::len), Some(2));
    let clean = place.run(&target("test_clean", "fast"), CLEAN);
    assert!(matches!(&clean, Ran::Ran { filed: None, new: 1, outcome, .. } if outcome.executions == 9));
    assert_eq!(failure(&target("test_clean", "fast"), &clean), None);
}

#[test]
fn a_finding_nobody_was_told_about_fails_the_run_last() {
    let place = Place::new("nightly-untold");
    fs::remove_dir(place.folder.join("issues")).expect("empty");
    let broken = place.run(&target("test_untold", "deep"), BROKEN);
    let why = failure(&target("test_untold", "deep"), &broken).expect("a failure");
    assert!(why.starts_with("test_untold: a finding that nobody was told about"), "{why}");
    // It is told at the end: what comes next runs.
    assert!(matches!(place.run(&target("test_next", "fast"), CLEAN), Ran::Ran { filed: None, .. }));
}

#[test]
fn a_target_that_runs_nothing_fails_the_night() {
    let place = Place::new("nightly-nothing");
    for script in ["true", "echo 'stat::number_of_executed_units: 0'; echo Executed"] {
        let ran = place.run(&target("test_nothing", "fast"), script);
        assert!(
            failure(&target("test_nothing", "fast"), &ran).is_some_and(|why| why.contains("ran no input")),
            "{script}"
        );
    }
}

#[test]
fn deep_targets_share_what_the_fast_ones_leave() {
    let targets: Vec<Target> =
        (0..10).map(|index| target(&index.to_string(), if index < 4 { "fast" } else { "deep" })).collect();
    let shares = |duration, budget| {
        let Shares { fast, deep } = Shares::of(&targets, duration, budget);
        assert!(4 * fast + 6 * deep <= budget, "{fast} {deep}");
        (fast, deep)
    };
    assert_eq!(shares(3600, 27_000), (300, 3600));
    assert_eq!(shares(3600, 13_200), (300, 2000));
    assert_eq!(shares(60, 27_000), (60, 60));
    // Too little for anyone is shared evenly.
    assert_eq!(shares(3600, 600), (60, 60));
    assert_eq!(Shares::of(&targets[..4], 3600, 600), Shares { fast: 150, deep: 0 });
}
