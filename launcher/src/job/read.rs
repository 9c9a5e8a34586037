//! Operations that read images and make none: map, measure, compare.
#![forbid(unsafe_code)]

use super::failure::Failure;
use super::layers::{Layers, Reading};
use super::name::ImageName;
use super::open::{self, path_of};
use super::{Machine, limits};
use crate::disk::bytes::CacheMode;
use crate::disk::lock::Claim;
use crate::gate::policy::{Policy, PolicyError};
use crate::render::report::Lie;
use instar_abi::reply::Frame;
use instar_abi::request::{DiskId, Op, RawGate};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Meant {
    /// The operation. Its layers are the images, in their order.
    pub op: Op,
    /// The images to read.
    pub images: Vec<ImageName>,
    /// How they are read.
    pub cache: CacheMode,
    /// When unknown content is raw, and when an unrecorded format is guessed.
    pub raw_gate: RawGate,
    /// Lanes for those operations that read content.
    pub lanes: u8,
}

/// What a guest says, and what its disks are called.
pub struct Told<'a> {
    /// The frame, a guest's.
    pub frame: Frame,
    paths: &'a [Vec<u8>],
}

impl Told<'_> {
    /// The file behind a disk; `None`: the guest made it up.
    #[must_use]
    pub fn path(&self, disk: DiskId) -> Option<&[u8]> {
        self.paths.get(usize::try_from(disk.0).ok()?).map(Vec::as_slice)
    }
}

/// Reads. `policy` is asked for only when an image names other files; `on_frame` gets what the guest says and judges it.
///
/// # Errors
/// [`Failure`].
pub fn run(
    meant: &Meant,
    policy: impl FnOnce() -> Result<Policy, PolicyError>,
    machine: &mut dyn Machine,
    on_frame: &mut dyn FnMut(Told<'_>) -> Result<(), Lie>,
) -> Result<(), Failure> {
    let result = run_before_others(meant, policy, machine, on_frame);
    machine.rest();
    result
}

/// The same, with runs of other jobs to follow: who has them run lets the machine rest.
///
/// # Errors
/// [`Failure`].
pub fn run_before_others(
    meant: &Meant,
    policy: impl FnOnce() -> Result<Policy, PolicyError>,
    machine: &mut dyn Machine,
    on_frame: &mut dyn FnMut(Told<'_>) -> Result<(), Lie>,
) -> Result<(), Failure> {
    let shared = meant.images.iter().all(|name| name.shared);
    let claim = if shared { Claim::NONE } else { Claim::READ };
    let reading = Reading { claim, cache: meant.cache, raw_gate: meant.raw_gate };
    let mut layers = Layers::new(meant.op.clone(), limits::READ, meant.lanes, reading)?;
    for name in &meant.images {
        let claim = if name.shared { Claim::NONE } else { Claim::READ };
        let opened = open::source(path_of(&name.path), claim).map_err(|error| Failure::Open {
            typed: name.typed.clone(),
            path: name.path.clone(),
            error,
        })?;
        layers.add_named(name, opened)?;
    }
    let lengths = layers.run_before_others(policy, machine, &mut |frame, paths| on_frame(Told { frame, paths }))?;
    // Nothing was written.
    if lengths.is_empty() { Ok(()) } else { Err(Failure::Lie(Lie::OutOfPlace)) }
}
