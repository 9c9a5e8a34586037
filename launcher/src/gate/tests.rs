//! Attacks on the gate.

use super::*;
use crate::config::{Config, Sources};
use rustix::fs::mknodat;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

/// A directory with an image, one beside it, and files outside.
struct Yard {
    root: tempfile::TempDir,
}

fn policy(sources: &Sources) -> Policy {
    Config::load(sources).and_then(|config| config.policy(&[])).expect("a policy")
}

impl Yard {
    fn new() -> Self {
        let yard = Self { root: tempfile::tempdir().expect("a directory") };
        for dir in ["imgs", "imgs/sub", "imgs2", "outside"] {
            std::fs::create_dir(yard.path(dir)).expect("made");
        }
        for file in ["imgs/top", "imgs/base", "imgs/sub/base", "imgs2/base", "outside/secret"] {
            std::fs::write(yard.path(file), file).expect("written");
        }
        yard
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn sources(backing: &str) -> Sources {
        Sources { backing: Some(backing.into()), ..Sources::default() }
    }

    fn try_with(&self, sources: &Sources, name: &[u8]) -> Result<String, Refusal> {
        let policy = policy(sources);
        let opened = Gate::new(&policy, &[]).open(&self.path("imgs/top"), name, 2, Claim::READ)?;
        Ok(std::fs::read_to_string(format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&opened.file)))
            .expect("reads"))
    }

    /// What the image `imgs/top` gets for a name by default.
    fn gets(&self, name: &str) -> Result<String, Refusal> {
        self.try_with(&Sources::default(), name.as_bytes())
    }

    fn absolute(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().expect("UTF-8")
    }
}

#[test]
fn files_beside_and_below_the_image_are_opened() {
    let yard = Yard::new();
    assert_eq!(yard.gets("base").as_deref(), Ok("imgs/base"));
    assert_eq!(yard.gets("./sub/../base").as_deref(), Ok("imgs/base"));
    assert_eq!(yard.gets("sub/base").as_deref(), Ok("imgs/sub/base"));
    assert_eq!(yard.gets(&yard.absolute("imgs/sub/base")).as_deref(), Ok("imgs/sub/base"));
    assert_eq!(yard.gets("missing"), Err(Refusal::Host(Errno::NOENT.raw_os_error())));
}

#[test]
fn dot_dot_is_not_inside() {
    let yard = Yard::new();
    let lexically_beneath = format!("{}/../outside/secret", yard.absolute("imgs"));
    for name in ["../outside/secret", "sub/../../outside/secret", "../imgs2/base", "..", "sub/..", &lexically_beneath] {
        let refusal = yard.gets(name);
        assert!(matches!(refusal, Err(Refusal::Outside)), "{name}: {refusal:?}");
    }
    let allow = Sources { allow: vec![yard.path("imgs2")], ..Sources::default() };
    let through_allowed = format!("{}/../outside/secret", yard.absolute("imgs2"));
    assert_eq!(yard.try_with(&allow, through_allowed.as_bytes()), Err(Refusal::Outside));
}

#[test]
fn a_directory_whose_name_starts_alike_is_outside() {
    let yard = Yard::new();
    assert_eq!(yard.gets(&yard.absolute("imgs2/base")), Err(Refusal::Outside));
}

#[test]
fn a_backing_symlink_out_of_the_directory_is_refused() {
    let yard = Yard::new();
    symlink(yard.path("outside/secret"), yard.path("imgs/absolute")).expect("linked");
    symlink("../outside/secret", yard.path("imgs/relative")).expect("linked");
    symlink("../outside", yard.path("imgs/dir")).expect("linked");
    symlink("sub/base", yard.path("imgs/inner")).expect("linked");
    for name in ["absolute", "relative", "dir/secret"] {
        assert_eq!(yard.gets(name), Err(Refusal::Outside), "{name}");
    }
    assert_eq!(yard.gets("inner").as_deref(), Ok("imgs/sub/base"));
}

#[test]
fn dot_dot_after_a_symlink_stays_inside() {
    let yard = Yard::new();
    symlink("sub", yard.path("imgs/link")).expect("linked");
    assert_eq!(yard.gets("link/../base").as_deref(), Ok("imgs/base"));
    assert_eq!(yard.gets("link/../../outside/secret"), Err(Refusal::Outside));
}

#[test]
fn the_outcome_does_not_depend_on_files_outside() {
    let yard = Yard::new();
    symlink(yard.path("outside/secret"), yard.path("imgs/to-file")).expect("linked");
    symlink(yard.path("outside/none"), yard.path("imgs/to-nothing")).expect("linked");
    let (there, not_there) = (yard.absolute("outside/secret"), yard.absolute("outside/none"));
    for (there, not_there) in [
        ("../outside/secret", "../outside/none"),
        (&there, &not_there),
        ("to-file", "to-nothing"),
        ("/etc/passwd", "/etc/x"),
    ] {
        assert_eq!(yard.gets(there), Err(Refusal::Outside), "{there}");
        assert_eq!(yard.gets(not_there), Err(Refusal::Outside), "{not_there}");
    }
}

#[test]
fn protocols_and_json_are_refused() {
    let yard = Yard::new();
    std::fs::write(yard.path("imgs/nbd:x"), "").expect("written");
    for name in ["nbd:x", "nbd://host/x", "json:{\"driver\":\"file\"}", "file:base", "fd:3", "http://x/y", ":x"] {
        assert_eq!(yard.gets(name), Err(Refusal::Protocol), "{name}");
    }
    assert_eq!(yard.gets("./nbd:x").as_deref(), Ok(""));
}

#[test]
fn the_kernels_files_are_refused_whatever_is_allowed() {
    let yard = Yard::new();
    let any = Sources { allow: vec!["/".into()], ..Yard::sources("any") };
    symlink("/proc/self/fd/0", yard.path("imgs/magic")).expect("linked");
    for name in ["/proc/self/fd/0", "/proc/self/environ", "/dev/fd/0", "/dev/stdin", "/sys/x", "/tmp/../proc/self/maps"]
    {
        assert_eq!(yard.try_with(&any, name.as_bytes()), Err(Refusal::Kernel), "{name}");
    }
    assert_eq!(yard.try_with(&any, b"magic"), Err(Refusal::Outside));
}

#[test]
fn only_regular_files_are_opened_and_a_fifo_does_not_hang() {
    let yard = Yard::new();
    mknodat(CWD, yard.path("imgs/fifo"), FileType::Fifo, Mode::RUSR, 0).expect("a fifo");
    let _socket = std::os::unix::net::UnixListener::bind(yard.path("imgs/socket")).expect("a socket");
    for name in ["fifo", "socket", "sub"] {
        assert_eq!(yard.gets(name), Err(Refusal::Kind), "{name}");
    }
}

#[test]
fn odd_names_are_refused() {
    let yard = Yard::new();
    let long = "a/".repeat(2048) + "b";
    for name in [b"".as_slice(), b"base\0", b"\0", long.as_bytes()] {
        assert_eq!(yard.try_with(&Sources::default(), name), Err(Refusal::Name));
    }
    assert!(matches!(yard.gets("/"), Err(Refusal::Outside)));
    assert!(matches!(yard.gets("."), Err(Refusal::Outside)));
}

#[test]
fn a_chain_that_comes_back_is_refused() {
    let yard = Yard::new();
    std::fs::hard_link(yard.path("imgs/base"), yard.path("imgs/other-name")).expect("linked");
    let policy = policy(&Sources::default());
    let top = open::source(&yard.path("imgs/top"), Claim::READ).expect("opens");
    let mut gate = Gate::new(&policy, &[top.id]);
    let base = gate.open(&top.path, b"base", 2, Claim::READ).expect("beside it");
    assert_eq!(gate.open(&base.path, b"top", 3, Claim::READ).map(|_| ()), Err(Refusal::Cycle));
    assert_eq!(gate.open(&base.path, b"other-name", 3, Claim::READ).map(|_| ()), Err(Refusal::Cycle));
}

#[test]
fn depth_and_number_are_bounded() {
    let yard = Yard::new();
    let config = yard.path("config.toml");
    std::fs::write(&config, "[gate]\nmax-depth = 3\nmax-disks = 2").expect("written");
    let policy = policy(&Sources { files: vec![config], ..Sources::default() });
    let top = yard.path("imgs/top");
    let mut gate = Gate::new(&policy, &[]);
    assert_eq!(gate.open(&top, b"base", 4, Claim::READ).map(|_| ()), Err(Refusal::Depth { max: 3 }));
    gate.open(&top, b"base", 3, Claim::READ).expect("beside it");
    gate.open(&top, b"sub/base", 2, Claim::READ).expect("below it");
    assert_eq!(gate.open(&top, b"top", 2, Claim::READ).map(|_| ()), Err(Refusal::Files { max: 2 }));
}

#[test]
fn the_ground_rules_mean_what_they_say() {
    let yard = Yard::new();
    let secret = yard.absolute("outside/secret");
    assert_eq!(yard.try_with(&Yard::sources("none"), b"base"), Err(Refusal::Closed));
    assert_eq!(yard.try_with(&Yard::sources("any"), secret.as_bytes()).as_deref(), Ok("outside/secret"));
    assert_eq!(yard.try_with(&Yard::sources("any"), b"../outside/secret").as_deref(), Ok("outside/secret"));
    assert_eq!(yard.try_with(&Yard::sources("any"), b"nbd:x"), Err(Refusal::Protocol));
    let none_but = Sources { allow: vec![yard.path("outside")], ..Yard::sources("none") };
    assert_eq!(yard.try_with(&none_but, secret.as_bytes()).as_deref(), Ok("outside/secret"));
    assert_eq!(yard.try_with(&none_but, b"../outside/secret").as_deref(), Ok("outside/secret"));
    assert_eq!(yard.try_with(&none_but, b"base"), Err(Refusal::Outside));
}

#[test]
fn an_allowed_directory_is_known_by_both_its_names() {
    let yard = Yard::new();
    symlink("outside", yard.path("alias")).expect("linked");
    let allow = Sources { allow: vec![yard.path("alias")], ..Sources::default() };
    for name in ["outside/secret", "alias/secret"] {
        let name = yard.path(name);
        assert_eq!(yard.try_with(&allow, name.as_os_str().as_bytes()).as_deref(), Ok("outside/secret"), "{name:?}");
    }
}

/// Was flaky under load: a child that another test of this process forks meanwhile has the lock, too, until it ends.
#[test]
fn a_file_in_use_is_refused() {
    let yard = Yard::new();
    let user = crate::job::target::Target::create(&yard.path("imgs/base"), &[]).expect("opens");
    let refusal = yard.gets("base");
    assert!(matches!(refusal, Err(Refusal::Lock(_))), "{refusal:?}");
    drop(user);
    let started = std::time::Instant::now();
    while matches!(yard.gets("base"), Err(Refusal::Lock(_))) && started.elapsed().as_secs() < 60 {
        std::thread::yield_now();
    }
    assert_eq!(yard.gets("base").as_deref(), Ok("imgs/base"));
}
