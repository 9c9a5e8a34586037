//! Images that we did not make.

use std::path::Path;
use std::process::Command;

/// An empty directory for a test, or `None`, said aloud, where qemu-img is not installed.
pub fn scratch() -> Option<tempfile::TempDir> {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        println!("skipped: needs qemu-img");
        return None;
    }
    Some(tempfile::tempdir().expect("a temporary directory"))
}

/// Runs qemu-img in `dir` with space-separated arguments; its output, or its error text.
pub fn qemu_img(dir: &Path, arguments: &str) -> Result<String, String> {
    run("qemu-img", dir, &arguments.split(' ').collect::<Vec<_>>())
}

/// Runs qemu-io commands, separated by `;`, on a file in `dir`.
pub fn qemu_io(dir: &Path, file: &str, commands: &str) -> Result<String, String> {
    let mut arguments: Vec<&str> = commands.split(';').flat_map(|command| ["-c", command.trim()]).collect();
    arguments.extend(file.split(' '));
    run("qemu-io", dir, &arguments)
}

fn run(program: &str, dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).current_dir(dir).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
