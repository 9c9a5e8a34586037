//! How tests of `convert` judge a run: by what qemu-img does of the same.
//!
//! What the op image refuses as not supported yet is accepted here if it is refused by name and leaves no
//! output; [`DONE`] lists what must work.

use crate::common::{binaries, has, make, run, shell};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What must work; anything else may be refused by name.
const DONE: [&str; 11] =
    ["-o", "-o data_file", "-o preallocation", "-c", "-l", "-n", "-W", "-B", "-C", "--salvage", "several sources"];

/// The built program, if it and the others it takes are there.
pub fn instar(needs: &[&str]) -> Option<PathBuf> {
    let binaries = binaries()?;
    needs.iter().all(|program| has(program)).then(|| binaries.join("instar"))
}

/// Converts to `out`; whether it is done. A refusal is by name, and leaves nothing.
pub fn converts(directory: &Path, instar: &Path, what: &str, arguments: &[&str]) -> bool {
    let output = run(directory, instar, &[&["convert"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        assert!(output.stdout.is_empty() && errors.is_empty(), "silent on success: {errors}");
        return true;
    }
    let refused = errors.contains("not supported yet by this version") && errors.contains(what);
    assert!(refused && !DONE.contains(&what), "{arguments:?}: {errors}");
    assert!(!directory.join("out").exists(), "{arguments:?}");
    println!("not yet: {what}");
    false
}

/// As [`converts`], to a target that stays where it is.
pub fn converts_there(directory: &Path, instar: &Path, what: &str, arguments: &[&str]) -> bool {
    let output = run(directory, instar, &[&["convert"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = errors.contains("not supported yet by this version") && errors.contains(what);
    assert!(output.status.success() || refused, "{arguments:?}: {errors}");
    output.status.success()
}

/// What qemu-img tells of an image, but for its name and sizes.
pub fn facts(directory: &Path, image: &str) -> String {
    let text = run(directory, Path::new("qemu-img"), &["info", "-f", "qcow2", image]).stdout;
    let text = String::from_utf8(text).expect("UTF-8");
    let kept = text.lines().filter(|line| !line.contains("size: ") || line.contains("cluster_size: "));
    kept.filter(|line| !line.contains("file length") && !line.contains("ilename: "))
        .map(|line| line.replace(image, "IMAGE") + "\n")
        .collect()
}

/// The same call on both; the results are images of the same kind and content.
pub fn same_as_qemu_img(directory: &Path, instar: &Path, what: &str, arguments: &[&str]) {
    if !converts(directory, instar, what, &[arguments, &["out"]].concat()) {
        return;
    }
    let theirs = run(directory, Path::new("qemu-img"), &[&["convert"], arguments, &["theirs"]].concat());
    assert!(theirs.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&theirs.stderr));
    let to = if arguments.windows(2).any(|pair| pair == ["-O", "qcow2"]) { "qcow2" } else { "raw" };
    make(directory, &format!("qemu-img compare -f {to} -F {to} out theirs >/dev/null"));
    if to == "qcow2" {
        make(directory, "qemu-img check -f qcow2 out >/dev/null");
        assert_eq!(facts(directory, "out"), facts(directory, "theirs"), "{arguments:?}");
    }
    make(directory, "rm out theirs");
}

/// SHA-256 of a file.
pub fn sha256(directory: &Path, file: &str) -> String {
    String::from_utf8_lossy(&shell(directory, &format!("sha256sum <{file} | cut -c1-64")).stdout).into_owned()
}

/// Prints the SHA-256 of a disk's content as one of libyal's readers has it. An image's parents follow it. It reads sector
/// by sector: in longer reads libvhdi takes sectors of a parent for the child's.
const LIBYAL: &str = r#"
import hashlib, importlib, sys
module = importlib.import_module(sys.argv[1])
def opened(names):
    image = module.handle() if hasattr(module, "handle") else module.file()
    image.open(names[0])
    if len(names) > 1:
        parent = opened(names[1:])
        image.set_parent(parent)
        parents.append(parent)
    if hasattr(image, "open_extent_data_files"):
        image.open_extent_data_files()
    return image
parents = []
image = opened(sys.argv[2:])
left, digest = image.get_media_size(), hashlib.sha256()
while left:
    part = image.read_buffer(min(left, 512))
    left -= len(part)
    digest.update(part)
print(digest.hexdigest())
"#;

/// Debian's own interpreter, which has Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

/// Whether one of libyal's modules is here; if not, the test says so and is skipped.
pub fn has_libyal(module: &str) -> bool {
    let imports = Command::new(PYTHON).args(["-c", &format!("import {module}")]).output();
    let has = imports.is_ok_and(|output| output.status.success());
    if !has {
        println!("skipped: needs python3-{}", module.replacen("py", "lib", 1));
    }
    has
}

/// SHA-256 of the content of an image, whose parents follow it, by one of libyal's readers; or what it complains of.
pub fn sha256_by_libyal(directory: &Path, module: &str, names: &[&str]) -> String {
    let mut command = Command::new(PYTHON);
    let output = command.args(["-c", LIBYAL, module]).args(names).current_dir(directory).output().expect("it starts");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
