//! measure: tell how large a new image would be.
//!
//! # Source
//! `qcow2_measure`, `raw_measure` and `block_crypto_measure` of QEMU 10.0.

use super::{Reply, ask, open_chain, with_store};
use crate::align;
use crate::image::{Chain, Image as _, Resolved};
use crate::luks;
use crate::qcow2::Qcow2;
use crate::qcow2::create::{Layout, bitmaps_len, full_len};
use crate::store::{Budget, ReadAt};
use alloc::vec::Vec;
use instar_abi::error::{Error, TargetError};
use instar_abi::format::Format;
use instar_abi::reply::{End, Frame, Measured};
use instar_abi::request::{Measure, MeasuredContent, Op, Qcow2Options, Request, TargetFormat};
use instar_io::{Env, SECTOR_LEN};

/// Sends [`Frame::Measured`].
///
/// # Errors
/// [`Error::WrongOp`] for another operation; what qemu-img refuses; those of the reads and of the reply.
pub fn measure<E: Env>(request: &Request, env: &mut E) -> Result<End, Error> {
    let Op::Measure(measure) = &request.op else { return Err(Error::WrongOp) };
    let mut budget = Budget::from(request.budget);
    let mut source = match &measure.content {
        MeasuredContent::Size(_) => None,
        MeasuredContent::Image { image, snapshot } => {
            let mut chain = match open_chain(request, env, &mut budget, *image)? {
                Resolved::Complete(chain) => chain,
                Resolved::Incomplete(needs) => return ask(env, needs),
            };
            if let Some(name) = snapshot {
                with_store(request, env, &mut budget, |store| chain.select_snapshot(store, name))?;
            }
            Some(chain)
        }
    };
    let virtual_size = match (&measure.content, &source) {
        (_, Some(chain)) => Some(chain.virtual_size()),
        // QEMU's driver for LUKS adds its header to what was typed, and rounds nothing.
        (MeasuredContent::Size(size), None) if measure.luks_key_len > 0 && measure.target == TargetFormat::Raw => {
            Some(*size)
        }
        (MeasuredContent::Size(size), None) => align::up(*size, SECTOR_LEN),
        (MeasuredContent::Image { .. }, None) => None,
    };
    // QEMU takes sizes of 63 bits, rounds them up, and counts on in 64.
    let virtual_size = virtual_size.filter(|size| *size <= 1 << 63);
    let virtual_size =
        virtual_size.ok_or(Error::Target(TargetError::TooLarge { virtual_size: u64::MAX, max: i64::MAX as u64 }))?;
    let luks_len = luks::header_len(measure.luks_key_len);
    let measured = match &measure.target {
        TargetFormat::Raw => {
            let len = virtual_size.saturating_add(luks_len);
            Measured { required: len, fully_allocated: len, bitmaps: None }
        }
        TargetFormat::Qcow2(options) => {
            let target = Target::new(measure, options, virtual_size, luks_len)?;
            with_store(request, env, &mut budget, |store| target.measure(store, source.as_mut(), virtual_size))?
        }
        TargetFormat::Existing { .. } => return Err(Error::Target(TargetError::Unsupported)),
    };
    let mut reply = Reply::default();
    reply.push(env, &Frame::Measured(measured))?;
    reply.flush(env)?;
    Ok(End::Done { lengths: Vec::new() })
}

/// A qcow2 that is to be measured.
struct Target {
    layout: Layout,
    /// Its length with content everywhere.
    fully_allocated: u64,
    /// Everything is allocated, or nobody knows what a layer below would spare.
    is_full: bool,
}

impl Target {
    fn new(measure: &Measure, options: &Qcow2Options, virtual_size: u64, luks_len: u64) -> Result<Self, Error> {
        let layout = Layout::try_from(options).map_err(Error::Target)?;
        let max = layout.virtual_size_max();
        let error = Error::Target(TargetError::TooLarge { virtual_size, max });
        if virtual_size > max {
            return Err(error);
        }
        // The header is in clusters of its own.
        let luks_len = align::up(luks_len, layout.cluster_size()).unwrap_or(u64::MAX);
        let len = full_len(layout, virtual_size).and_then(|len| len.checked_add(luks_len));
        let is_full = measure.is_preallocated || options.backing.is_some();
        Ok(Self { layout, fully_allocated: len.ok_or(error)?, is_full })
    }

    fn measure(&self, io: &mut dyn ReadAt, source: Option<&mut Chain>, virtual_size: u64) -> Result<Measured, Error> {
        let cluster_size = self.layout.cluster_size();
        // Version 2 has none.
        let has_bitmaps = |image: &&Qcow2| self.layout.version() >= 3 && image.header().version() >= 3;
        let image = source.as_ref().and_then(|chain| chain.top_qcow2()).filter(has_bitmaps);
        let bitmaps = image.map(|image| bitmaps_len(image.bitmaps(), image.virtual_size(), cluster_size));
        // QEMU loads none of an image of Parallels that it does not write.
        let is_parallels = source.as_ref().and_then(|chain| chain.format()) == Some(Format::Parallels);
        let bitmaps = bitmaps.or_else(|| (is_parallels && self.layout.version() >= 3).then_some(0));
        let whole = align::up(virtual_size, cluster_size).unwrap_or(u64::MAX);
        let content = match source {
            _ if self.is_full => whole,
            Some(chain) => content_len(io, chain, cluster_size)?,
            None => 0,
        };
        let required = self.fully_allocated.saturating_sub(whole).saturating_add(content);
        Ok(Measured { required, fully_allocated: self.fully_allocated, bitmaps })
    }
}

/// Bytes of the clusters that hold content.
fn content_len(io: &mut dyn ReadAt, chain: &mut Chain, cluster_size: u64) -> Result<u64, Error> {
    let end = chain.virtual_size();
    let (mut at, mut len) = (0u64, 0u64);
    while at < end {
        let extent = chain.status(io, at..end)?;
        at = extent.start.saturating_add(extent.len);
        if extent.is_data && !extent.is_zero {
            // The rest of its last cluster comes with it.
            at = align::up(at, cluster_size).unwrap_or(end);
            len = len.saturating_add(at.saturating_sub(align::down(extent.start, cluster_size)));
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests;
