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

/// A qcow2 image in the middle of a file.
pub struct Embedded {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// Bytes of the image, in whole sectors.
    pub size: usize,
    /// qemu-img's name for the image, relative to the directory.
    pub name: String,
}

/// Writes `b.bin` into `dir`: `image` at `offset`, something else before and behind it.
pub fn embed(dir: &Path, image: &[u8], offset: usize) -> Embedded {
    let size = image.len().next_multiple_of(512);
    let mut bytes = vec![0x51; offset];
    bytes.extend_from_slice(image);
    bytes.resize(offset + size, 0);
    bytes.extend_from_slice(&[0x51; 70_000]);
    std::fs::write(dir.join("b.bin"), &bytes).expect("writable");
    let name = format!(
        r#"json:{{"driver":"qcow2","file":{{"driver":"raw","offset":{offset},"size":{size},"file":{{"driver":"file","filename":"b.bin"}}}}}}"#
    );
    Embedded { bytes, size, name }
}

fn run(program: &str, dir: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).current_dir(dir).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
