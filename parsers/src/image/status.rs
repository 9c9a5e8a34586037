//! What QEMU's block status says of a range: what map prints, measure counts and a strict comparison holds together.
//!
//! # Source
//! `bdrv_co_block_status` of QEMU 10.0 and the drivers' own, asked with `want_zero`; each format's answer was held
//! against `qemu-img map`.

use super::chain::{Layer, host_run};
use super::{Chain, Driver, Extent, Image as _, Kind};
use crate::align;
use crate::qcow2::Refcounts;
use crate::store::ReadAt;
use core::ops::Range;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::Error;
use instar_abi::reply::{DiskOffset, MapExtent};
use instar_abi::request::DiskId;

/// A run of the host's file.
struct HostRun {
    is_data: bool,
    len: u64,
}

impl Chain {
    /// What `range` is, from its start on. The range is as for [`Chain::map`].
    ///
    /// # Errors
    /// The layers'.
    pub fn status(&mut self, io: &mut dyn ReadAt, mut range: Range<u64>) -> Result<MapExtent, Error> {
        let start = range.start;
        let mut nothing = MapExtent {
            start,
            len: range.end.saturating_sub(start),
            depth: 0,
            is_present: false,
            is_zero: true,
            is_data: false,
            is_compressed: false,
            at: None,
        };
        for (depth, layer) in (0..).zip(&mut self.layers) {
            let end = range.end.min(layer.image.virtual_size());
            if start >= end {
                // Past the end of a layer, the one above has nothing.
                return Ok(nothing);
            }
            let extent = layer.map(io, start..end)?;
            nothing = MapExtent { len: extent.len, depth, at: None, ..nothing };
            match extent.kind {
                Kind::Hole => range.end = extent.end(),
                Kind::Reserved { disk, offset, hides: false } => {
                    nothing.at = Some(DiskOffset { disk, offset });
                    range.end = extent.end();
                }
                Kind::Reserved { disk, offset, hides: true } => {
                    return Ok(MapExtent { is_present: true, at: Some(DiskOffset { disk, offset }), ..nothing });
                }
                Kind::Zero => return Ok(MapExtent { is_present: true, ..nothing }),
                Kind::Encoded { .. } => {
                    return Ok(MapExtent {
                        is_present: true,
                        is_zero: false,
                        is_data: true,
                        is_compressed: true,
                        ..nothing
                    });
                }
                Kind::Data { disk, offset } => {
                    let (is_zero, is_data, len) = layer.data_status(io, &extent, disk, offset)?;
                    let at = Some(DiskOffset { disk, offset });
                    return Ok(MapExtent { is_present: true, is_zero, is_data, len, at, ..nothing });
                }
            }
        }
        Ok(nothing)
    }
}

impl Layer {
    /// Whether the front of a data extent is zero, whether it counts as data, and its length.
    fn data_status(
        &mut self,
        io: &mut dyn ReadAt,
        extent: &Extent,
        disk: DiskId,
        offset: u64,
    ) -> Result<(bool, bool, u64), Error> {
        let run = host_status(io, disk, offset);
        let (is_raw, follows) = match &self.image.driver {
            Driver::Raw(_) => (true, true),
            Driver::Blocks(image) => (false, image.is_preallocated(extent.start)),
            Driver::Qcow2(_) if run.is_data && run.len >= extent.len => (false, false),
            Driver::Qcow2(_) => (false, self.is_metadata_preallocated(io)?),
        };
        Ok(match follows {
            true => (!run.is_data, run.is_data || !is_raw, extent.len.min(run.len)),
            false => (false, true, extent.len),
        })
    }

    /// Whether a qcow2 has far more clusters than its file has room for: its metadata was made in advance. Counted once.
    ///
    /// # Source
    /// `qcow2_detect_metadata_preallocation` of QEMU 10.0.
    fn is_metadata_preallocated(&mut self, io: &mut dyn ReadAt) -> Result<bool, Error> {
        if let Some(known) = self.is_preallocated {
            return Ok(known);
        }
        let Driver::Qcow2(image) = &self.image.driver else { return Ok(false) };
        let (header, disk) = (image.header(), image.disk());
        let cluster_size = u64::from(header.cluster_size());
        let stored = io.host_allocated(disk);
        let clusters = io.len(disk).div_ceil(cluster_size);
        let threshold = stored.map(|len| {
            let stored = len.checked_div(cluster_size).unwrap_or(0);
            (stored.saturating_mul(10) / 9).max(stored.saturating_add(2))
        });
        let mut counted = 0u64;
        let mut cluster = 0u64;
        let refcounts = Refcounts::new(header, disk);
        while let Some(threshold) = threshold.filter(|threshold| cluster < clusters && counted < *threshold) {
            if counted.saturating_add(clusters.saturating_sub(cluster)) < threshold {
                break;
            }
            io.budget().take_steps(1)?;
            let count = refcounts.of(&mut self.image.part.view(io), cluster.saturating_mul(cluster_size))?;
            counted = counted.saturating_add(u64::from(count > 0));
            cluster = cluster.saturating_add(1);
        }
        let found = threshold.is_some_and(|threshold| counted >= threshold);
        self.is_preallocated = Some(found);
        Ok(found)
    }
}

/// What the host's file has at `offset` of a disk, and how far.
fn host_status(io: &dyn ReadAt, disk: DiskId, offset: u64) -> HostRun {
    let disk_len = io.len(disk);
    let (is_data, end) = match io.host_data(disk) {
        None => (offset < disk_len, if offset < disk_len { disk_len } else { u64::MAX }),
        Some(data) => host_run(data, offset),
    };
    HostRun { is_data, len: end.saturating_sub(offset).max(1) }
}

/// The front of a data extent, as the host sees it: data, or a hole of the host's file.
pub(super) fn clip_to_host(io: &dyn ReadAt, extent: Extent) -> Extent {
    let Kind::Data { disk, offset } = extent.kind else { return extent };
    let HostRun { is_data, len } = host_status(io, disk, offset);
    // A disk's last sector is padded with zeros; the padding belongs to the data before it.
    let end = offset.saturating_add(len);
    let is_last = is_data && end >= io.len(disk);
    let len = if is_last { align::up(end, SECTOR_LEN).unwrap_or(end).saturating_sub(offset) } else { len };
    Extent { len: extent.len.min(len), kind: if is_data { extent.kind } else { Kind::Zero }, ..extent }
}
