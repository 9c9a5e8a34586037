//! Every reading operation beside the installed qemu-img, called as it is called: exit code, both streams, content.
//!
//! `cargo xtask compat` runs these alone. What differs on purpose is listed in [`KNOWN`], with the words of
//! `docs/differences.md`; an entry that no longer differs fails.

mod check;
mod classes;
mod clients;
mod content;
mod images;
mod sizes;
mod words;

use crate::common::{binaries, has, make, run, scratch};
use images::IMAGES;
use std::path::{Path, PathBuf};

/// A difference: the image's name, the beginning of the command, and why.
const KNOWN: &[(&str, &str, &str)] = &[
    ("vhdx", "compare -s", "a strict comparison knows what a vhdx has allocated"),
    ("vhdx-1M", "measure", "measure knows what a vhdx has allocated"),
    ("qcow", "compare -s IMG a.raw", "a strict comparison looks at allocation, not at where QEMU cuts its runs"),
    ("raw-odd", "compare", "compare tells the sector that differs"),
];

/// What is asked about every image. `IMG` is the image with the format that it must be told by, if any.
const COMMANDS: &[&str] = &[
    "info IMG",
    "info --output=json IMG",
    "map IMG",
    "map --output=json IMG",
    "map --output json -s 70000 -l 3000000 IMG",
    "map -s 3M IMG",
    "map --output json -s 1G IMG",
    "measure IMG",
    "measure --output=json -O qcow2 IMG",
    "measure -O qcow2 -o cluster_size=4k IMG",
    "measure -O qcow2 -o cluster_size=2M,compat=0.10 IMG",
    "measure -O qcow2 -o extended_l2=on,refcount_bits=64 IMG",
    "measure -O qcow2 -o preallocation=falloc IMG",
    "measure -O qcow2 -o backing_file=b,backing_fmt=raw IMG",
    "measure -O vmdk IMG",
    "measure -l none -O qcow2 IMG",
    "convert -l none -O qcow2 IMG none.qcow2",
    "check IMG",
    "check --output=json IMG",
];

/// Both programs, if they are there.
pub struct Programs {
    ours: PathBuf,
}

/// What a program did.
#[derive(PartialEq, Eq)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Programs {
    pub fn find() -> Option<Self> {
        let binaries = binaries()?;
        (has("qemu-img") && has("qemu-io")).then(|| Self { ours: binaries.join("qemu-img") })
    }

    fn ask(program: &Path, directory: &Path, command: &str) -> Outcome {
        let arguments: Vec<&str> = command.split(' ').filter(|word| !word.is_empty()).collect();
        let output = run(directory, program, &arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// The same binary by its own name.
    pub fn instar(&self) -> PathBuf {
        self.ours.with_file_name("instar")
    }

    pub fn ours(&self, directory: &Path, command: &str) -> Outcome {
        Self::ask(&self.ours, directory, command)
    }

    pub fn theirs(directory: &Path, command: &str) -> Outcome {
        Self::ask(Path::new("qemu-img"), directory, command)
    }

    /// Whether both do the same; the difference, in few words.
    pub fn compare(&self, directory: &Path, command: &str) -> Result<(), String> {
        let (ours, theirs) = (self.ours(directory, command), Self::theirs(directory, command));
        if ours == theirs {
            return Ok(());
        }
        let cut = |outcome: &Outcome| {
            let text = format!("{:?} {} {}", outcome.code, outcome.out, outcome.err);
            text.chars().take(600).collect::<String>()
        };
        Err(format!("qemu-img {command}\n  ours:   {}\n  theirs: {}\n", cut(&ours), cut(&theirs)))
    }
}

/// A directory with every image, `a.raw` and `b.raw` beside them.
fn directory_of_images() -> tempfile::TempDir {
    let directory = scratch();
    make(
        directory.path(),
        "truncate -s 8M a.raw; qemu-io -f raw -c 'write -P 1 0 700k' -c 'write -P 2 3M 1M' -c 'write 5M 64k' a.raw >/dev/null; \
         seq 1 400000 | head -c 2000000 | dd of=a.raw conv=notrunc bs=1M seek=6 status=none; cp --sparse=always a.raw b.raw",
    );
    for image in IMAGES {
        make(directory.path(), image.script);
    }
    directory
}

#[test]
fn every_reading_command_answers_as_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = directory_of_images();
    let directory = directory.path();
    let mut differences = Vec::new();
    let mut stale: Vec<_> = KNOWN.iter().collect();
    let (mut commands, mut same) = (0, 0);
    for image in IMAGES {
        let others = ["compare IMG a.raw", "compare -s IMG IMG", "compare -s IMG a.raw", "compare a.raw IMG"];
        for template in COMMANDS.iter().chain(&others) {
            let first = template.starts_with("compare a.raw");
            let format = match image.format {
                None => String::new(),
                Some(format) if template.starts_with("compare -s IMG IMG") => format!("-f {format} -F {format} "),
                Some(format) if first => format!("-F {format} "),
                Some(format) => format!("-f {format} "),
            };
            let command = template.replacen("IMG", &(format + image.file), 1).replace("IMG", image.file);
            let command = if first { command.replacen("compare ", "compare -f raw ", 1) } else { command };
            commands += 1;
            let known = |entry: &&(&str, &str, &str)| image.name.starts_with(entry.0) && template.starts_with(entry.1);
            match programs.compare(directory, &command) {
                Ok(()) => same += 1,
                Err(_) if KNOWN.iter().any(|entry| known(&entry)) => stale.retain(|entry| !known(entry)),
                Err(difference) => differences.push(difference),
            }
        }
    }
    println!("{same} of {commands} answers are qemu-img's, {} differ on purpose", commands - same - differences.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.concat());
    assert!(stale.is_empty(), "no longer differ: {stale:?}");
}

/// qemu-img takes all of a vhdx for data without a place; instar looks into it.
#[test]
fn a_vhdx_is_mapped_block_by_block() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "qemu-img create -q -f vhdx -o block_size=1M a.vhdx 8M; qemu-io -f vhdx -c 'write -P 1 3M 64k' a.vhdx >/dev/null",
    );
    let instar = programs.instar();
    let map = Programs::ask(&instar, directory, "map --output=json a.vhdx");
    let present = |line: &&str| line.contains("\"present\": true, \"zero\": false, \"data\": true");
    let data: Vec<&str> = map.out.lines().filter(present).collect();
    assert_eq!(data.len(), 1, "{}{}", map.out, map.err);
    assert!(data[0].contains("\"start\": 3145728, \"length\": 1048576"), "{}", map.out);
    // Its bytes are there.
    let offset =
        data[0].rsplit("\"offset\": ").next().expect("an offset").trim_end_matches(|c: char| !c.is_ascii_digit());
    make(
        directory,
        &format!(
            "dd if=a.vhdx bs=64k skip={offset} iflag=skip_bytes count=1 status=none | tr -d '\\001' | cmp - /dev/null"
        ),
    );
    let human = Programs::ask(&instar, directory, "map a.vhdx");
    assert_eq!(human.out.lines().count(), 2, "{}", human.out);
}
