//! info against qemu-img, key by key, on images that qemu-img made.

mod blocks;

use super::info;
use crate::testing::{Embedded, Fault, INFO, Machine, MemoryDisk, embed, qemu_img, qemu_io, request, scratch};
use instar_abi::error::{Error, ReadError, Resource};
use instar_abi::facts::{self, Node, Value};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::Window;
use serde_json::{Map, Value as Json, json};
use std::path::Path;

/// The tree as JSON.
fn tree(nodes: &[Node]) -> Json {
    fn members_of(nodes: &mut std::iter::Peekable<std::slice::Iter<'_, Node>>, depth: u8) -> Vec<(String, Json)> {
        let mut members = Vec::new();
        while let Some(node) = nodes.next_if(|node| node.depth == depth) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let value = match &node.value {
                Value::Object => Json::Object(members_of(nodes, depth + 1).into_iter().collect()),
                Value::List => Json::Array(members_of(nodes, depth + 1).into_iter().map(|(_, v)| v).collect()),
                Value::Bool(value) => json!(value),
                Value::Number(value) => json!(value),
                Value::Text(value) => json!(text(value)),
                Value::FileName => json!("FILE"),
                Value::NamedFile(name) => json!(text(name)),
            };
            members.push((text(&node.key), value));
        }
        members
    }
    let mut nodes = nodes.iter().peekable();
    let members: Map<String, Json> = members_of(&mut nodes, 0).into_iter().collect();
    assert!(nodes.next().is_none(), "depths are a tree's");
    Json::Object(members)
}

/// Frames as the JSON of `qemu-img info` without what the host adds.
fn as_json(frames: &[Frame]) -> Json {
    let mut object = Map::new();
    let mut nodes = Vec::new();
    let mut snapshots = Vec::new();
    let text = |bytes: &[u8]| json!(String::from_utf8_lossy(bytes));
    for frame in frames {
        match frame {
            Frame::Image(image) => {
                object.insert("format".into(), json!(image.format.name()));
                object.insert("virtual-size".into(), json!(image.virtual_size));
                image.dirty.map(|dirty| object.insert("dirty-flag".into(), json!(dirty)));
                image.cluster_size.map(|size| object.insert("cluster-size".into(), json!(size)));
                image.encrypted.then(|| object.insert("encrypted".into(), json!(true)));
                if let Some(facts::Backing { name, format }) = &image.backing {
                    object.insert("backing-filename".into(), text(name));
                    format.as_ref().map(|name| object.insert("backing-filename-format".into(), text(name)));
                }
            }
            Frame::Specific(more) => nodes.extend_from_slice(more),
            Frame::Snapshots(more) => snapshots.extend(more.iter().map(|snapshot| {
                let mut object = json!({
                    "id": text(&snapshot.id), "name": text(&snapshot.name),
                    "vm-state-size": snapshot.vm_state_size, "date-sec": snapshot.date_seconds,
                    "date-nsec": snapshot.date_nanoseconds,
                    "vm-clock-sec": snapshot.vm_clock_nanoseconds / 1_000_000_000,
                    "vm-clock-nsec": snapshot.vm_clock_nanoseconds % 1_000_000_000,
                });
                if let Some(icount) = snapshot.icount {
                    object["icount"] = json!(icount);
                }
                object
            })),
            other => panic!("{other:?}"),
        }
    }
    if !nodes.is_empty() {
        let kind = &object["format"];
        object.insert("format-specific".into(), json!({"type": kind, "data": tree(&nodes)}));
    }
    if !snapshots.is_empty() {
        object.insert("snapshots".into(), json!(snapshots));
    }
    Json::Object(object)
}

fn ours(bytes: Vec<u8>) -> (Result<End, Error>, Machine) {
    let disks = [MemoryDisk::new(bytes)];
    let request = request(INFO, &disks);
    let mut machine = Machine::new(&request, &disks);
    (info(&request, &mut machine), machine)
}

/// Both describe the file alike; returns our machine.
fn check(dir: &Path, file: &str) -> Machine {
    let theirs = qemu_img(dir, &format!("info --output=json {file}")).expect("qemu-img describes it");
    let mut theirs: Json = serde_json::from_str(&theirs).expect("JSON");
    for host in ["children", "filename", "actual-size", "full-backing-filename"] {
        theirs.as_object_mut().expect("an object").remove(host);
    }
    // The guest does not know its file's name.
    if let Some(extent) = theirs.pointer_mut("/format-specific/data/extents/0/filename") {
        *extent = json!("FILE");
    }
    let (result, machine) = ours(std::fs::read(dir.join(file)).expect("the file"));
    assert_eq!(result, Ok(End::Done { lengths: vec![] }));
    assert_eq!(as_json(&machine.frames), theirs, "{file}");
    machine
}

#[test]
fn every_create_option_is_described_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f raw base.raw 1M").unwrap();
    let secret = "--object secret,id=s,data=abc";
    for (index, options) in [
        "10M",
        "-o compat=0.10 10M",
        "-o compat=v3,lazy_refcounts=on 10M",
        "-o refcount_bits=1 10M",
        "-o refcount_bits=64,cluster_size=512 1M",
        "-o cluster_size=2M 1T",
        "-o extended_l2=on,cluster_size=128k 10M",
        "-o compression_type=zstd 10M",
        "-o data_file=data.raw 10M",
        "-o data_file=data2.raw,data_file_raw=on 10M",
        "-b base.raw -F raw 10M",
        "-o compat=0.10,backing_file=base.raw,backing_fmt=raw 10M",
        "-u -b nowhere.qcow2 -F qcow2 10M",
        "0",
        &format!("{secret} -o encrypt.format=aes,encrypt.key-secret=s 1M"),
        &format!("{secret} -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 1M"),
        &format!(
            "{secret} -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.cipher-alg=twofish-128,\
             encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha512 1M"
        ),
    ]
    .iter()
    .enumerate()
    {
        let (rest, size) = options.rsplit_once(' ').map_or(("", *options), |(rest, size)| (rest, size));
        let file = format!("{index}.qcow2");
        let command = format!("create -q -f qcow2 {rest} {file} {size}").replace("  ", " ");
        qemu_img(dir, &command).unwrap_or_else(|error| panic!("{command}: {error}"));
        let machine = check(dir, &file);
        assert!(machine.kicks() <= 2, "{options}: {} kicks", machine.kicks());
    }
}

#[test]
fn snapshots_and_bitmaps_are_described_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 10M").unwrap();
    for name in ["first", "second", "\u{e4}-third"] {
        qemu_img(dir, &format!("snapshot -c {name} a.qcow2")).unwrap();
    }
    qemu_img(dir, "bitmap --add a.qcow2 b0").unwrap();
    qemu_img(dir, "bitmap --add --disable -g 512 a.qcow2 b1").unwrap();
    qemu_io(dir, "a.qcow2", "write 0 1M").unwrap();
    let machine = check(dir, "a.qcow2");
    assert!(machine.kicks() <= 5, "{} kicks", machine.kicks());
    qemu_io(dir, "a.qcow2", "abort").unwrap_err();
    check(dir, "a.qcow2");
}

#[test]
fn raw_images_have_their_rounded_length() {
    let mut bytes = vec![0; 1000];
    bytes[446 + 4] = 0x83;
    bytes[446 + 12] = 1;
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let (result, machine) = ours(bytes);
    assert_eq!(result, Ok(End::Done { lengths: vec![] }));
    assert_eq!(as_json(&machine.frames), json!({"format": "raw", "virtual-size": 1024, "dirty-flag": false}));
    assert_eq!(machine.kicks(), 1);
}

#[test]
fn every_failing_request_and_reply_is_reported() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 10M").unwrap();
    qemu_img(dir, "snapshot -c one a.qcow2").unwrap();
    let disks = [MemoryDisk::new(std::fs::read(dir.join("a.qcow2")).unwrap())];
    let request = request(INFO, &disks);
    let mut sound = Machine::new(&request, &disks);
    info(&request, &mut sound).unwrap();
    for number in 0..sound.requests() {
        let mut machine = Machine::with_fault(&request, &disks, Fault::Request(number), false);
        let result = info(&request, &mut machine);
        assert!(matches!(result, Err(Error::Read(ReadError::Io { .. }))), "{number}: {result:?}");
    }
    let mut machine = Machine::with_fault(&request, &disks, Fault::Reply(0), false);
    assert_eq!(info(&request, &mut machine), Err(Error::OutOfBudget(Resource::Reply)));
}

/// The raw driver's window below qcow2: header, snapshots and everything else are read through it.
#[test]
fn an_image_within_a_window_is_described_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 10M").unwrap();
    qemu_img(dir, "snapshot -c one a.qcow2").unwrap();
    let image = std::fs::read(dir.join("a.qcow2")).unwrap();
    for (offset, format) in [(1 << 20, None), (777, Some(Format::Qcow2))] {
        let Embedded { bytes, size, name } = embed(dir, &image, offset);
        let theirs = qemu_img(dir, &format!("info --output=json {name}")).unwrap();
        let mut theirs: Json = serde_json::from_str(&theirs).unwrap();
        for host in ["children", "filename", "actual-size", "full-backing-filename"] {
            theirs.as_object_mut().unwrap().remove(host);
        }
        let disks = [MemoryDisk::new(bytes)];
        let mut request = request(INFO, &disks);
        request.layers[0].window = Some(Window { offset: offset as u64, len: Some(size as u64) });
        request.layers[0].format = format;
        let mut machine = Machine::new(&request, &disks);
        assert_eq!(info(&request, &mut machine), Ok(End::Done { lengths: vec![] }));
        assert_eq!(as_json(&machine.frames), theirs);
    }
}
