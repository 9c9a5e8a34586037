//! What a conversion reads, and what it lacks.

use crate::align;
use crate::image::{Chain, Codec, Driver, Opened, Resolved, open};
use crate::mover::{Source, Wanted};
use crate::store::{Budget, Cache, Queue, ReadAt, Store};
use alloc::vec::Vec;
use instar_abi::error::{Error, TargetError};
use instar_abi::format::Format;
use instar_abi::reply::Need;
use instar_abi::request::{Convert, Disk, LayerId, Qcow2Options, Request, TargetFormat};
use instar_io::{Env, SECTOR_LEN};

/// Every image of a conversion, open.
pub struct Images {
    /// The sources' chains, in order.
    pub sources: Vec<Chain>,
    /// What shows where a target has nothing.
    pub base: Option<Chain>,
    /// The target, where it is an image that exists.
    pub existing: Option<(LayerId, Opened)>,
}

/// The images, or what is missing to open them.
pub enum Found {
    Complete(Images),
    Incomplete(Vec<Need>),
}

/// Opens all images as far as the job's answers go.
///
/// # Errors
/// Those of opening; [`Error::UnsupportedFormat`] for a target that exists and is no qcow2.
pub fn open_images<E: Env>(
    request: &Request,
    disks: &[Disk],
    convert: &Convert,
    env: &mut E,
    budget: &mut Budget,
) -> Result<Found, Error> {
    let mut queue = Queue::new(env.lane());
    let mut cache = Cache::new();
    let mut store = Store { queue: &mut queue, cache: &mut cache, budget, disks };
    let io: &mut dyn ReadAt = &mut store;
    let mut needs = Vec::new();
    let mut sources = Vec::new();
    for &source in &convert.sources {
        sources.extend(complete(Chain::open(io, request, source)?, &mut needs));
    }
    let (mut base, mut existing) = (None, None);
    match &convert.target_format {
        TargetFormat::Qcow2(Qcow2Options { backing: Some(backing), .. }) => {
            base = complete(Chain::open(io, request, backing.layer)?, &mut needs);
        }
        TargetFormat::Existing { image, .. } => {
            let opened = open_existing(io, request, *image)?;
            let sources_len = sources.iter().fold(0u64, |sum, chain: &Chain| sum.saturating_add(chain.virtual_size()));
            if let Driver::Qcow2(image) = &opened.driver
                && (convert.top_only || has_shared_granule(image, sources_len))
            {
                base = match Chain::open_below(io, request, image)? {
                    Some(resolved) => complete(resolved, &mut needs),
                    None => None,
                };
            }
            existing = Some((*image, opened));
        }
        TargetFormat::Raw | TargetFormat::Qcow2(_) => {}
    }
    if !needs.is_empty() {
        return Ok(Found::Incomplete(needs));
    }
    if let (Some(name), Some(chain)) = (&convert.snapshot, sources.first_mut()) {
        chain.select_snapshot(io, name)?;
    }
    Ok(Found::Complete(Images { sources, base, existing }))
}

/// The chain, or what it needs. What several images need is asked for once.
fn complete(resolved: Resolved, needs: &mut Vec<Need>) -> Option<Chain> {
    match resolved {
        Resolved::Complete(chain) => Some(chain),
        Resolved::Incomplete(more) => {
            for need in more {
                if !needs.contains(&need) {
                    needs.push(need);
                }
            }
            None
        }
    }
}

fn open_existing(io: &mut dyn ReadAt, request: &Request, id: LayerId) -> Result<Opened, Error> {
    let layer = request.layer(id).ok_or(Error::WrongOp)?;
    let opened = open(io, id, layer)?;
    match &opened.driver {
        Driver::Qcow2(_) if layer.window.is_none() => Ok(opened),
        Driver::Qcow2(_) => Err(Error::Target(TargetError::Unsupported)),
        Driver::Raw(_) => Err(Error::UnsupportedFormat { layer: id, format: Format::Raw }),
        Driver::Blocks(image) => Err(Error::UnsupportedFormat { layer: id, format: image.facts().format }),
    }
}

/// Whether the sources end within a granule of the image, so that what is below may show in the rest of it.
fn has_shared_granule(image: &crate::qcow2::Qcow2, sources_len: u64) -> bool {
    let header = image.header();
    // A compressed cluster is whole, and a smaller granule divides it.
    let cluster_size = u64::from(header.cluster_size());
    sources_len < header.virtual_size() && align::within(sources_len, cluster_size) != 0
}

impl Images {
    /// Whether any layer may have clusters that Zstandard compresses.
    pub fn decode_zstd(&self) -> bool {
        self.sources.iter().chain(&self.base).any(|chain| chain.may_have(Codec::Zstd))
    }

    /// All of the sources together, in bytes.
    pub fn sources_len(&self) -> u64 {
        self.sources.iter().fold(0u64, |sum, chain| sum.saturating_add(chain.virtual_size()))
    }

    /// Bytes of the disk to move, whole sectors where a part of the sources was asked for.
    pub fn disk_len(&self, convert: &Convert) -> u64 {
        let all = self.sources_len();
        convert.part.map_or(all, |part| {
            let len = all.saturating_sub(part.start).min(part.len);
            align::up(len, SECTOR_LEN).unwrap_or(len)
        })
    }

    /// The disk to move.
    pub fn into_source(self, convert: &Convert, budget: Budget, wanted: Wanted) -> Source {
        let source = Source::new(budget, wanted);
        if let Some(part) = convert.part {
            // There is one source.
            return self.sources.into_iter().fold(source, |source, chain| {
                let end = part.start.saturating_add(part.len).min(chain.virtual_size());
                source.then_part_of(chain, part.start.min(end)..end)
            });
        }
        if let TargetFormat::Qcow2(Qcow2Options { backing: Some(_), .. }) = &convert.target_format {
            let base_len = self.base.as_ref().map_or(0, Chain::virtual_size);
            return self.sources.into_iter().fold(source, Source::then_top_of).above(self.base, base_len);
        }
        let then = if convert.top_only { Source::then_top_of } else { Source::then };
        let source = self.sources.into_iter().fold(source, then);
        match self.existing {
            Some((id, image)) => {
                let source = source.then_rest_of(Chain::top_alone(id, image)).above(self.base, u64::MAX);
                if convert.top_only { source.over_the_rest() } else { source }
            }
            None => source,
        }
    }
}
