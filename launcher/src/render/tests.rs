//! Reports written by hand for images that the installed qemu-img made, against what it prints.

use super::image_file::{ImageFile, Protocol, WindowNode};
use super::info::{Described, chain_to_json, to_json, to_lines};
use super::report::{Collector, Report};
use super::zone::Zone;
use instar_abi::facts::{self, Node, Value};
use instar_abi::format::Format;
use instar_abi::reply::{Frame, MapExtent};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory with images that qemu-img made, and the qemu-img.
struct Judge {
    dir: tempfile::TempDir,
}

impl Judge {
    /// `None`, said on stderr: there is no qemu-img 10.0 to ask.
    fn new() -> Option<Self> {
        let version = Command::new("qemu-img").arg("--version").output().ok();
        let judge = version.filter(|output| output.stdout.starts_with(b"qemu-img version 10.0."));
        if judge.is_none() {
            eprintln!("skipped: needs qemu-img 10.0");
        }
        judge.map(|_| Self { dir: tempfile::tempdir().expect("a directory") })
    }

    fn run(&self, zone: &str, args: &[&str]) -> Vec<u8> {
        let output = Command::new("qemu-img").args(args).current_dir(&self.dir).env("TZ", zone).output();
        let output = output.expect("qemu-img runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn make(&self, args: &[&str]) {
        self.run("UTC", args);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str) -> ImageFile {
        file(&self.path(name), name)
    }

    /// Compares both outputs of one image.
    fn agrees(&self, name: &str, report: Report) {
        self.agrees_as(&[name], "UTC", &Described { report, file: self.file(name) });
    }

    fn agrees_as(&self, args: &[&str], zone: &str, image: &Described) {
        let asked = |output: &str| self.run(zone, &[&["info", output], args].concat());
        same(&asked("--output=human"), &to_lines(std::slice::from_ref(image), &Zone::named(zone)));
        same(&asked("--output=json"), &to_json(image));
    }
}

fn same(expected: &[u8], found: &str) {
    assert_eq!(found, String::from_utf8_lossy(expected));
}

fn file(at: &Path, name: &str) -> ImageFile {
    let stat = at.metadata().expect("the image is there");
    ImageFile {
        name: name.into(),
        windows: vec![],
        path: name.into(),
        protocol: Protocol::File,
        len: stat.len(),
        actual_size: stat.blocks() * 512,
        parts: vec![],
    }
}

fn facts(format: Format, virtual_size: u64) -> facts::Image {
    facts::Image {
        format,
        virtual_size,
        cluster_size: None,
        encrypted: false,
        compressed: false,
        dirty: Some(false),
        backing: None,
        child_len: None,
        specific: None,
    }
}

fn raw(virtual_size: u64) -> Report {
    report(facts(Format::Raw, virtual_size), vec![], vec![])
}

fn report(image: facts::Image, snapshots: Vec<facts::Snapshot>, nodes: Vec<Node>) -> Report {
    let mut collector = Collector::new(b"x".to_vec());
    collector.take(Frame::Image(image)).expect("in order");
    if !snapshots.is_empty() {
        collector.take(Frame::Snapshots(snapshots)).expect("in order");
    }
    if !nodes.is_empty() {
        collector.take(Frame::Specific(nodes)).expect("in order");
    }
    collector.finish().expect("an image")
}

fn node(depth: u8, key: &str, value: Value) -> Node {
    Node { depth, key: key.into(), value }
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

fn qcow2_facts() -> facts::Image {
    facts::Image { cluster_size: Some(65536), specific: Some(b"qcow2".to_vec()), ..facts(Format::Qcow2, 1 << 20) }
}

/// What a version 3 image says, then `more`.
fn v3(more: Vec<Node>) -> Vec<Node> {
    let mut nodes = vec![
        node(0, "compat", text("1.1")),
        node(0, "compression-type", text("zlib")),
        node(0, "lazy-refcounts", Value::Bool(false)),
        node(0, "corrupt", Value::Bool(false)),
        node(0, "refcount-bits", Value::Number(16)),
        node(0, "extended-l2", Value::Bool(false)),
    ];
    nodes.extend(more);
    nodes
}

/// `date-sec`, `date-nsec` of the snapshots, which nobody but the image knows.
fn dates(json: &[u8]) -> Vec<(u32, u32)> {
    let json: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    let number = |entry: &serde_json::Value, key: &str| u32::try_from(entry[key].as_u64().expect("a number"));
    json["snapshots"]
        .as_array()
        .expect("snapshots")
        .iter()
        .map(|entry| (number(entry, "date-sec").expect("32 bits"), number(entry, "date-nsec").expect("32 bits")))
        .collect()
}

#[test]
fn raw_images_agree_with_qemu_img() {
    let Some(judge) = Judge::new() else { return };
    judge.make(&["create", "-q", "-f", "raw", "a.raw", "4M"]);
    judge.agrees("a.raw", raw(4 << 20));
    std::fs::write(judge.path("odd"), b"abc").expect("written");
    judge.agrees("odd", raw(512));
    std::fs::write(judge.path("none"), b"").expect("written");
    judge.agrees("none", raw(0));
    std::fs::create_dir(judge.path("sub:dir")).expect("made");
    std::fs::write(judge.path("sub:dir/x\"y"), [1; 5000]).expect("written");
    judge.agrees("./sub:dir/x\"y", raw(5120));
}

#[test]
fn windows_of_the_raw_driver_agree_with_qemu_img() {
    let Some(judge) = Judge::new() else { return };
    judge.make(&["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    let options = r#"json:{"driver":"qcow2","file":{"driver":"raw","offset":0,"file":{"filename":"a.qcow2"}}}"#;
    let inner = r#"{"offset": 0, "driver": "raw", "file": {"driver": "file", "filename": "a.qcow2"}}"#;
    let mut file = judge.file("a.qcow2");
    file.name = format!(r#"json:{{"driver": "qcow2", "file": {inner}}}"#).into_bytes();
    file.windows = vec![WindowNode { name: format!("json:{inner}").into_bytes(), len: file.len.next_multiple_of(512) }];
    let described = Described { report: report(qcow2_facts(), vec![], v3(vec![])), file };
    judge.agrees_as(&[options], "UTC", &described);
}

#[test]
fn qcow2_options_agree_with_qemu_img() {
    let Some(judge) = Judge::new() else { return };
    judge.make(&["create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "1M"]);
    let old = vec![
        node(0, "compat", text("0.10")),
        node(0, "compression-type", text("zlib")),
        node(0, "refcount-bits", Value::Number(16)),
    ];
    judge.agrees("old.qcow2", report(qcow2_facts(), vec![], old));

    let options = "cluster_size=4096,lazy_refcounts=on,refcount_bits=1,compression_type=zstd";
    judge.make(&["create", "-q", "-f", "qcow2", "-o", options, "odd.qcow2", "1M"]);
    let mut nodes = v3(vec![]);
    nodes[1].value = text("zstd");
    nodes[2].value = Value::Bool(true);
    nodes[4].value = Value::Number(1);
    let image = facts::Image { cluster_size: Some(4096), ..qcow2_facts() };
    judge.agrees("odd.qcow2", report(image, vec![], nodes));

    judge.make(&["create", "-q", "-f", "qcow2", "-o", "data_file=d.raw,data_file_raw=on", "data.qcow2", "1M"]);
    let external = v3(vec![node(0, "data-file", text("d.raw")), node(0, "data-file-raw", Value::Bool(true))]);
    judge.agrees("data.qcow2", report(qcow2_facts(), vec![], external));

    let secret = ["--object", "secret,id=s,data=x"];
    let aes = ["create", "-q", "-f", "qcow2", "-o", "encrypt.format=aes,encrypt.key-secret=s", "aes.qcow2", "1M"];
    judge.make(&[&aes[..2], &secret, &aes[2..]].concat());
    let nodes = v3(vec![node(0, "encrypt", Value::Object), node(1, "format", text("aes"))]);
    judge.agrees("aes.qcow2", report(facts::Image { encrypted: true, ..qcow2_facts() }, vec![], nodes));
}

#[test]
fn luks_in_qcow2_agrees_with_qemu_img() {
    let Some(judge) = Judge::new() else { return };
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    judge.make(&["create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", options, "l.qcow2", "1M"]);
    let json: serde_json::Value =
        serde_json::from_slice(&judge.run("UTC", &["info", "--output=json", "l.qcow2"])).expect("JSON");
    let told = &json["format-specific"]["data"]["encrypt"];
    let number = |value: &serde_json::Value| Value::Number(value.as_u64().expect("a number"));
    let mut nodes = v3(vec![
        node(0, "encrypt", Value::Object),
        node(1, "format", text("luks")),
        node(1, "cipher-alg", text("aes-256")),
        node(1, "cipher-mode", text("xts")),
        node(1, "ivgen-alg", text("plain64")),
        node(1, "hash-alg", text("sha256")),
        node(1, "detached-header", Value::Bool(false)),
        node(1, "payload-offset", number(&told["payload-offset"])),
        node(1, "master-key-iters", number(&told["master-key-iters"])),
        node(1, "uuid", text(told["uuid"].as_str().expect("a text"))),
        node(1, "slots", Value::List),
    ]);
    for slot in told["slots"].as_array().expect("slots") {
        let active = slot["active"].as_bool().expect("a truth value");
        nodes.extend([node(2, "", Value::Object), node(3, "active", Value::Bool(active))]);
        if active {
            nodes.extend(["iters", "stripes"].map(|key| node(3, key, number(&slot[key]))));
        }
        nodes.push(node(3, "key-offset", number(&slot["key-offset"])));
    }
    judge.agrees("l.qcow2", report(facts::Image { encrypted: true, ..qcow2_facts() }, vec![], nodes));
}

#[test]
fn snapshots_and_bitmaps_agree_with_qemu_img_in_several_time_zones() {
    let Some(judge) = Judge::new() else { return };
    judge.make(&["create", "-q", "-f", "qcow2", "s.qcow2", "1M"]);
    let names = ["s1", "a snapshot with a long name", "sün"];
    names.iter().for_each(|name| judge.make(&["snapshot", "-c", name, "s.qcow2"]));
    judge.make(&["bitmap", "--add", "s.qcow2", "b0"]);
    judge.make(&["bitmap", "--add", "--disable", "-g", "512", "s.qcow2", "b1"]);
    let json = judge.run("UTC", &["info", "--output=json", "s.qcow2"]);
    let snapshots = names
        .iter()
        .zip(dates(&json))
        .zip(1..)
        .map(|((name, (date_seconds, date_nanoseconds)), id)| facts::Snapshot {
            id: id.to_string().into_bytes(),
            name: name.as_bytes().to_vec(),
            vm_state_size: 0,
            date_seconds,
            date_nanoseconds,
            vm_clock_nanoseconds: 0,
            icount: Some(0),
        })
        .collect();
    let nodes = v3(vec![
        node(0, "bitmaps", Value::List),
        node(1, "", Value::Object),
        node(2, "flags", Value::List),
        node(3, "", text("auto")),
        node(2, "name", text("b0")),
        node(2, "granularity", Value::Number(65536)),
        node(1, "", Value::Object),
        node(2, "flags", Value::List),
        node(2, "name", text("b1")),
        node(2, "granularity", Value::Number(512)),
    ]);
    let described = Described { report: report(qcow2_facts(), snapshots, nodes), file: judge.file("s.qcow2") };
    for zone in ["UTC", "America/New_York", "Asia/Kathmandu", ":Europe/Berlin", "EST5EDT", "<-03>3", "No/Such"] {
        judge.agrees_as(&["s.qcow2"], zone, &described);
    }
}

#[test]
fn backing_names_and_chains_agree_with_qemu_img() {
    let Some(judge) = Judge::new() else { return };
    std::fs::create_dir(judge.path("sub")).expect("made");
    judge.make(&["create", "-q", "-f", "raw", "sub/a.raw", "1M"]);
    let overlay = |name: &str, backing: &str| {
        judge.make(&["create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", name, "1M"]);
        let backing = facts::Backing { name: backing.into(), format: Some(b"raw".to_vec()) };
        report(facts::Image { backing: Some(backing), ..qcow2_facts() }, vec![], v3(vec![]))
    };
    for backing in ["nbd:foo", "json:{\"a\": 1}", "/abs/a.raw", "../a.raw", "a b", "s\u{fc}n\\\"q", "./x:y"] {
        judge.agrees("top.qcow2", overlay("top.qcow2", backing));
        judge.agrees("sub/top.qcow2", overlay("sub/top.qcow2", backing));
    }
    let chain = [
        Described { report: overlay("sub/t.qcow2", "a.raw"), file: judge.file("sub/t.qcow2") },
        Described { report: raw(1 << 20), file: judge.file("sub/a.raw") },
    ];
    same(&judge.run("UTC", &["info", "--backing-chain", "sub/t.qcow2"]), &to_lines(&chain, &Zone::named("UTC")));
    same(&judge.run("UTC", &["info", "-b", "--output=json", "sub/t.qcow2"]), &chain_to_json(&chain));
}

/// The JSON is the same for any bytes; the lines differ on purpose (see `escape`).
#[test]
fn names_of_any_bytes_agree_with_qemu_img_in_json() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let Some(judge) = Judge::new() else { return };
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..24 {
        let name: Vec<u8> = (0..120)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Mostly bytes that matter to UTF-8, never NUL.
                [state as u8, 0x80 | (state >> 8) as u8 & 0x3F, 0xE0 | (state >> 8) as u8 & 0x1F, b'a']
                    [(state >> 40) as usize % 4]
                    .max(1)
            })
            .collect();
        let name = [b"/", name.as_slice()].concat();
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b"]).arg(OsStr::from_bytes(&name));
        let made = create.args(["n.qcow2", "1M"]).current_dir(&judge.dir).status().expect("qemu-img runs");
        assert!(made.success());
        let backing = facts::Backing { name, format: Some(b"raw".to_vec()) };
        let image = facts::Image { backing: Some(backing), ..qcow2_facts() };
        let described = Described { report: report(image, vec![], v3(vec![])), file: judge.file("n.qcow2") };
        same(&judge.run("UTC", &["info", "--output=json", "n.qcow2"]), &to_json(&described));
    }
}

/// What an output has from one version of QEMU on, and what it had in its place before.
struct Boundary {
    since: (u32, u32),
    output: &'static str,
    has: &'static str,
    had: Option<&'static str>,
}

/// # Source
/// What each release changed, and `qapi/block-core.json` for what came after the version that is followed.
const BOUNDARIES: &[Boundary] = &[
    Boundary { since: (5, 2), output: "info --output=json", has: "\"icount\"", had: None },
    Boundary { since: (6, 1), output: "info --output=json", has: "\"dirty-flag\"", had: None },
    Boundary { since: (6, 1), output: "map --output=json", has: "\"present\"", had: None },
    Boundary { since: (8, 0), output: "info", has: "Child node '/file':", had: None },
    Boundary { since: (8, 0), output: "info --output=json", has: "\"children\"", had: None },
    Boundary { since: (8, 2), output: "map --output=json", has: "\"compressed\"", had: None },
    Boundary {
        since: (9, 0),
        output: "info",
        has: "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT",
        had: Some("ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT"),
    },
    // What a node's requests are bound to.
    Boundary { since: (10, 1), output: "info --output=json", has: "\"limits\"", had: None },
];

/// O4: an output has the keys of the version that is followed, and none of a later one.
#[test]
fn both_sides_of_every_version_boundary() {
    let mut numbers = crate::cli::QEMU_IMG_VERSION.split('.').map(|number| number.parse::<u32>().expect("a number"));
    let followed = (numbers.next().expect("a number"), numbers.next().expect("a number"));
    let Some(judge) = Judge::new() else { return };
    judge.make(&["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    judge.make(&["snapshot", "-c", "s", "a.qcow2"]);
    let json = judge.run("UTC", &["info", "--output=json", "a.qcow2"]);
    let (date_seconds, date_nanoseconds) = dates(&json)[0];
    let snapshot = facts::Snapshot {
        id: b"1".to_vec(),
        name: b"s".to_vec(),
        vm_state_size: 0,
        date_seconds,
        date_nanoseconds,
        vm_clock_nanoseconds: 0,
        icount: Some(0),
    };
    let report = report(qcow2_facts(), vec![snapshot], v3(vec![]));
    let described = Described { report, file: judge.file("a.qcow2") };
    let mut map = String::new();
    let (len, at) = (1 << 20, None);
    let (is_zero, is_present, is_data, is_compressed) = (true, false, false, false);
    let hole = MapExtent { start: 0, len, depth: 0, is_present, is_zero, is_data, is_compressed, at };
    super::map::json(&hole, true, &mut map);
    map += super::map::JSON_END;
    for Boundary { since, output, has, had } in BOUNDARIES {
        let ours = match *output {
            "info" => to_lines(std::slice::from_ref(&described), &Zone::named("UTC")),
            "info --output=json" => to_json(&described),
            "map --output=json" => map.clone(),
            other => panic!("{other} is rendered nowhere"),
        };
        let words: Vec<&str> = output.split(' ').chain(["a.qcow2"]).collect();
        same(&judge.run("UTC", &words), &ours);
        let is_there = *since <= followed;
        assert_eq!(ours.contains(has), is_there, "{has} came with {since:?}:\n{ours}");
        assert_eq!(had.is_some_and(|had| ours.contains(had)), !is_there && had.is_some(), "{had:?} until {since:?}");
    }
    assert!(BOUNDARIES.iter().any(|boundary| boundary.since <= followed));
    assert!(BOUNDARIES.iter().any(|boundary| boundary.since > followed), "no later side is looked at");
}
