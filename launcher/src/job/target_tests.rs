use super::*;
use crate::job::open::source;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

struct Yard {
    dir: tempfile::TempDir,
}

impl Yard {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("readable");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII")).collect();
        names.sort();
        names
    }

    fn write(&self, path: &str) -> Target {
        let target = Target::create(&self.path(path), &[]).expect("made");
        target.file().write_all(b"after").expect("written");
        target
    }

    fn content(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("there")
    }
}

#[test]
fn a_new_file_appears_whole_or_not_at_all() {
    let yard = Yard::new();
    let target = yard.write("out");
    assert_eq!(yard.names(), [""; 0]);
    drop(target);
    assert_eq!(yard.names(), [""; 0]);
    yard.write("out").keep(true).expect("kept");
    assert_eq!((yard.names(), yard.content("out")), (vec!["out".to_owned()], b"after".to_vec()));
}

#[test]
fn an_existing_file_stays_until_the_new_one_is_whole() {
    let yard = Yard::new();
    std::fs::write(yard.path("out"), b"before").expect("written");
    std::fs::set_permissions(yard.path("out"), std::fs::Permissions::from_mode(0o640)).expect("set");
    let target = yard.write("out");
    assert_eq!(yard.content("out"), b"before");
    drop(target);
    assert_eq!(yard.content("out"), b"before");
    yard.write("out").keep(false).expect("kept");
    assert_eq!((yard.names(), yard.content("out")), (vec!["out".to_owned()], b"after".to_vec()));
    assert_eq!(std::fs::metadata(yard.path("out")).expect("there").mode() & 0o777, 0o640);
}

#[test]
fn a_file_that_appears_meanwhile_is_replaced() {
    let yard = Yard::new();
    let target = yard.write("out");
    std::fs::write(yard.path("out"), b"another's").expect("written");
    target.keep(false).expect("kept");
    assert_eq!((yard.names(), yard.content("out")), (vec!["out".to_owned()], b"after".to_vec()));
}

#[test]
fn links_are_written_through() {
    let yard = Yard::new();
    std::fs::write(yard.path("a"), b"before").expect("written");
    std::fs::hard_link(yard.path("a"), yard.path("b")).expect("linked");
    std::os::unix::fs::symlink("a", yard.path("c")).expect("linked");
    std::os::unix::fs::symlink("new", yard.path("dangling")).expect("linked");
    for name in ["b", "c"] {
        std::fs::write(yard.path("a"), b"123").expect("written");
        yard.write(name).keep(false).expect("kept");
        assert_eq!((yard.content("a"), yard.content("b")), (b"after".to_vec(), b"after".to_vec()));
    }
    drop(yard.write("dangling"));
    assert_eq!(yard.names(), ["a", "b", "c", "dangling"]);
    yard.write("dangling").keep(false).expect("kept");
    assert_eq!(yard.content("new"), b"after");
}

#[test]
fn a_source_is_never_the_target() {
    let yard = Yard::new();
    std::fs::write(yard.path("a"), b"before").expect("written");
    std::fs::hard_link(yard.path("a"), yard.path("b")).expect("linked");
    let opened = source(&yard.path("a"), Claim::NONE).expect("opens");
    assert_eq!(Target::create(&yard.path("b"), &[opened.id]).map(|_| ()), Err(OpenError::SameFile));
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let yard = Yard::new();
    fs::mknodat(CWD, yard.path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
    let refused = |name: &str| Target::create(&yard.path(name), &[]).map(|_| ());
    assert_eq!(refused("fifo"), Err(OpenError::Kind));
    assert_eq!(refused("."), Err(OpenError::Host(Errno::ISDIR.raw_os_error())));
    assert_eq!(refused("no/out"), Err(OpenError::Host(Errno::NOENT.raw_os_error())));
    assert_eq!(refused("new/"), Err(OpenError::Host(Errno::ISDIR.raw_os_error())));
    assert_eq!(yard.names(), ["fifo"]);
}

#[test]
fn a_locked_target_is_refused() {
    let yard = Yard::new();
    std::fs::write(yard.path("a"), b"before").expect("written");
    let _reader = source(&yard.path("a"), Claim::READ).expect("opens");
    assert!(matches!(Target::create(&yard.path("a"), &[]), Err(OpenError::Lock(_))));
}
