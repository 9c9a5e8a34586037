//! What end-to-end tests share: the built binaries, a scratch directory, sessions of a shell.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The distribution's directory of binaries, `instar` and `qemu-img`; `None`: the test says so and is skipped.
pub fn binaries() -> Option<PathBuf> {
    let instar = std::env::var_os("INSTAR_BIN").map(PathBuf::from);
    if instar.is_none() {
        println!("skipped: needs the built binaries; `cargo xtask test` builds them");
    }
    instar.and_then(|path| path.parent().map(Path::to_owned))
}

/// Whether a program can be started; if not, the test says so and is skipped.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: needs {program}");
    }
    found
}

/// A scratch directory on a file system in memory where there is one.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("instar-test-").tempdir_in(parent).expect("a scratch directory")
}

/// Runs a script that makes images; it must succeed.
pub fn make(directory: &Path, script: &str) {
    let output = shell(directory, script);
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a script.
pub fn shell(directory: &Path, script: &str) -> Output {
    Command::new("sh").args(["-euc", script]).current_dir(directory).output().expect("sh runs")
}

/// Runs a program with arguments.
pub fn run(directory: &Path, program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(directory).output().expect("it can be started")
}
