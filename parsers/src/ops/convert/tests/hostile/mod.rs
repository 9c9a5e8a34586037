//! An image for each field and table of VMDK, VHD and VHDX that is not as it must be: it has its error, and qemu-img reads it only
//! where that is said.

mod vhdx;
mod vmdk;
mod vpc;

use super::{job, run};
use crate::testing::qemu_img;
use instar_abi::error::{BlockError, Error, Field, Structure};
use instar_abi::format::Format;
use instar_abi::request::TargetFormat;
use std::path::Path;

/// What qemu-img does with an image that we refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theirs {
    /// The same.
    Refuses,
    /// Reads it: as zeros what is not there, or without what is broken.
    Reads,
}

/// An image, what is bent in it, and what becomes of it.
struct Bent {
    what: String,
    bytes: Vec<u8>,
    ours: BlockError,
    theirs: Theirs,
}

/// Bytes at places, over those of an image.
fn with(image: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = image.to_vec();
    for (at, change) in changes {
        bytes[*at..*at + change.len()].copy_from_slice(change);
    }
    bytes
}

const fn field(field: Field, found: u64) -> BlockError {
    BlockError::Field { field, found }
}

const fn magic(structure: Structure) -> BlockError {
    BlockError::Magic { structure }
}

const fn checksum(structure: Structure) -> BlockError {
    BlockError::Checksum { structure }
}

const fn truncated(structure: Structure) -> BlockError {
    BlockError::Truncated { structure }
}

const fn entry(structure: Structure, index: u64, found: u64) -> BlockError {
    BlockError::Entry { structure, index, found }
}

/// Converts every image, as both do.
fn judge(dir: &Path, format: Format, images: Vec<Bent>) {
    let mut complaints = Vec::new();
    for Bent { what, bytes, ours, theirs } in images {
        std::fs::write(dir.join("bent"), &bytes).unwrap();
        let (mut job, disks) = job(vec![bytes], TargetFormat::Raw);
        job.layers[0].format = Some(format);
        match run(&job, &disks) {
            Err(Error::Block { error, .. }) if error == ours => {}
            other => complaints.push(format!("{what}: {:?}, not {ours:?}", other.map(|bytes| bytes.len()))),
        }
        let said = qemu_img(dir, &format!("convert -f {} -O raw bent out", format.name()));
        let found = if said.is_ok() { Theirs::Reads } else { Theirs::Refuses };
        if found != theirs {
            complaints.push(format!("{what}: qemu-img {found:?} it: {said:?}"));
        }
    }
    assert!(complaints.is_empty(), "{} complaints\n{}", complaints.len(), complaints.join("\n"));
}
