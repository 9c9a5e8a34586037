//! Configuration files, and what they change, of every operation.

use crate::common::{make, scratch};
use crate::judge::instar;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// Exit code, standard output and error of a run with a configuration file of this text.
fn with(program: &Path, directory: &Path, text: &str, words: &[&str]) -> (Option<i32>, String, String) {
    fs::write(directory.join("config.toml"), text).expect("writable");
    let mut command = Command::new(program);
    command.args(words).current_dir(directory).env("INSTAR_CONFIG", directory.join("config.toml"));
    let output = command.env_remove("INSTAR_BACKING").env_remove("INSTAR_ALLOW_BACKING").output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What each operation on images is called by; it reads `a.qcow2` at most.
const OPERATIONS: &[&[&str]] = &[
    &["info", "a.qcow2"],
    &["check", "a.qcow2"],
    &["map", "a.qcow2"],
    &["measure", "-O", "qcow2", "a.qcow2"],
    &["compare", "a.qcow2", "b.qcow2"],
    &["convert", "-O", "raw", "a.qcow2", "out"],
    &["dd", "if=a.qcow2", "of=out", "-O", "raw"],
];

#[test]
fn a_configuration_is_shown_with_its_origins_and_checked() {
    let Some(instar) = instar(&[]) else { return };
    let directory = scratch();
    let directory = directory.path();
    let text = "[gate]\nmax-depth = 5\n[limits]\ntime = 30\n";
    let (code, shown, _) = with(&instar, directory, text, &["config", "show", "--allow-backing", "/tmp"]);
    let file = directory.join("config.toml").display().to_string();
    assert_eq!(code, Some(0));
    for (start, origin) in [
        ("max-depth = 5", file.as_str()),
        ("time = 30", &file),
        ("  \"/tmp\",", "--allow-backing"),
        ("max-disks", "built in"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(start)).expect(start);
        assert!(line.ends_with(&format!("# {origin}")), "{line}");
    }
    assert!(shown.contains("# heap") && shown.contains("# built in, by the operation\n"), "{shown}");
    // It is a configuration itself.
    fs::write(directory.join("shown.toml"), &shown).expect("writable");
    let (code, told, errors) = with(&instar, directory, "", &["config", "check", "shown.toml"]);
    assert!(code == Some(0) && told.starts_with("'shown.toml' is sound; it sets "), "{told}{errors}");
    for (text, words) in [
        ("[gate]\nmax-dept = 3\n", "unknown key 'gate.max-dept'; the nearest is 'gate.max-depth'"),
        ("[gate]\nmax-depth = 65\n", "gate.max-depth must be a number from 1 to 64"),
        ("[gate]\nallow = [\"/no/such\"]\n", "Could not find allowed directory '/no/such': No such file or directory"),
        ("[gate\n", "is no TOML"),
    ] {
        let (code, _, errors) = with(&instar, directory, text, &["config", "check", "config.toml"]);
        assert!(code == Some(1) && errors.contains(words), "{text}: {errors}");
    }
    let (code, _, errors) = with(&instar, directory, "", &["config", "check", "missing.toml"]);
    assert!(code == Some(1) && errors.contains("No such file or directory"), "{errors}");
    let (code, help, _) = with(&instar, directory, "", &["config", "--help"]);
    assert!(code == Some(0) && help.contains("limits.guest-memory"), "{help}");
}

#[test]
fn a_configuration_that_is_not_understood_ends_every_operation() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(directory.path(), "qemu-img create -q -f qcow2 a.qcow2 4M; cp a.qcow2 b.qcow2");
    for program in [&instar, &instar.with_file_name("qemu-img")] {
        for words in OPERATIONS {
            let (code, _, errors) = with(program, directory.path(), "[outputs]\n", words);
            let expected = if words[0] == "compare" { 2 } else { 1 };
            assert!(code == Some(expected) && errors.contains("unknown key 'outputs'"), "{words:?}: {code:?} {errors}");
            assert!(!directory.path().join("out").exists());
        }
    }
}

/// Whoever is told that the configuration is wrong asks for help next.
#[test]
fn help_and_version_are_there_whatever_the_configuration_says() {
    let Some(instar) = instar(&[]) else { return };
    let directory = scratch();
    let directory = directory.path();
    let mut asked: Vec<Vec<&str>> =
        OPERATIONS.iter().flat_map(|words| [vec![words[0], "--help"], vec![words[0], "-h"]]).collect();
    asked.extend([vec!["--help"], vec!["--version"], vec!["-V"], vec!["config", "--help"], vec!["image", "--help"]]);
    asked.push(vec!["convert", "-O", "qcow2", "-o", "help"]);
    for program in [&instar, &instar.with_file_name("qemu-img")] {
        for words in &asked {
            let expected = with(program, directory, "", words);
            assert_eq!(with(program, directory, "[outputs]\n", words), expected, "{words:?}");
            let is_ours = matches!(words[0], "config" | "image") && program != &instar;
            assert!(is_ours || (expected.0 == Some(0) && !expected.1.is_empty()), "{words:?}: {expected:?}");
        }
        // So are wrong words, which mean nothing under any configuration.
        let (_, _, errors) = with(program, directory, "[outputs]\n", &["info", "--no-such-option"]);
        assert!(errors.contains("--no-such-option") && !errors.contains("outputs"), "{errors}");
    }
}

#[test]
fn limits_hold_for_every_operation() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    // Two MiB of tables.
    make(directory.path(), "qemu-img create -q -f qcow2 -o preallocation=metadata a.qcow2 16G; cp a.qcow2 b.qcow2");
    let small = "[limits]\nguest-memory = \"64M\"\nheap = \"16M\"\nread = \"64M\"\ntime = 600\n";
    for words in OPERATIONS {
        let (code, _, errors) = with(&instar, directory.path(), small, words);
        assert!(code == Some(0) && errors.is_empty(), "{words:?}: {errors}");
        let _ = fs::remove_file(directory.path().join("out"));
        let (code, _, errors) = with(&instar, directory.path(), "[limits]\nread = \"1M\"\n", words);
        if words[0] != "info" {
            let is_refused = errors.contains("it asks for more metadata to be read");
            assert!(code != Some(0) && is_refused, "{words:?}: {code:?} {errors}");
        }
    }
    // A count for each of its clusters, which are more than a million.
    make(directory.path(), "qemu-img create -q -f qcow2 -o preallocation=metadata a.qcow2 80G");
    let heap = "[limits]\nheap = \"1M\"\n";
    let (code, _, errors) = with(&instar, directory.path(), heap, &["check", "a.qcow2"]);
    assert!(code == Some(1) && errors.contains("it asks for more memory"), "{code:?} {errors}");
}

#[test]
fn output_raw_and_sparse_are_what_the_options_say_unless_typed() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, "qemu-img create -q -f qcow2 a.qcow2 4M; truncate -s 4M raw");
    let json = "[output]\nformat = \"json\"\ndetails = true\n";
    for words in [&["info", "a.qcow2"][..], &["check", "a.qcow2"], &["map", "a.qcow2"], &["measure", "a.qcow2"]] {
        let (code, told, errors) = with(&instar, directory, json, words);
        assert!(
            code == Some(0) && serde_json::from_str::<serde_json::Value>(&told).is_ok(),
            "{words:?} {told}{errors}"
        );
        let (_, typed, _) = with(&instar, directory, json, &[words, &["--output", "human"]].concat());
        assert!(serde_json::from_str::<serde_json::Value>(&typed).is_err(), "{words:?} {typed}");
        let compatible = instar.with_file_name("qemu-img");
        assert_eq!(with(&compatible, directory, json, words), with(&compatible, directory, "", words));
    }
    let details =
        |text| with(&instar, directory, text, &["info", "--output", "json", "a.qcow2"]).1.contains("\"instar\"");
    assert!(details(json) && !details(""));

    let raw = |text| with(&instar, directory, text, &["info", "raw"]);
    assert!(raw("").2.contains("unknown format"));
    assert!(raw("[gate]\nraw = \"any\"\n").1.contains("file format: raw"));

    let copied = |text, more: &[&str]| {
        let words = [&["convert", "-f", "raw", "-O", "raw"], more, &["raw", "out"]].concat();
        let (code, _, errors) = with(&instar, directory, text, &words);
        assert!(code == Some(0) && errors.is_empty(), "{errors}");
        let blocks = fs::metadata(directory.join("out")).expect("made").blocks();
        fs::remove_file(directory.join("out")).expect("made");
        blocks
    };
    make(directory, "dd if=/dev/zero of=raw bs=1M count=4 2>/dev/null");
    let all = "[convert]\nsparse = 0\nworkers = 1\n";
    assert!(copied(all, &[]) >= 8192);
    assert!(copied(all, &["-S", "4k"]) < 1024 && copied("", &[]) < 1024);
    // What is configured is not what was typed: offloading goes without -S.
    copied(all, &["-C"]);
}
