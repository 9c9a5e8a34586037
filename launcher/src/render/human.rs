//! The description of an image in qemu-img's lines.
#![forbid(unsafe_code)]

use super::escape::{c_string, shown};
use super::image_file::{Protocol, full_backing_name};
use super::info::{Described, child_len};
use super::qdict::{QDict, Value};
use super::size::human_size;
use super::zone::Zone;
use instar_abi::control::SECTOR_LEN;
use instar_abi::facts;
use std::fmt::Write as _;

/// Bytes of an identifier or a name that QEMU keeps of a snapshot.
const SNAPSHOT_ID_LEN_MAX: usize = 127;
const SNAPSHOT_NAME_LEN_MAX: usize = 255;

/// The lines of one image and the nodes below it.
#[must_use]
pub fn image(image: &Described, zone: &Zone) -> String {
    let mut out = String::new();
    write_image(&mut out, image, zone).expect("a String takes all");
    out
}

fn write_image(out: &mut String, image: &Described, zone: &Zone) -> std::fmt::Result {
    let (facts, file) = (&image.report.image, &image.file);
    write_node(out, 0, &file.name, facts.format.name(), facts.virtual_size, file.whole_size())?;
    if facts.encrypted {
        out.push_str("encrypted: yes\n");
    }
    if let Some(len) = facts.cluster_size {
        writeln!(out, "cluster_size: {len}")?;
    }
    if facts.dirty == Some(true) {
        out.push_str("cleanly shut down: no\n");
    }
    if let Some(backing) = &facts.backing {
        write_backing(out, &file.path, backing)?;
    }
    if !image.report.snapshots.is_empty() {
        out.push_str("Snapshot list:\n");
        writeln!(out, "{}", row("ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"))?;
        for entry in &image.report.snapshots {
            writeln!(out, "{}", snapshot(entry, zone))?;
        }
    }
    if facts.specific.is_some() && !image.report.specific.is_empty() {
        out.push_str("Format specific information:\n");
        write_dict(out, 4, &image.report.specific)?;
    }
    write_below(out, image)?;
    if !image.report.details.is_empty() {
        out.push_str("Details:\n");
        write_dict(out, 4, &image.report.details)?;
    }
    Ok(())
}

fn write_node(out: &mut String, indent: usize, name: &[u8], format: &str, len: u64, actual: u64) -> std::fmt::Result {
    let (name, size) = (shown(name), human_size(len));
    writeln!(out, "{:indent$}image: {name}", "")?;
    writeln!(out, "{:indent$}file format: {format}", "")?;
    writeln!(out, "{:indent$}virtual size: {size} ({len} bytes)", "")?;
    writeln!(out, "{:indent$}disk size: {}", "", human_size(actual))
}

/// The name goes on one line also where its bytes would break it.
fn write_backing(out: &mut String, path: &[u8], backing: &facts::Backing) -> std::fmt::Result {
    write!(out, "backing file: {}", shown(&backing.name))?;
    match full_backing_name(path, &backing.name) {
        Some(full) if full != c_string(&backing.name) => write!(out, " (actual path: {})", shown(&full))?,
        Some(_) => {}
        None => out.push_str(" (cannot determine actual path)"),
    }
    out.push('\n');
    if let Some(format) = &backing.format {
        writeln!(out, "backing file format: {}", shown(format))?;
    }
    Ok(())
}

/// The raw windows and the file, each indented by four more.
fn write_below(out: &mut String, image: &Described) -> std::fmt::Result {
    let file = &image.file;
    // QEMU lists the last first.
    for part in file.parts.iter().rev() {
        writeln!(out, "Child node '/extents.{}':", part.index)?;
        let len = part.len.checked_next_multiple_of(SECTOR_LEN).unwrap_or(u64::MAX);
        write_protocol(out, 4, (&part.path, Protocol::File), len, part.actual_size)?;
    }
    let mut path = String::from("/file");
    let mut indent = 0;
    for window in &file.windows {
        writeln!(out, "{:indent$}Child node '{path}':", "")?;
        indent += 4;
        write_node(out, indent, &window.name, "raw", window.len, file.actual_size)?;
        path.push_str("/file");
    }
    writeln!(out, "{:indent$}Child node '{path}':", "")?;
    write_protocol(out, indent + 4, (&file.path, file.protocol), child_len(image), file.actual_size)
}

fn write_protocol(
    out: &mut String,
    indent: usize,
    (path, protocol): (&[u8], Protocol),
    len: u64,
    actual: u64,
) -> std::fmt::Result {
    writeln!(out, "{:indent$}filename: {}", "", shown(path))?;
    writeln!(out, "{:indent$}protocol type: {}", "", protocol.name())?;
    writeln!(out, "{:indent$}file length: {} ({len} bytes)", "", human_size(len))?;
    writeln!(out, "{:indent$}disk size: {}", "", human_size(actual))
}

/// One line of the snapshot table, without its newline.
fn snapshot(entry: &facts::Snapshot, zone: &Zone) -> String {
    let seconds = entry.vm_clock_nanoseconds / 1_000_000_000;
    let milliseconds = entry.vm_clock_nanoseconds / 1_000_000 % 1000;
    let clock = format!("{:04}:{:02}:{:02}.{milliseconds:03}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    row(
        &shown(cut(&entry.id, SNAPSHOT_ID_LEN_MAX)),
        &shown(cut(&entry.name, SNAPSHOT_NAME_LEN_MAX)),
        &human_size(entry.vm_state_size),
        &zone.date(entry.date_seconds),
        &clock,
        // All ones stands for "not recorded" in QEMU.
        &entry.icount.filter(|&count| count != u64::MAX).map_or("--".into(), |count| count.cast_signed().to_string()),
    )
}

fn cut(text: &[u8], len: usize) -> &[u8] {
    text.get(..len).unwrap_or(text)
}

/// Columns as C's `%-7s %-16s %8s %19s %15s %10s` sets them: padded by bytes.
fn row(id: &str, tag: &str, vm_size: &str, date: &str, clock: &str, icount: &str) -> String {
    let left = |text: &str, width: usize| format!("{text}{}", " ".repeat(width.saturating_sub(text.len())));
    format!("{} {} {vm_size:>8} {date:>19} {clock:>15} {icount:>10}", left(id, 7), left(tag, 16))
}

/// Members one a line, dashes of their keys as spaces. Recursion is bounded by the report's depth.
fn write_dict(out: &mut String, indent: usize, dict: &QDict) -> std::fmt::Result {
    for (key, value) in dict.iter() {
        write!(out, "{:indent$}{}:", "", shown(key).replace('-', " "))?;
        write_value(out, indent, value)?;
    }
    Ok(())
}

fn write_value(out: &mut String, indent: usize, value: &Value) -> std::fmt::Result {
    match value {
        Value::Null => out.push_str(" null\n"),
        Value::Bool(truth) => writeln!(out, " {truth}")?,
        Value::Number(number) => writeln!(out, " {number}")?,
        Value::Text(text) => writeln!(out, " {}", shown(text))?,
        Value::List(items) => {
            out.push('\n');
            for (index, item) in items.iter().enumerate() {
                let inner = indent + 4;
                write!(out, "{:inner$}[{index}]:", "")?;
                write_value(out, inner, item)?;
            }
        }
        Value::Object(dict) => {
            out.push('\n');
            write_dict(out, indent + 4, dict)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, name: &[u8]) -> facts::Snapshot {
        facts::Snapshot {
            id: id.into(),
            name: name.to_vec(),
            vm_state_size: 0,
            date_seconds: 0,
            date_nanoseconds: 0,
            vm_clock_nanoseconds: 0,
            icount: None,
        }
    }

    #[test]
    fn zero_fields_of_a_snapshot_print_like_qemu_img() {
        assert_eq!(
            snapshot(&entry("1", b"s"), &Zone::named("UTC")),
            "1       s                     0 B 1970-01-01 00:00:00  0000:00:00.000         --"
        );
    }

    #[test]
    fn columns_pad_by_bytes() {
        assert_eq!(
            snapshot(&entry("2", "sün".as_bytes()), &Zone::named("UTC")),
            "2       sün                  0 B 1970-01-01 00:00:00  0000:00:00.000         --"
        );
    }

    #[test]
    fn the_vm_clock_goes_on_past_9999_hours() {
        let clock = facts::Snapshot {
            vm_clock_nanoseconds: u64::MAX,
            vm_state_size: u64::MAX,
            icount: Some(u64::MAX - 1),
            ..entry("3", b"x")
        };
        assert_eq!(
            snapshot(&clock, &Zone::named("UTC")),
            "3       x                  16 EiB 1970-01-01 00:00:00 5124095:34:33.709         -2"
        );
    }

    #[test]
    fn names_are_cut_where_qemu_cuts_them() {
        let line = snapshot(&entry(&"i".repeat(200), &[b'n'; 300]), &Zone::named("UTC"));
        assert!(line.starts_with(&format!("{} {} ", "i".repeat(127), "n".repeat(255))));
    }
}
