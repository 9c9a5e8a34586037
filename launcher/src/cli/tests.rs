//! Command lines on a scripted machine, against what the installed qemu-img says of the same.

mod machines;
mod options;

use super::*;
use crate::disk::memory::Memory;
use crate::job::{Job, NoEnd, Then};
use instar_abi::error::{DetectError, Error};
use instar_abi::facts;
use instar_abi::format::Format;
use instar_abi::reply::{End, FinalLength, Frame, Need};
use instar_abi::request::{DiskId, LayerId, NeedKind, Op, Qcow2Options, TargetFormat};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// A guest that takes every image for raw, unless it starts with `needs NAME`: then it asks for that file
/// first. `lies` makes it tell nonsense.
#[derive(Default)]
struct Guest {
    runs: u32,
    lies: bool,
    is_kept: bool, // for a next run, which nobody has said will not come
}

fn content(job: &Job, disk: usize) -> Vec<u8> {
    let len = usize::try_from(job.request.disks[disk].len).expect("a test's file");
    let mut memory = Memory::new(&[len.next_multiple_of(512)], 0);
    job.disks[disk].read(0, &mut memory).expect("in range");
    let mut bytes = crate::disk::Segments::to_vec(&memory);
    bytes.truncate(len);
    bytes
}

impl Machine for Guest {
    fn rest(&mut self) {
        self.is_kept = false;
    }

    fn run(&mut self, job: &Job, then: Then, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd> {
        self.runs += 1;
        self.is_kept = then == Then::GoOn;
        assert_eq!(
            instar_abi::request::Request::decode(&job.request.encode().expect("encodes")),
            Ok(job.request.clone())
        );
        let image = content(job, 0);
        if self.lies {
            on_frame(Frame::Progress { done: 0, total: 1 });
            return Ok(End::Done { lengths: vec![FinalLength { disk: DiskId(7), len: u64::MAX }] });
        }
        if job.request.layers[0].format == Some(Format::Qcow2) && !image.starts_with(b"needs ") {
            let error = DetectError::Mismatch { given: Format::Qcow2, found: None };
            return Ok(End::Failed(Error::Detect { layer: LayerId(0), error }));
        }
        let names = image.strip_prefix(b"needs ").map(|name| name.trim_ascii_end().to_vec());
        match &job.request.op {
            Op::Map(_) | Op::Measure(_) | Op::Compare(_) | Op::Check(_) => Ok(End::Failed(Error::WrongOp)),
            Op::Info { .. } => {
                let backing = names.map(|name| facts::Backing { name, format: Some(b"raw".to_vec()) });
                on_frame(Frame::Image(facts::Image {
                    format: Format::Raw,
                    virtual_size: job.request.disks[0].len.next_multiple_of(512),
                    cluster_size: None,
                    encrypted: false,
                    compressed: false,
                    dirty: Some(false),
                    backing,
                    child_len: None,
                    specific: None,
                }));
                Ok(End::Done { lengths: vec![] })
            }
            Op::Convert(convert) => {
                if let Some(name) = names.filter(|_| job.request.answers.is_empty()) {
                    let format = Some(b"raw".to_vec());
                    on_frame(Frame::Needs(vec![Need { layer: LayerId(0), kind: NeedKind::Backing, name, format }]));
                    return Ok(End::NeedsMore);
                }
                let target = convert.target.0 as usize;
                on_frame(Frame::Progress { done: 1, total: 2 });
                job.disks[target].write(0, &Memory::new(&[512], b'x')).expect("writes");
                job.disks[target].flush().expect("flushes");
                on_frame(Frame::Progress { done: 2, total: 2 });
                let mut lengths = vec![FinalLength { disk: convert.target, len: 100 }];
                if let TargetFormat::Qcow2(Qcow2Options { data_file: Some(file), .. }) = &convert.target_format {
                    lengths.push(FinalLength { disk: file.disk, len: 1 << 20 });
                }
                Ok(End::Done { lengths })
            }
        }
    }
}

#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a command printed, said, and whether it went well.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    out: String,
    err: String,
    success: bool,
}

fn ours(program: &str, args: &[&str], guest: &mut Guest) -> Outcome {
    let (out, err) = (Capture::default(), Capture::default());
    let mut terminal = Terminal::new(Mode::Instar, Box::new(out.clone()), Box::new(err.clone()));
    let args = [&[program], args].concat();
    let code = main_on(args.iter().map(OsString::from), guest, &mut terminal);
    assert!(!guest.is_kept, "{args:?} leaves a machine behind");
    let text = |capture: Capture| String::from_utf8_lossy(&capture.0.lock().expect("not poisoned")).into_owned();
    Outcome { out: text(out), err: text(err), success: code == ExitCode::SUCCESS }
}

fn instar(args: &[&str]) -> Outcome {
    ours("instar", args, &mut Guest::default())
}

fn theirs(args: &[&str]) -> Option<Outcome> {
    let Ok(output) = Command::new("qemu-img").args(args).output() else {
        eprintln!("skipped: needs qemu-img");
        return None;
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some(Outcome { out: text(output.stdout), err: text(output.stderr), success: output.status.success() })
}

/// The same on both, to the byte.
fn agree(args: &[&str]) {
    let Some(theirs) = theirs(args) else { return };
    assert_eq!(ours("/usr/bin/qemu-img", args, &mut Guest::default()), theirs, "{args:?}");
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn add(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("made");
        std::fs::write(&path, content).expect("written");
        self.name(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().expect("UTF-8")
    }
}

#[test]
fn usage_errors_exit_1_with_qemu_imgs_words() {
    for args in [
        "",
        "foo",
        "-Z",
        "--foo",
        "--version=3",
        "info",
        "info a b",
        "info --x",
        "info --x=3 a",
        "info -Z",
        "info -UZ a",
        "info -f",
        "info --format",
        "info --form",
        "info --fo",
        "info --force-share=3 a",
        "info --output=xml a",
        "info --output= a",
        "info --output",
        "info -f raw --image-opts a",
        "info --object foo a",
        "info --object secret,data=x a",
        "info --object secret,id=x a",
        "info -- -f a",
        "info -f",
        "info nope",
        "info -U nope",
        "info /tmp",
        "info foo:bar",
        "info json:[]",
        "info json:{\"driver\":\"raw\"}",
        "info json:{\"driver\":\"foo\",\"file\":{\"filename\":\"a\"}}",
        "info json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\"}}",
        "info --image-opts a",
        "info --image-opts driver=raw",
        "info --image-opts filename=a",
        "info -f foo a",
        "convert",
        "convert a",
        "convert --foo",
        "convert -x a b",
        "convert -f foo a b",
        "convert -S 1 a b",
        "convert -S x a b",
        "convert -S 32M a b",
        "convert -m 0 a b",
        "convert -m x a b",
        "convert -T foo a b",
        "convert nope o",
        "convert -p nope o",
        "convert -q -p nope o",
        "convert --source-image-opts -f raw driver=raw o",
    ] {
        agree(&args.split_whitespace().collect::<Vec<_>>());
    }
    agree(&["info", ""]);
    agree(&["info", "-f", "", "a"]);
}

#[test]
fn info_of_a_raw_file_agrees_however_it_is_named() {
    let files = Files::new();
    let raw = files.add("r:aw", &[7; 5000]);
    for args in [
        vec!["info", &raw],
        vec!["info", &raw, "-U"],
        vec!["info", "--", &raw],
        vec!["info", "-fraw", &raw],
        vec!["info", "-Uf", "qcow2", "-f", "raw", &raw],
        vec!["info", "--output=json", "--for=raw", &raw],
        vec!["info", "--output", "human", "--output", "json", "-f", "raw", &raw],
        vec!["info", "--output=json", "-b", "-f", "raw", &raw],
        vec!["info", "--object", "secret,id=s,data=x", "-f", "raw", &raw],
        vec!["info", "-f", "raw", &format!("file:{raw}")],
        vec!["info", &format!("json:{{\"driver\":\"raw\",\"file\":{{\"filename\":\"{raw}\"}}}}")],
        vec!["info", "--image-opts", &format!("driver=raw,file.driver=file,file.filename={raw}")],
    ] {
        // `--for` could be two options.
        if args.contains(&"--for=raw") {
            let ours = ours("qemu-img", &args, &mut Guest::default());
            assert!(ours.err.contains("is ambiguous; possibilities: '--format' '--force-share'"), "{}", ours.err);
            continue;
        }
        agree(&args);
    }
}

#[test]
fn a_windows_trouble_is_told_in_qemu_imgs_words() {
    let files = Files::new();
    let raw = files.add("raw", &[7; 8192]);
    for options in ["size=1000", "offset=9000", "offset=512,size=8192", "offset=x", "foo=bar"] {
        agree(&["info", "--image-opts", &format!("driver=raw,{options},file.filename={raw}")]);
    }
}

#[test]
fn qcow2_by_name_is_never_another_parser() {
    let files = Files::new();
    agree(&["info", "-f", "qcow2", &files.add("raw", &[7; 8192])]);
}

#[test]
fn help_and_version_go_to_stdout() {
    for program in ["instar", "qemu-img"] {
        for args in [vec!["--help"], vec!["-h"], vec!["--he"], vec!["info", "--help"], vec!["convert", "-h", "-Z=3"]] {
            let outcome = ours(program, &args, &mut Guest::default());
            let fine = outcome.success && outcome.err.is_empty() && outcome.out.contains(&format!("Usage: {program}"));
            assert!(fine || args.contains(&"-Z=3"), "{args:?}: {outcome:?}");
        }
    }
    let version = |program, args: &[&str]| ours(program, args, &mut Guest::default()).out;
    assert!(version("instar", &["--version"]).starts_with("instar "));
    assert!(version("instar", &["--qemu-img-compat", "-V"]).starts_with("qemu-img version 10.0.2 "));
    assert!(version("/a/qemu-img", &["--vers"]).starts_with("qemu-img version 10.0.2 "));
}

#[test]
fn what_is_not_supported_yet_is_refused_by_name() {
    for (args, what) in [
        ("check -r all a", "option '-r'"),
        ("-T x info a", "option '-T'"),
        ("convert -O vmdk a b", "target format 'vmdk'"),
        ("convert --bitmaps a b", "option '--bitmaps'"),
        ("convert -l snapshot.id=1,snapshot.name=x a b", "snapshot.id and snapshot.name at once"),
        ("convert -O qcow2 -o size=1G a b", "option '-o size'"),
        ("convert -o extent_size_hint=1M a b", "option '-o extent_size_hint'"),
        ("convert -o nocow a b", "option '-o nocow'"),
        ("convert -O qcow2 -o encryption=on a b", "option '-o encryption'"),
        ("convert -O qcow2 -o encrypt.format=luks a b", "option '-o encrypt.format'"),
    ] {
        let outcome = instar(&args.split_whitespace().collect::<Vec<_>>());
        assert_eq!(outcome.err, format!("instar: not supported yet by this version: {what}\n"));
        assert!(!outcome.success);
    }
}

#[test]
fn options_of_ours_are_unknown_in_compatibility_mode() {
    agree(&["info", "--allow-backing", "/tmp", "a"]);
    assert!(!instar(&["info", "--allow-backing", "/tmp", "nope"]).err.contains("unrecognized"));
}

#[test]
fn a_conversion_leaves_its_target_at_its_final_length() {
    let files = Files::new();
    let (source, target) = (files.add("in", &[7; 600]), files.name("out"));
    assert_eq!(instar(&["convert", "-f", "raw", &source, &target, "-p"]).out, {
        let line = |percent: &str| format!("    ({percent}/100%)\r");
        format!("{}{}{}{}\n", line("0.00"), line("50.00"), line("100.00"), line("100.00"))
    });
    assert_eq!(std::fs::read(&target).expect("made"), [b'x'; 100]);
}

#[test]
fn a_conversion_that_fails_leaves_no_new_target_and_harms_no_old_one() {
    let files = Files::new();
    let (source, old) = (files.add("in", &[7; 600]), files.add("old", b"precious"));
    for target in [files.name("new"), old.clone()] {
        let outcome = instar(&["convert", "-f", "qcow2", &source, &target]);
        assert_eq!(outcome.err, format!("instar: Could not open '{source}': Image is not in qcow2 format\n"));
        let lied =
            ours("instar", &["convert", "-f", "raw", &source, &target], &mut Guest { lies: true, ..Guest::default() });
        assert!(lied.err.contains("broke the protocol") && !lied.success, "{lied:?}");
    }
    assert!(!files.path("new").exists());
    assert_eq!(std::fs::read(old).expect("still there"), b"precious");
}

#[test]
fn an_unknown_target_format_or_cache_mode_is_told_in_qemu_imgs_words() {
    let files = Files::new();
    let (source, target) = (files.add("in", &[7; 512]), files.name("out"));
    agree(&["convert", "-f", "raw", "-O", "foo", &source, &target]);
    agree(&["convert", "-f", "raw", "-t", "foo", &source, &target]);
}

#[test]
fn a_source_is_never_its_own_target() {
    let files = Files::new();
    let source = files.add("in", &[7; 512]);
    agree(&["convert", "-f", "raw", "-O", "raw", &source, &source]);
    assert!(!instar(&["convert", "-U", "-f", "raw", &source, &source]).success);
    assert_eq!(std::fs::read(source).expect("still there"), [7; 512]);
}

#[test]
fn a_source_that_needs_a_file_gets_it_in_a_second_run() {
    let files = Files::new();
    files.add("base", b"base");
    let (source, target) = (files.add("in", b"needs base"), files.name("out"));
    let mut guest = Guest::default();
    let outcome = ours("instar", &["convert", "-f", "qcow2", &source, &target], &mut guest);
    assert_eq!((outcome.err.as_str(), outcome.success, guest.runs), ("", true, 2));
}

#[test]
fn a_missing_backing_file_is_told_in_qemu_imgs_words() {
    let files = Files::new();
    let (source, target) = (files.add("in", b"needs base"), files.name("out"));
    let outcome = ours("qemu-img", &["convert", "-f", "qcow2", &source, &target], &mut Guest::default());
    let base = files.name("base");
    let reason = format!("Could not open backing file: Could not open '{base}': No such file or directory");
    assert_eq!(outcome.err, format!("qemu-img: Could not open '{source}': {reason}\n"));
    assert!(!files.path("out").exists());
}

#[test]
fn an_image_cannot_ask_whether_a_host_file_exists() {
    let files = Files::new();
    files.add("outside/there", b"secret");
    for name in ["../outside/{}", "/etc/{}", "../../../../etc/{}"] {
        let ask = |guess: &str| {
            let source = files.add("imgs/in", format!("needs {}", name.replace("{}", guess)).as_bytes());
            let converted = instar(&["convert", "-f", "qcow2", &source, &files.name("imgs/out")]);
            let chain = instar(&["info", "-b", "-f", "raw", &source]);
            assert!(!converted.success && !chain.success);
            [converted, chain].map(|outcome| outcome.err.replace(guess, "X"))
        };
        assert_eq!(ask("there"), ask("missing"), "{name}");
        assert_eq!(ask("passwd"), ask("nothing"), "{name}");
    }
}

#[test]
fn one_policy_holds_for_every_operation() {
    let files = Files::new();
    files.add("other/base", b"base");
    let base = files.name("other/base");
    let source = files.add("imgs/in", format!("needs {base}").as_bytes());
    let (target, other) = (files.name("imgs/out"), files.name("other"));
    for operation in [vec!["convert", "-f", "qcow2", &source, &target], vec!["info", "-b", "-f", "raw", &source]] {
        assert!(instar(&operation).err.contains("outside the directories"), "{operation:?}");
        let allowed = instar(&[operation.as_slice(), &["--allow-backing", &other]].concat());
        assert!(allowed.success, "{operation:?}: {}", allowed.err);
    }
}

#[test]
fn a_chain_that_breaks_prints_what_is_known() {
    let files = Files::new();
    let source = files.add("in", b"needs base");
    let args = ["info", "-b", "-f", "raw", &source];
    let outcome = instar(&args);
    assert!(outcome.out.starts_with(&format!("image: {source}\n")) && !outcome.success, "{outcome:?}");
    let outcome = ours("qemu-img", &args, &mut Guest::default());
    let base = files.name("base");
    let reason = format!("Could not open '{base}': Could not open '{base}': No such file or directory");
    assert_eq!(outcome, Outcome { out: String::new(), err: format!("qemu-img: {reason}\n"), success: false });
}

#[test]
fn a_guest_that_lies_is_not_believed() {
    let files = Files::new();
    let source = files.add("in", b"x");
    let outcome = ours("instar", &["info", "-f", "raw", &source], &mut Guest { lies: true, ..Guest::default() });
    assert!(outcome.err.starts_with("instar: the guest broke the protocol: it described no image\nhint: "));
    assert!(outcome.out.is_empty() && !outcome.success);
}

#[test]
fn an_image_in_use_is_told_in_qemu_imgs_words() {
    let files = Files::new();
    let source = files.add("in", &[0; 512]);
    let user = crate::job::target::Target::create(Path::new(&source), &[]).expect("opens");
    let target = files.name("out");
    agree(&["convert", "-f", "raw", &source, &target]);
    agree(&["info", "-f", "raw", &source]);
    agree(&["info", &source]);
    drop(user);
}
