//! The description of an image, or of a chain of them, as the whole output of `info`.
#![forbid(unsafe_code)]

use super::human;
use super::image_file::{ImageFile, PartFile, Protocol, full_backing_name};
use super::json::{self, Layout};
use super::qdict::{QDict, Value};
use super::report::Report;
use super::zone::Zone;
use instar_abi::control::SECTOR_LEN;
use instar_abi::facts;

/// One image of the output: what its guest said and what the host knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// From the guest.
    pub report: Report,
    /// From the host.
    pub file: ImageFile,
}

/// The lines of a chain, top first, with an empty line between images.
#[must_use]
pub fn to_lines(chain: &[Described], zone: &Zone) -> String {
    let blocks: Vec<String> = chain.iter().map(|image| human::image(image, zone)).collect();
    blocks.join("\n")
}

/// The JSON of one image.
#[must_use]
pub fn to_json(image: &Described) -> String {
    json::to_text(&value(image), Layout::Pretty) + "\n"
}

/// The JSON of a chain, an array also where it holds one image.
#[must_use]
pub fn chain_to_json(chain: &[Described]) -> String {
    json::to_text(&Value::List(chain.iter().map(value).collect()), Layout::Pretty) + "\n"
}

/// Length of the protocol node: whole sectors, and what the format says it reaches to.
pub(super) fn child_len(image: &Described) -> u64 {
    let file = image.file.len.checked_next_multiple_of(SECTOR_LEN).unwrap_or(u64::MAX);
    image.report.image.child_len.map_or(file, |len| len.max(file))
}

/// Members are put in the order of QEMU's schema, which decides between keys of one bucket.
fn value(image: &Described) -> Value {
    let (facts, file) = (&image.report.image, &image.file);
    let mut dict = node(&file.name, facts.format.name(), facts.virtual_size, file.whole_size());
    if let Some(dirty) = facts.dirty {
        dict.put("dirty-flag", Value::Bool(dirty));
    }
    if let Some(len) = facts.cluster_size {
        dict.put("cluster-size", len.into());
    }
    for (key, holds) in [("encrypted", facts.encrypted), ("compressed", facts.compressed)] {
        if holds {
            dict.put(key, Value::Bool(true));
        }
    }
    if let Some(backing) = &facts.backing {
        dict.put("backing-filename", Value::text(&backing.name));
        if let Some(full) = full_backing_name(&file.path, &backing.name) {
            dict.put("full-backing-filename", Value::Text(full));
        }
        if let Some(format) = &backing.format {
            dict.put("backing-filename-format", Value::text(format));
        }
    }
    if !image.report.snapshots.is_empty() {
        dict.put("snapshots", Value::List(image.report.snapshots.iter().map(snapshot).collect()));
    }
    if let Some(kind) = &facts.specific {
        dict.put("format-specific", specific(kind, image.report.specific.clone()));
    }
    let mut children: Vec<Value> = file.parts.iter().rev().map(part).collect();
    children.push(child("file", below(image)));
    dict.put("children", Value::List(children));
    if !image.report.details.is_empty() {
        dict.put("instar", Value::Object(image.report.details.clone()));
    }
    Value::Object(dict)
}

/// The nodes below an image, each holding the next: built from the file upwards.
fn below(image: &Described) -> QDict {
    let file = &image.file;
    let mut dict = protocol_node(&file.path, file.protocol, child_len(image), file.actual_size);
    for window in file.windows.iter().rev() {
        let lower = std::mem::replace(&mut dict, node(&window.name, "raw", window.len, file.actual_size));
        dict.put("dirty-flag", Value::Bool(false));
        dict.put("children", Value::List(vec![child("file", lower)]));
    }
    dict
}

/// A file that holds a part of the content; QEMU lists the last first.
fn part(part: &PartFile) -> Value {
    let len = part.len.checked_next_multiple_of(SECTOR_LEN).unwrap_or(u64::MAX);
    child(&format!("extents.{}", part.index), protocol_node(&part.path, Protocol::File, len, part.actual_size))
}

fn protocol_node(path: &[u8], protocol: Protocol, len: u64, actual_size: u64) -> QDict {
    let mut dict = node(path, protocol.name(), len, actual_size);
    dict.put("dirty-flag", Value::Bool(false));
    dict.put("format-specific", specific(b"file", QDict::new()));
    dict.put("children", Value::List(vec![]));
    dict
}

fn node(name: &[u8], format: &str, virtual_size: u64, actual_size: u64) -> QDict {
    [
        ("virtual-size", virtual_size.into()),
        ("filename", Value::text(name)),
        ("format", Value::text(format)),
        ("actual-size", actual_size.into()),
    ]
    .into_iter()
    .collect()
}

fn child(name: &str, info: QDict) -> Value {
    Value::Object([("name", Value::text(name)), ("info", Value::Object(info))].into_iter().collect())
}

fn specific(kind: &[u8], data: QDict) -> Value {
    Value::Object([("type", Value::text(kind)), ("data", Value::Object(data))].into_iter().collect())
}

fn snapshot(snapshot: &facts::Snapshot) -> Value {
    const SECOND: u64 = 1_000_000_000;
    let mut dict: QDict = [
        ("id", Value::text(&snapshot.id)),
        ("name", Value::text(&snapshot.name)),
        // QEMU's schema has signed numbers here.
        ("vm-state-size", Value::Number(snapshot.vm_state_size.cast_signed().into())),
        ("date-sec", Value::Number(snapshot.date_seconds.into())),
        ("date-nsec", Value::Number(snapshot.date_nanoseconds.into())),
        ("vm-clock-sec", (snapshot.vm_clock_nanoseconds / SECOND).into()),
        ("vm-clock-nsec", (snapshot.vm_clock_nanoseconds % SECOND).into()),
    ]
    .into_iter()
    .collect();
    if let Some(count) = snapshot.icount.filter(|&count| count != u64::MAX) {
        dict.put("icount", Value::Number(count.cast_signed().into()));
    }
    Value::Object(dict)
}
