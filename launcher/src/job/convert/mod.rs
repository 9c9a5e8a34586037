//! Convert: sources and what they name are opened, the target is made, and only a run that went well
//! leaves one.
#![forbid(unsafe_code)]

mod inputs;
mod outputs;
mod request;

use super::Machine;
use super::failure::Failure;
use super::name::ImageName;
use super::reserve::Preallocation;
use crate::disk::bytes::CacheMode;
use crate::disk::existing::Content;
use crate::gate::policy::{Policy, PolicyError};
use inputs::Inputs;
use instar_abi::request::{Part, RawGate, SnapshotName, TargetFormat};
use outputs::Outputs;
use std::num::NonZeroU64;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// The images to read, one behind the other; at least one.
    pub sources: Vec<ImageName>,
    /// The internal snapshot of the only source to read.
    pub snapshot: Option<SnapshotName>,
    /// The user's words for the target.
    pub target: Vec<u8>,
    /// Its path.
    pub target_path: Vec<u8>,
    /// The target is there (`-n`) and holds this.
    pub existing: Option<Content>,
    /// What to make; without the files it names.
    pub format: TargetFormat,
    /// Of the source only the top layer is copied into a target that is there.
    pub top_only: bool,
    /// The layer below a new target.
    pub backing: Option<Backing>,
    /// The file for the content of the target.
    pub data_file: Option<DataFile>,
    /// What is reserved for the target.
    pub preallocation: Preallocation,
    /// Zero runs of this many bytes become holes; 0: none do.
    pub sparse_len: u32,
    /// Clusters may come in any order.
    pub any_order: bool,
    /// What can't be read becomes zeros.
    pub salvage: bool,
    /// The host's kernel copies what lies on a disk as it is.
    pub offload: bool,
    /// Only this part of the source is copied.
    pub part: Option<Part>,
    /// Most bytes a second that are written.
    pub rate: Option<NonZeroU64>,
    /// How the target is written.
    pub cache: CacheMode,
    /// How the source is read.
    pub source_cache: CacheMode,
    /// When unknown content is raw, and when an unrecorded format is guessed.
    pub raw_gate: RawGate,
    /// Lanes for the mover.
    pub lanes: u8,
    /// What of this is not plain, by the options' names: an op image may lack some of it.
    pub asked: Vec<&'static str>,
}

/// The layer below a new image, as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Name, read beside the target.
    pub name: Vec<u8>,
    /// Format.
    pub format: instar_abi::format::Format,
}

/// The file for the content of a new image, as the user names it: read in the working directory, as qemu-img does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Name.
    pub name: Vec<u8>,
    /// It is to be a raw image of its own.
    pub raw: bool,
}

/// What is told while a run goes on; the numbers are a guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Work done and its total.
    Progress {
        /// Done.
        done: u64,
        /// All of it.
        total: u64,
    },
    /// The part that was asked for begins past the end of the source.
    PastEnd,
    /// Content that can't be read and becomes zeros.
    Unreadable {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl Meant {
    /// What qemu-img calls making the target.
    const fn making(&self) -> &'static str {
        match self.format {
            _ if self.part.is_some() => "creating output image",
            TargetFormat::Raw => "converting raw",
            TargetFormat::Qcow2(_) | TargetFormat::Existing { .. } => "converting qcow2",
        }
    }

    /// qemu-img's name of the target's format.
    #[must_use]
    pub const fn format_name(&self) -> &'static str {
        match self.format {
            TargetFormat::Raw => "raw",
            TargetFormat::Qcow2(_) | TargetFormat::Existing { .. } => "qcow2",
        }
    }
}

/// Converts. `policy` is asked for only when the source names other files; `on_news` gets a guest's numbers.
///
/// # Errors
/// [`Failure`]; a target that this call made is gone again.
pub fn run(
    meant: &Meant,
    policy: impl FnOnce() -> Result<Policy, PolicyError>,
    machine: &mut dyn Machine,
    on_news: &mut dyn FnMut(News),
) -> Result<(), Failure> {
    let inputs = Inputs::open(meant)?;
    // Before there is anything to clean up.
    machine.catch_signals().map_err(Failure::NoEnd)?;
    let outputs = Outputs::open(meant, &inputs.ids(), machine)?;
    let layers = request::layers(meant, inputs, &outputs)?;
    let ran = request::run(layers, meant, policy, machine, on_news);
    if ran.is_err() && outputs.target.is_deserted() {
        return Err(Failure::Deserted);
    }
    let lengths = ran?;
    outputs.keep(&lengths, meant, machine)
}
