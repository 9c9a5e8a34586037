//! Words for images whose disk is in blocks.
#![forbid(unsafe_code)]

use super::Message;
use instar_abi::error::{BlockError, Field, Identity, Structure};
use instar_abi::format::Format;

const TRUNCATED: &str = "the image is truncated, or made to mislead its reader";

/// Why such an image can't be read, in qemu-img's words where clients know them.
pub(super) fn error(format: Format, error: BlockError) -> Message {
    match error {
        BlockError::Truncated { structure } => {
            Message::new(format!("the {} runs past the end of the file", structure_name(structure)))
                .with_hint(TRUNCATED)
        }
        BlockError::Magic { structure: Structure::Footer } => Message::new("invalid VPC image"),
        BlockError::Magic { structure: Structure::DynamicHeader } => Message::new("Invalid header magic"),
        BlockError::Magic { structure: Structure::Descriptor } => Message::new("invalid VMDK image descriptor"),
        BlockError::Magic { structure: Structure::VolatileHeader } => Message::new("Bad volatile header magic"),
        BlockError::Magic { structure: Structure::Extension } => Message::new("Wrong parallels Format Extension magic"),
        BlockError::Magic { .. } => Message::new(format!("Image not in {} format", format.name())),
        BlockError::Checksum { structure: Structure::Log } => Message::new("VHDX Log: checksum failed")
            .with_hint("the log holds changes that were under way, and none of them can be made"),
        BlockError::Checksum { structure: Structure::Extension } => {
            Message::new("Wrong checksum in Format Extension header. Format extension is corrupted.")
        }
        BlockError::Checksum { .. } => Message::new("Incorrect header checksum"),
        BlockError::Version { found } => Message::new(format!("unsupported {} version {found:#x}", format.name())),
        BlockError::Features { unknown } if format == Format::Parallels => {
            Message::new(format!("Unknown feature: {unknown:#x}"))
        }
        BlockError::Features { unknown } => {
            Message::new(format!("Unsupported {} features: {unknown:x}", format.name().to_uppercase()))
        }
        BlockError::Field { field, found } => Message::new(format!("Invalid {} {found}", field_name(field))),
        BlockError::TableShort { entries, needed } => Message::new("Page table too small")
            .with_hint(format!("its table has {entries} entries, and the disk has {needed} blocks")),
        BlockError::Entry { structure: Structure::Extension, index, found } => {
            Message::new(format!("feature {index} of the Format Extension is not sound: {found:#x}"))
        }
        BlockError::Entry { structure, index, found } => {
            let table = structure_name(structure);
            Message::new(format!(
                "entry {index} of the {table} leads to {found:#x}, past the end of the file or nowhere"
            ))
            .with_hint(TRUNCATED)
        }
        BlockError::CreateType => Message::new("Unsupported image type")
            .with_hint("known: monolithicFlat, vmfs, vmfsSparse, seSparse, twoGbMaxExtentSparse, twoGbMaxExtentFlat"),
        BlockError::ExtentLine { line } => Message::new(format!("Invalid extent line: line {line} of the descriptor")),
        BlockError::NoExtent { index } => Message::new(format!("the file of extent {index} was not opened")),
        BlockError::ParentChanged { expected, found } => {
            let [expected, found] = [expected, found].map(identity);
            Message::new("Invalid argument").with_hint(format!(
                "its content changed since the layer above was made: its identifier is {found}, and {expected} was recorded"
            ))
        }
        BlockError::Log => Message::new("opened read-only, but contains a log that needs to be replayed")
            .with_hint("the log is damaged, or needs a longer file: content may be lost"),
        BlockError::Differencing => {
            Message::new("it is a differencing image, and names no parent that could be opened")
                .with_hint("what it does not hold is in its parent, and would read as zeros")
        }
    }
}

/// An identifier as it lies in the file.
fn identity(identity: Identity) -> String {
    match identity {
        Identity::Cid(cid) => format!("{cid:08x}"),
        Identity::Id(id) => id.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

const fn structure_name(structure: Structure) -> &'static str {
    match structure {
        Structure::Header => "header",
        Structure::Footer => "footer",
        Structure::DynamicHeader => "dynamic header",
        Structure::Table => "block table",
        Structure::LowerTable => "L2 table",
        Structure::StreamFooter => "footer",
        Structure::Descriptor => "descriptor",
        Structure::RegionTable => "region table",
        Structure::Metadata => "metadata",
        Structure::Locator => "parent locator",
        Structure::Bitmap => "sector bitmap",
        Structure::VolatileHeader => "volatile header",
        Structure::Log => "log",
        Structure::Extension => "format extension",
    }
}

const fn field_name(field: Field) -> &'static str {
    match field {
        Field::VirtualSize => "virtual size",
        Field::BlockSize => "block size",
        Field::SectorSize => "sector size",
        Field::TableOffset => "table offset",
        Field::TableSize => "table size",
        Field::LowerTableSize => "L2 table size",
        Field::DataOffset => "data offset",
        Field::LogOffset => "log offset",
        Field::LogSize => "log size",
        Field::Encryption => "encryption method",
        Field::BackingNameOffset => "backing file name offset",
        Field::BackingNameLen => "backing file name length",
        Field::Reserved => "value where there must be zero:",
        Field::Journal => "journal that was not replayed:",
        Field::Access => "access of an extent, at line",
        Field::Extents => "number of extents:",
    }
}
