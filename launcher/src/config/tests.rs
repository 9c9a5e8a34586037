use super::*;
use crate::gate::policy::Ground;

fn from_files(texts: &[&str]) -> Result<Config, PolicyError> {
    let dir = tempfile::tempdir().expect("a directory");
    let files = texts.iter().enumerate().map(|(index, text)| {
        let file = dir.path().join(index.to_string());
        std::fs::write(&file, text).expect("written");
        file
    });
    let files = files.chain([dir.path().join("missing")]).collect();
    Config::load(&Sources { files, ..Sources::default() })
}

fn policy(config: &Config) -> Policy {
    config.policy(&[]).expect("a policy")
}

#[test]
fn without_any_source_the_images_directory_is_the_ground() {
    let policy = policy(&Config::load(&Sources::default()).expect("a configuration"));
    assert_eq!((policy.ground(), policy.depth_max(), policy.allowed().len()), (Ground::Dir, 16, 0));
}

#[test]
fn the_stronger_source_wins_and_directories_add_up() {
    let config = from_files(&[
        "[gate]\nbacking = \"any\"\nallow = [\"/tmp\"]\n[output]\nformat = \"json\"",
        "[gate]\nbacking = \"none\"\nmax-depth = 64\nmax-disks = 256\nallow = [\"/usr\"]\n[output]\nformat = \"human\"",
    ]);
    let config = config.expect("a configuration");
    let found = policy(&config);
    assert_eq!((found.ground(), found.depth_max(), found.files_max()), (Ground::Any, 64, 256));
    assert_eq!((found.allowed().len(), config.values().json), (2, true));
    let sources = Sources {
        allow: vec!["/usr".into()],
        backing: Some("none".into()),
        allow_backing: Some("/tmp:/".into()),
        files: vec![],
    };
    let config = Config::load(&sources).expect("a configuration");
    let found = policy(&config);
    assert_eq!((found.ground(), found.allowed().len()), (Ground::None, 3));
    assert_eq!(config.policy(&["/tmp".into()]).map(|policy| policy.allowed().len()), Ok(4));
}

#[test]
fn every_key_is_taken_and_shown_with_who_says_so() {
    let text = "[output]\nformat = \"json\"\ndetails = true\n[gate]\nbacking = \"none\"\nmax-depth = 3\nmax-disks = 4\n\
        raw = \"any\"\n[limits]\nheap = \"32M\"\nread = 2097152\ntime = 7\nguest-memory = \"64M\"\n\
        [convert]\nsparse = \"64k\"\nworkers = 2\n";
    let config = from_files(&[text]).expect("a configuration");
    let Values { json, details, ground, depth_max, files_max, raw_as_qemu_img, limits, sparse_len, workers } =
        config.values().clone();
    assert_eq!((json, details, ground, depth_max, files_max), (true, true, Ground::None, 3, 4));
    assert_eq!((raw_as_qemu_img, sparse_len, workers), (true, 65536, Some(2)));
    let expected = Limits {
        heap: Some(32 << 20),
        read: Some(2 << 20),
        time: Some(Duration::from_secs(7)),
        guest_memory: Some(64 << 20),
    };
    assert_eq!(limits, expected);
    let shown = config.show();
    assert!(!shown.contains("built in\n") || shown.matches("built in\n").count() == 1, "only allow: {shown}");
    let mut again = Config::default();
    again.take_file(Path::new("again"), &shown).expect("what is shown sets it again");
    assert_eq!((again.values(), again.count()), (config.values(), 12));
    // Nothing set: every value that all operations share is shown all the same.
    let shown = Config::default().show();
    assert_eq!(shown.matches("# built in").count(), KEYS.len(), "{shown}");
    again = Config::default();
    again.take_file(Path::new("again"), &shown).expect("a configuration");
    assert_eq!(again.values(), &Values::default());
}

#[test]
fn origins_are_told() {
    let sources = Sources {
        allow: vec!["/usr".into()],
        backing: Some("none".into()),
        allow_backing: Some("/tmp".into()),
        files: vec![],
    };
    let shown = Config::load(&sources).expect("a configuration").show();
    for (start, origin) in [
        ("backing = \"none\"", "INSTAR_BACKING"),
        ("  \"/tmp\",", "INSTAR_ALLOW_BACKING"),
        ("  \"/usr\",", "--allow-backing"),
        ("max-depth = 16", "built in"),
        ("# time", "built in, by the operation"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(start)).expect(start);
        assert!(line.ends_with(&format!("# {origin}")), "{line}");
    }
    // No name of a file acts on a terminal, or makes a line of its own.
    let mut config = Config::default();
    config.take_file(Path::new("a\u{1b}[2J\nraw = \"any\""), "[output]\ndetails = true").expect("sound");
    let shown = config.show();
    assert!(
        shown.contains("# a\\x1b[2J") && !shown.contains('\u{1b}') && !shown.contains("\nraw = \"any\""),
        "{shown}"
    );
}

#[test]
fn what_is_not_understood_is_an_error_and_the_nearest_key_is_named() {
    let key = |result: Result<Config, PolicyError>| match result {
        Err(PolicyError::Key { key, .. }) => (nearest(&key), key),
        other => panic!("{other:?}"),
    };
    for (text, found, expected) in [
        ("[gate]\nbackings = \"any\"", "gate.backings", "gate.backing"),
        ("[gate]\nmaxdepth = 1", "gate.maxdepth", "gate.max-depth"),
        ("[limits]\nmemory = 1", "limits.memory", "limits.heap"),
        ("[limit]\nheap = 1", "limit", "limits.heap"),
        ("[convert]\nworker = 1", "convert.worker", "convert.workers"),
        ("[gates]\n", "gates", "gate.backing"),
        ("backing = \"any\"", "backing", "gate.backing"),
    ] {
        assert_eq!(key(from_files(&[text])), (expected, found.to_owned()), "{text}");
    }
    assert!(matches!(from_files(&["[gate"]), Err(PolicyError::Syntax { .. })));
    for text in [
        "[gate]\nbacking = \"all\"",
        "[gate]\nbacking = 1",
        "[gate]\nallow = \"/\"",
        "[gate]\nallow = [1]",
        "[gate]\nmax-depth = 0",
        "[gate]\nmax-depth = 65",
        "[gate]\nmax-disks = 257",
        "[gate]\nraw = true",
        "[output]\nformat = \"xml\"",
        "[output]\ndetails = \"yes\"",
        "[limits]\nheap = \"512k\"",
        "[limits]\nread = -1",
        "[limits]\ntime = 0",
        "[limits]\nguest-memory = \"65M\"",
        "[limits]\nguest-memory = \"2G\"",
        "[convert]\nsparse = 100",
        "[convert]\nworkers = 0",
    ] {
        let found = from_files(&[text]);
        assert!(matches!(found, Err(PolicyError::Value { .. })), "{text}: {found:?}");
    }
    let missing = from_files(&["[gate]\nallow = [\"/no/such\"]"]).expect("nobody has looked for it yet");
    assert!(matches!(missing.policy(&[]), Err(PolicyError::Directory { .. })));
    let all = Sources { backing: Some("all".into()), ..Sources::default() };
    assert!(matches!(Config::load(&all), Err(PolicyError::Value { .. })));
}
