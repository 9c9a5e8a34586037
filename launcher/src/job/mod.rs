//! Typed to meant: what a run is given, and what it needs on the way.
//!
//! [`name`] says what the user's words for an image mean, [`open`] opens and locks the file behind
//! them, [`info`], [`read`] and [`convert`] make a [`Job`] of it and see it through: a run that needs more files
//! ends, the [`crate::gate`] decides, and a fresh run starts with the fuller job. No image byte is
//! looked at here.
#![forbid(unsafe_code)]

pub mod below;
pub mod convert;
pub mod extents;
pub mod failure;
pub mod info;
mod layers;
pub mod limits;
pub mod name;
mod name_error;
pub mod open;
pub mod options;
pub mod pipe;
pub mod read;
pub mod reserve;
pub mod size;
pub mod target;

use crate::disk::Disk;
use crate::disk::bytes::FileBytes;
use crate::disk::file::SourceFile;
use crate::machine::{Choice, MachineError};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame};
use instar_abi::request::{Access, Answer, Budget, DiskId, Layer, LayerId, Op, Qcow2Options, Request, TargetFormat};
use std::sync::Arc;

/// One run of a guest: the op, the bytes behind its devices, what it is asked, what it may use.
#[derive(Clone)]
pub struct Job {
    /// Name of the op image: `info`, `convert`, `convert-full` and so on.
    pub op: &'static str,
    /// The bytes behind each of [`Request::disks`], in the same order.
    pub disks: Vec<Arc<dyn Disk>>,
    /// What the guest is asked.
    pub request: Request,
    /// What the run may use up on the host.
    pub limits: limits::Limits,
}

/// What comes after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Text and the end: nothing more will be opened, so the run may lock this very process down.
    Finish,
    /// Files may have to be opened, truncated or removed: this process must stay free.
    GoOn,
}

/// Runs jobs: the room `machine`, or a scripted one in tests.
pub trait Machine {
    /// Runs a job to its end. Every frame before the last goes to `on_frame`, in order.
    ///
    /// # Errors
    /// The guest did not come to an end of its own.
    fn run(&mut self, job: &Job, then: Then, on_frame: &mut dyn FnMut(Frame)) -> Result<End, NoEnd>;

    /// No run follows, for now: whatever the last one has left for the next is let go, open files among it.
    fn rest(&mut self);

    /// What the host said of the disk's request that the last run failed by, if it did so and the host said
    /// anything: an errno. No guest has a word in it.
    fn host_errno(&self) -> Option<i32> {
        None
    }

    /// Which engine runs the jobs to come.
    fn choose(&mut self, choice: Choice) {
        let _ = choice;
    }

    /// From now on a signal to stop ends runs and not this process, which has something to clean up.
    ///
    /// # Errors
    /// The host refuses.
    fn catch_signals(&mut self) -> Result<(), NoEnd> {
        Ok(())
    }

    /// The signal that asked to stop, if any did.
    fn stop_signal(&self) -> Option<i32> {
        None
    }
}

/// A run without an end.
#[derive(Debug)]
pub enum NoEnd {
    /// Why, still to be worded.
    Machine(MachineError),
    /// This build carries no image of the op.
    NoImage {
        /// The op.
        op: &'static str,
    },
    /// Why, as a child that ran it worded it: a line, what to do about it on a second one, which may be empty, and then
    /// what the machine's program said.
    Told(String),
    /// The user stopped it by this signal.
    Stopped(i32),
}

/// Convert with every codec.
const CONVERT_FULL: &str = "convert-full";

/// The op image that does it: encoders do not fit an ordinary one, and most that are asked about an image want no details.
fn op_image(op: &Op) -> &'static str {
    match op {
        Op::Info { details: false, .. } => "info",
        Op::Info { details: true, .. } => "info-full",
        Op::Convert(convert) => match &convert.target_format {
            TargetFormat::Qcow2(Qcow2Options { compress: true, .. })
            | TargetFormat::Existing { compress: true, .. } => CONVERT_FULL,
            TargetFormat::Raw | TargetFormat::Qcow2(_) | TargetFormat::Existing { .. } => "convert",
        },
        Op::Map(_) => "map",
        Op::Measure(_) => "measure",
        Op::Compare(_) => "compare",
        Op::Check(_) => "check",
    }
}

/// What every request has: budget, randomness, wall clock.
fn request(op: Op, budget: Budget, lanes: u8) -> Result<Request, rustix::io::Errno> {
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(Request {
        op,
        disks: Vec::new(),
        layers: Vec::new(),
        answers: Vec::new(),
        budget,
        seed,
        // A clock before 1970 is no clock.
        now: now.map_or(0, |now| now.as_secs()),
        lanes,
    })
}

impl Job {
    /// Adds a disk that is only read.
    fn add_source(&mut self, bytes: impl Into<FileBytes>, len: u64, host: extents::Host) -> DiskId {
        let extents::Host { data, allocated } = host;
        let disk = instar_abi::request::Disk { len, access: Access::ReadOnly, data, allocated };
        self.add_disk(disk, Arc::new(SourceFile::new(bytes, len)))
    }

    fn add_disk(&mut self, disk: instar_abi::request::Disk, bytes: Arc<dyn Disk>) -> DiskId {
        self.disks.push(bytes);
        self.request.disks.push(disk);
        DiskId(last_index(self.request.disks.len()))
    }

    fn add_layer(&mut self, layer: Layer) -> LayerId {
        self.request.layers.push(layer);
        LayerId(last_index(self.request.layers.len()))
    }

    fn add_answer(&mut self, answer: Answer) {
        self.request.answers.push(answer);
    }
}

fn last_index(count: usize) -> u32 {
    u32::try_from(count - 1).expect("a job has at most a few hundred disks and layers")
}

/// The format of a name that an image records; `None`: nobody knows it, or it is no format for reading.
fn recorded_format(name: &[u8]) -> Option<Format> {
    Format::from_name(name).filter(|&format| format != Format::Iso)
}

#[cfg(test)]
mod tests {
    use super::*;
    use instar_abi::request::{Before, Compression, Convert};

    #[test]
    fn compressing_takes_the_image_with_every_codec() {
        let op = |target_format| {
            op_image(&Op::Convert(Convert {
                sources: vec![LayerId(0)],
                snapshot: None,
                target: DiskId(1),
                target_format,
                before: Before::Empty,
                sparse_len: 4096,
                top_only: false,
                any_order: false,
                salvage: false,
                offload: false,
                part: None,
            }))
        };
        let qcow2 = |compress, compression| {
            op(TargetFormat::Qcow2(Qcow2Options { compress, compression, ..Qcow2Options::default() }))
        };
        assert_eq!(op_image(&Op::Info { image: LayerId(0), details: false }), "info");
        assert_eq!(op_image(&Op::Info { image: LayerId(0), details: true }), "info-full");
        assert_eq!(op(TargetFormat::Raw), "convert");
        assert_eq!(qcow2(true, Compression::Zlib), "convert-full");
        // Only named in the header: nothing is encoded.
        assert_eq!(qcow2(false, Compression::Zstd), "convert");
        assert_eq!(qcow2(true, Compression::Zstd), "convert-full");
    }
}
