//! Why a command failed, as data; [`crate::render::errors`] words it.
#![forbid(unsafe_code)]

use super::NoEnd;
use super::name::NameError;
use super::open::OpenError;
use crate::gate::Refusal;
use crate::gate::policy::PolicyError;
use crate::render::report::Lie;
use instar_abi::error::Error;
use instar_abi::request::NeedKind;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The user's words name no image.
    Name {
        /// The words.
        typed: Vec<u8>,
        /// Why.
        error: NameError,
    },
    /// The user's image can't be opened.
    Open {
        /// The user's words for it.
        typed: Vec<u8>,
        /// Its path.
        path: Vec<u8>,
        /// Why.
        error: OpenError,
    },
    /// The target can't be made.
    Create {
        /// The user's words for it.
        typed: Vec<u8>,
        /// The user's words for the file of it that can't be made.
        name: Vec<u8>,
        /// What qemu-img calls making it.
        making: &'static str,
        /// Why.
        error: OpenError,
    },
    /// A file that an image names can't be opened.
    Named(Box<NamedFailure>),
    /// Content is in files that the image names, and this process could not open any more.
    Parts {
        /// The user's words for the image.
        typed: Vec<u8>,
    },
    /// There is no policy for files that images name.
    Policy(PolicyError),
    /// The guest says that the operation failed.
    Guest(Box<GuestFailure>),
    /// The guest contradicted the protocol.
    Lie(Lie),
    /// The run came to no end.
    NoEnd(NoEnd),
    /// The host gave no randomness; its errno.
    Random(i32),
    /// The target is whole, and the host could not make it durable or give it its name.
    Keep {
        /// The user's words for the target.
        typed: Vec<u8>,
        /// The host's errno.
        errno: i32,
    },
    /// Nobody reads from the pipe that the target is.
    Deserted,
    /// The host has no room to reserve for the target.
    Reserve {
        /// The user's words for the target.
        typed: Vec<u8>,
        /// The target's format.
        format: &'static str,
        /// The room is for its data file.
        of_data_file: bool,
        /// By zeros that are written.
        by_zeros: bool,
        /// The host's errno.
        errno: i32,
    },
    /// The host could not set the target's final length.
    Finish {
        /// The user's words for the target.
        typed: Vec<u8>,
        /// The host's errno.
        errno: i32,
    },
}

/// A file that an image names and that was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFailure {
    /// The user's words for the top image.
    pub top: Vec<u8>,
    /// Layers between the top image and the one that names it.
    pub depth: u32,
    /// What the name is to that image.
    pub kind: NeedKind,
    /// The name.
    pub name: Vec<u8>,
    /// Where it was looked for.
    pub path: PathBuf,
    /// Why.
    pub error: NamedError,
}

/// What the guest says went wrong, and what it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFailure {
    /// What the layers and disks are called.
    pub names: Names,
    /// Why.
    pub error: Error,
    /// The host's errno, where that is why.
    pub errno: Option<i32>,
}

/// Why a file that an image names was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedError {
    /// The gate refused.
    Refused(Refusal),
    /// The image records a format that nobody knows.
    Format {
        /// The format.
        found: Vec<u8>,
    },
    /// The image records no format, and content is not to be guessed.
    NoFormat,
}

/// What messages call the layers and disks of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The user's words for the top image.
    pub top: Vec<u8>,
    /// How deep each layer lies below the top image, in the order of the request.
    pub depths: Vec<u32>,
    /// The file behind each disk, in the order of the request.
    pub disks: Vec<Vec<u8>>,
    /// The user's words for the image above each layer, in the order of the request; [`Names::top`] where missing.
    pub tops: Vec<Vec<u8>>,
    /// The target's format, where there is a target.
    pub target_format: Option<&'static str>,
    /// What was asked for beyond the plain, by the options' names.
    pub asked: Vec<&'static str>,
}
