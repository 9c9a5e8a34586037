//! Checks what is below an image, layer by layer, from the files that the gate opened.
//!
//! All layers are looked at first, one after another in one machine, then all are checked, in another: an operation's image
//! serves runs of its own kind only.
#![forbid(unsafe_code)]

use super::failure::Failure;
use super::info::{self, Level};
use super::layers::{Layers, Reading};
use super::name::ImageName;
use super::open::OpenError;
use super::{Machine, limits};
use crate::disk::bytes::CacheMode;
use crate::disk::lock::{self, Claim};
use crate::gate::policy::Policy;
use crate::render::report::Lie;
use instar_abi::error::Error;
use instar_abi::reply::Frame;
use instar_abi::request::{Check, LayerId, Op, RawGate};
use std::os::fd::AsFd as _;

/// How layers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When unknown content is raw, and when an unrecorded format is guessed.
    pub raw_gate: RawGate,
    /// How files are read.
    pub cache: CacheMode,
}

/// What there is to tell.
pub enum News<'a> {
    /// The next layer was reached.
    Layer {
        /// Its file.
        path: &'a [u8],
    },
    /// What the layer's guest says.
    Frame(Frame),
}

/// What is below an image, to be checked.
pub struct Below {
    levels: Vec<Level>, // top first, without the image itself
    reading: Reading,
    result: Result<(), Failure>, // what kept the next one from being reached
}

impl Below {
    /// Looks for every layer below the user's image.
    pub fn look(name: ImageName, asked: Asked, policy: &Policy, machine: &mut dyn Machine) -> Self {
        let claim = if name.shared { Claim::NONE } else { Claim::READ };
        let described = info::Asked { raw_gate: asked.raw_gate, details: false };
        let (mut levels, result) = info::walk(name, described, policy, machine);
        levels.drain(..levels.len().min(1));
        Self { levels, reading: Reading { claim, cache: asked.cache, raw_gate: asked.raw_gate }, result }
    }

    /// Checks each layer, from the top on; one of a format without a check is passed over. The machine that has checked the
    /// image itself goes on with them; who has them run lets it rest.
    ///
    /// # Errors
    /// [`Failure`]: a layer could not be reached or checked, and nothing is known of what is below it.
    pub fn check(
        self,
        policy: &Policy,
        machine: &mut dyn Machine,
        on_news: &mut dyn FnMut(News<'_>) -> Result<(), Lie>,
    ) -> Result<(), Failure> {
        let Self { levels, reading, result } = self;
        levels.into_iter().try_for_each(|level| {
            on_news(News::Layer { path: &level.name.path }).map_err(Failure::Lie)?;
            match check(level, reading, policy, machine, on_news) {
                Err(Failure::Guest(failed)) if matches!(failed.error, Error::NoCheck { .. }) => Ok(()),
                checked => checked,
            }
        })?;
        result
    }
}

fn check(
    level: Level,
    reading: Reading,
    policy: &Policy,
    machine: &mut dyn Machine,
    on_news: &mut dyn FnMut(News<'_>) -> Result<(), Lie>,
) -> Result<(), Failure> {
    let Level { name, opened, .. } = level;
    lock::claim(opened.file.as_fd(), reading.claim).map_err(|error| Failure::Open {
        typed: name.typed.clone(),
        path: name.path.clone(),
        error: OpenError::Lock(error),
    })?;
    // It is looked at as a whole, whoever asks: qemu-img checks one image only.
    let op = Op::Check(Check { image: LayerId(0), as_qemu_img: false });
    let mut layers = Layers::new(op, limits::READ, 1, reading)?;
    layers.add_named(&name, opened)?;
    let lengths =
        layers.run_before_others(|| Ok(policy.clone()), machine, &mut |frame, _| on_news(News::Frame(frame)))?;
    // Nothing was written.
    if lengths.is_empty() { Ok(()) } else { Err(Failure::Lie(Lie::OutOfPlace)) }
}
