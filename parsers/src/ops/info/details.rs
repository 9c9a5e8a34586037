//! What info tells with `details`: signs of formats, the partitions, and what is risky about the image.
//!
//! | reason | what it means | |
//! |---|---|---|
//! | `backing-file`, `data-file`, `extents` | content is in other files | caution |
//! | `absolute-name` | a name of such a file is an absolute path | caution |
//! | `name-leaves-directory` | one leads up, out of the image's directory | unsafe |
//! | `name-with-protocol` | one is a `json:`, `nbd:` or other name that is no path | unsafe |
//! | `name-unprintable` | one has control characters | unsafe |
//! | `encrypted` | the content is encrypted | caution |
//! | `dirty` | it was not closed, or is in use | caution |
//! | `corrupt` | its writer marked it as damaged | unsafe |
//! | `unknown-features` | it has features that are not known and may be ignored | caution |
//! | `several-formats` | it has signs of more than one format | unsafe |
//! | `expansion` | the disk is more than 1000 times as long as its files | caution |
//! | `partition-table` | something is wrong with the table | caution |

use crate::detect::{self, Sign};
use crate::image::{Driver, Image as _, Opened, OwnContent, Tree, text_of_utf16};
use crate::partition::{self, Kind, Partition, Purpose, Table, Unread};
use crate::store::ReadAt;
use alloc::vec::Vec;
use core::fmt;
use instar_abi::error::Error;
use instar_abi::facts::{Node, Value};
use instar_abi::format::Format;
use instar_abi::request::{LayerId, Request};

/// A disk this many times as long as its files is worth a word.
const EXPANSION_MAX: u64 = 1000;

/// How an image is to be taken, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Safe,
    Caution,
    Unsafe,
}

/// Reasons for a verdict, each once.
struct Reasons(Vec<(&'static str, Verdict)>);

/// The details of an image.
///
/// # Errors
/// Those of the reads of its head and tail. What can't be read of its content is told.
pub(super) fn details(io: &mut dyn ReadAt, request: &Request, id: LayerId, image: Opened) -> Result<Vec<Node>, Error> {
    let layer = request.layer(id).ok_or(Error::WrongOp)?;
    let signs = detect::signs(io, id, layer)?;
    let mut reasons = reasons(&image, &signs);
    let virtual_size = image.virtual_size();
    let len = request.disks.iter().fold(0u64, |sum, disk| sum.saturating_add(disk.len));
    let expansion = virtual_size.checked_div(len).unwrap_or(0);
    if expansion > EXPANSION_MAX {
        reasons.add("expansion", Verdict::Caution);
    }
    let table = match is_encrypted(&image) {
        true => Ok(None),
        false => partition::read(&mut OwnContent::new(io, id, image)),
    };
    if matches!(&table, Ok(Some(table)) if !table.problems.is_empty()) {
        reasons.add("partition-table", Verdict::Caution);
    }
    let mut tree = Tree::default();
    tree.text("verdict", reasons.verdict().name());
    tree.nest("reasons", Value::List, |tree| reasons.0.iter().for_each(|(name, _)| tree.text("", name)));
    tree.nest("signs", Value::List, |tree| signs.iter().for_each(|sign| push_sign(tree, sign)));
    tree.add("expansion", Value::Number(expansion));
    match &table {
        Ok(Some(table)) => tree.nest("partition-table", Value::Object, |tree| push_table(tree, table)),
        Ok(None) => {}
        Err(why) => tree.nest("partition-table", Value::Object, |tree| tree.text("unread", unread(*why))),
    }
    Ok(tree.into_nodes())
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Caution => "caution",
            Self::Unsafe => "unsafe",
        }
    }
}

impl Reasons {
    fn add(&mut self, name: &'static str, verdict: Verdict) {
        if !self.0.iter().any(|(known, _)| *known == name) {
            self.0.push((name, verdict));
        }
    }

    fn verdict(&self) -> Verdict {
        self.0.iter().map(|(_, verdict)| *verdict).max().unwrap_or(Verdict::Safe)
    }

    /// What is risky about a name that the image holds.
    fn add_name(&mut self, name: &[u8]) {
        if name.iter().any(u8::is_ascii_control) {
            self.add("name-unprintable", Verdict::Unsafe);
        }
        // As QEMU tells protocols from paths: by a colon before any slash.
        match name.iter().find(|byte| matches!(byte, b':' | b'/')) {
            Some(b':') => self.add("name-with-protocol", Verdict::Unsafe),
            _ if name.starts_with(b"/") => self.add("absolute-name", Verdict::Caution),
            _ => {}
        }
        if name.split(|byte| matches!(byte, b'/' | b'\\')).any(|part| part == b"..") {
            self.add("name-leaves-directory", Verdict::Unsafe);
        }
    }
}

fn reasons(image: &Opened, signs: &[Sign]) -> Reasons {
    let mut reasons = Reasons(Vec::new());
    match &image.driver {
        Driver::Raw(_) => {}
        Driver::Qcow2(image) => {
            if let Some(name) = image.backing() {
                reasons.add("backing-file", Verdict::Caution);
                reasons.add_name(name);
            }
            if image.header().has_data_file() {
                reasons.add("data-file", Verdict::Caution);
                reasons.add_name(image.extensions().data_file.as_deref().unwrap_or_default());
            }
            for (holds, name, verdict) in [
                (image.header().is_dirty(), "dirty", Verdict::Caution),
                (image.header().is_corrupt(), "corrupt", Verdict::Unsafe),
                (image.header().has_unknown_features(), "unknown-features", Verdict::Caution),
            ] {
                if holds {
                    reasons.add(name, verdict);
                }
            }
        }
        Driver::Blocks(image) => {
            if let Some(backing) = &image.facts().backing {
                reasons.add("backing-file", Verdict::Caution);
                reasons.add_name(&backing.name);
            }
            for name in image.files() {
                reasons.add("extents", Verdict::Caution);
                reasons.add_name(name);
            }
            if image.facts().dirty == Some(true) {
                reasons.add("dirty", Verdict::Caution);
            }
        }
    }
    if is_encrypted(image) {
        reasons.add("encrypted", Verdict::Caution);
    }
    // A table of partitions is content to a raw disk and to an ISO, which many are made to boot from a disk, too.
    let format = image.format();
    let is_content = |sign: &Sign| format == Format::Raw && matches!(sign.format, Format::Raw | Format::Iso);
    if signs.iter().any(|sign| sign.format != format && !is_content(sign)) {
        reasons.add("several-formats", Verdict::Unsafe);
    }
    reasons
}

fn is_encrypted(image: &Opened) -> bool {
    match &image.driver {
        Driver::Raw(_) => false,
        Driver::Qcow2(image) => image.header().crypt() != crate::qcow2::Crypt::None,
        Driver::Blocks(image) => image.facts().encrypted,
    }
}

fn push_sign(tree: &mut Tree, sign: &Sign) {
    tree.nest("", Value::Object, |tree| {
        let what = if sign.format == Format::Raw { "partition-table" } else { sign.format.name() };
        tree.text("of", what);
        tree.add("offset", Value::Number(sign.offset));
    });
}

fn push_table(tree: &mut Tree, table: &Table) {
    match table.kind {
        Kind::Mbr { disk_id } => {
            tree.text("type", "mbr");
            tree.text("id", text(format_args!("0x{disk_id:08x}")));
        }
        Kind::Gpt { disk_guid } => {
            tree.text("type", "gpt");
            tree.text("id", text(format_args!("{disk_guid}")));
        }
    }
    tree.add("sector-size", Value::Number(table.sector_len));
    tree.nest("partitions", Value::List, |tree| {
        for partition in &table.partitions {
            tree.nest("", Value::Object, |tree| push_partition(tree, partition));
        }
    });
    tree.nest("problems", Value::List, |tree| {
        for problem in &table.problems {
            tree.text("", problem.name());
        }
    });
}

fn push_partition(tree: &mut Tree, partition: &Partition) {
    tree.add("number", Value::Number(partition.number.into()));
    tree.add("start", Value::Number(partition.start));
    tree.add("size", Value::Number(partition.len));
    match &partition.purpose {
        Purpose::Mbr { kind, is_active } => {
            tree.text("type", text(format_args!("{kind:x}")));
            tree.add("bootable", Value::Bool(*is_active));
        }
        Purpose::Gpt { kind, guid, attributes, name } => {
            tree.text("type", text(format_args!("{kind}")));
            tree.text("guid", text(format_args!("{guid}")));
            tree.add("attributes", Value::Number(*attributes));
            tree.text("name", text_of_utf16(name.iter().copied()));
        }
    }
}

const fn unread(why: Unread) -> &'static str {
    match why {
        Unread::Below => "in a file below",
        Unread::Failed => "unreadable",
    }
}

/// `alloc`'s own `format!` is compiled for unwinding, which a guest does not do.
fn text(arguments: fmt::Arguments<'_>) -> Vec<u8> {
    struct Text(Vec<u8>);
    impl fmt::Write for Text {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    let mut text = Text(Vec::new());
    // The writer takes everything.
    let _ = fmt::write(&mut text, arguments);
    text.0
}
