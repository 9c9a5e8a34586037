//! Layers on top of each other: holes are filled from below.

use super::status::clip_to_host;
use super::{Blocks, Codec, Driver, Extent, Image, Kind, Opened, open};
use crate::qcow2::{Crypt, Qcow2};
use crate::store::ReadAt;
use alloc::vec::Vec;
use core::ops::Range;
use instar_abi::error::{BlockError, ChainError, Error, Identity};
use instar_abi::facts::Backing;
use instar_abi::format::Format;
use instar_abi::reply::Need;
use instar_abi::request::{Answer, Below, DiskId, Given, HostExtent, LayerId, NeedKind, Request, SnapshotName};

/// A disk as all its layers give it, top first.
pub struct Chain {
    pub(super) layers: Vec<Layer>,
    /// What the last failure of mapping concerns.
    broken: Option<Range<u64>>,
    /// Where the layer below the top one ends, where it is not in `layers`; 0: there is none.
    below_len: u64,
}

pub(super) struct Layer {
    id: LayerId,
    pub(super) image: Opened,
    /// The extent last mapped.
    last: Option<Extent>,
    /// Whether the metadata was made in advance, once that has been looked at.
    pub(super) is_preallocated: Option<bool>,
}

/// An extent of the whole disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The extent. A hole is one that no layer fills.
    pub extent: Extent,
    /// The layer that it is of.
    pub layer: LayerId,
    /// How deep that layer is; 0 is the top.
    pub depth: u32,
}

/// A chain, or what is missing to build it.
pub enum Resolved {
    /// Everything is there.
    Complete(Chain),
    /// Names that the job has no answer for yet.
    Incomplete(Vec<Need>),
}

impl Chain {
    /// Opens `top` and everything below it, as far as the job's answers go. The lowest layer that they give is looked at
    /// first: as long as one more is missing, nothing above it is read again.
    ///
    /// # Errors
    /// [`Error::Encrypted`]; [`ChainError::NameChanged`]; a chain deeper than the budget; the layers' own.
    pub fn open(io: &mut dyn ReadAt, request: &Request, top: LayerId) -> Result<Resolved, Error> {
        // What is wrong with it is told when its turn comes.
        let mut lowest = lowest(request, top).and_then(|id| Some((id, Joined::open(io, request, id).ok()?)));
        if let Some((_, joined)) = lowest.as_mut().filter(|(_, joined)| !joined.needs.is_empty()) {
            return Ok(Resolved::Incomplete(core::mem::take(&mut joined.needs)));
        }
        let mut layers = Vec::new();
        let mut needs = Vec::new();
        let mut next = Some(top);
        let mut expected = Vec::new();
        while let Some(id) = next.take() {
            io.budget().take_layer()?;
            let joined = match lowest.take_if(|(lowest, _)| *lowest == id) {
                Some((_, joined)) => joined,
                None => Joined::open(io, request, id)?,
            };
            if let Driver::Blocks(image) = &joined.image.driver {
                check_identity(id, &**image, &expected)?;
            }
            needs.extend(joined.needs);
            (next, expected) = (joined.below, joined.expected);
            layers.push(Layer::new(id, joined.image));
        }
        Ok(if needs.is_empty() {
            Resolved::Complete(Self { layers, broken: None, below_len: 0 })
        } else {
            Resolved::Incomplete(needs)
        })
    }

    /// A layer alone, whatever is below it, for [`Chain::map_top`].
    #[must_use]
    pub fn top_alone(id: LayerId, image: Opened) -> Self {
        let has_below = match &image.driver {
            Driver::Raw(_) => false,
            Driver::Qcow2(image) => image.backing().is_some(),
            Driver::Blocks(image) => image.facts().backing.is_some(),
        };
        let below_len = if has_below { u64::MAX } else { 0 };
        Self { layers: Vec::from([Layer::new(id, image)]), broken: None, below_len }
    }

    /// Opens everything below an image; `None`: there is nothing.
    ///
    /// # Errors
    /// As [`Chain::open`].
    pub fn open_below(io: &mut dyn ReadAt, request: &Request, image: &Qcow2) -> Result<Option<Resolved>, Error> {
        let mut needs = Vec::new();
        match backing(request, image, &mut needs)? {
            Some(top) => Self::open(io, request, top).map(Some),
            None if needs.is_empty() => Ok(None),
            None => Ok(Some(Resolved::Incomplete(needs))),
        }
    }

    /// Makes an internal snapshot of the top layer what is mapped.
    ///
    /// # Errors
    /// [`Error::Snapshot`], also where a format has no snapshots; those of the reads.
    pub fn select_snapshot(&mut self, io: &mut dyn ReadAt, name: &SnapshotName) -> Result<(), Error> {
        let Some(Layer { image, .. }) = self.layers.first_mut() else { return Ok(()) };
        let format = image.format();
        match &mut image.driver {
            Driver::Qcow2(qcow2) => qcow2.select_snapshot(&mut image.part.view(io), name),
            Driver::Raw(_) | Driver::Blocks(_) => Err(Error::Snapshot { format }),
        }
    }

    /// Whether any layer may have clusters of a codec.
    #[must_use]
    pub fn may_have(&self, codec: Codec) -> bool {
        self.layers.iter().any(|layer| match &layer.image.driver {
            Driver::Qcow2(image) => image.header().compression() == codec,
            Driver::Raw(_) | Driver::Blocks(_) => false,
        })
    }

    /// Format of the top layer.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.layers.first().map(|layer| layer.image.format())
    }

    /// The top layer, where it is a qcow2.
    #[must_use]
    pub fn top_qcow2(&self) -> Option<&Qcow2> {
        match self.layers.first().map(|layer| &layer.image.driver) {
            Some(Driver::Qcow2(image)) => Some(image),
            _ => None,
        }
    }

    /// Virtual size of the top layer in bytes.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.layers.first().map_or(0, |layer| layer.image.virtual_size())
    }

    /// What `range` is, from its start on. No hole is left but one that no layer fills; what the host knows to be
    /// a hole is zero. The range is not empty and lies within the virtual size.
    ///
    /// # Errors
    /// The layers'.
    pub fn map(&mut self, io: &mut dyn ReadAt, mut range: Range<u64>) -> Result<Mapped, Error> {
        let start = range.start;
        let mut mapped = Mapped { extent: zeros(&range), layer: LayerId(0), depth: 0 };
        for (depth, layer) in (0..).zip(&mut self.layers) {
            let end = range.end.min(layer.image.virtual_size());
            if start >= end {
                // A shorter layer reads as zeros past its end.
                return Ok(Mapped { extent: zeros(&range), layer: layer.id, depth });
            }
            let extent = layer.map(io, start..end).inspect_err(|error| {
                self.broken = layer.image.broken(start..end, error);
            })?;
            let extent = extent.as_read();
            if extent.kind != Kind::Hole {
                return Ok(Mapped { extent: clip_to_host(io, extent), layer: layer.id, depth });
            }
            range.end = extent.end();
            mapped = Mapped { extent, layer: layer.id, depth };
        }
        Ok(mapped)
    }

    /// What the top layer has at `range`, from its start on: a hole where it owns nothing. The range is as for
    /// [`Chain::map`].
    ///
    /// # Errors
    /// The layer's.
    ///
    /// # Source
    /// As `bdrv_block_status_above` of QEMU 10.0 with the layer below as the end: without one, or past its end, nothing
    /// is zero.
    pub fn map_top(&mut self, io: &mut dyn ReadAt, range: Range<u64>) -> Result<Mapped, Error> {
        let below_len = self.layers.get(1).map_or(self.below_len, |below| below.image.virtual_size());
        let Some(layer) = self.layers.first_mut() else {
            return Ok(Mapped { extent: zeros(&range), layer: LayerId(0), depth: 0 });
        };
        let mut extent = layer.map(io, range.clone()).inspect_err(|error| {
            self.broken = layer.image.broken(range, error);
        })?;
        extent = extent.as_read();
        if extent.kind == Kind::Hole {
            match below_len.checked_sub(extent.start).filter(|len| *len > 0) {
                Some(len) => extent.len = extent.len.min(len),
                None => extent.kind = Kind::Zero,
            }
        }
        Ok(Mapped { extent: clip_to_host(io, extent), layer: layer.id, depth: 0 })
    }

    /// What can't be mapped, after mapping has failed; `None`: the failure concerns more than a part of the disk.
    #[must_use]
    pub fn broken(&self) -> Option<Range<u64>> {
        self.broken.clone()
    }
}

/// The last layer that one gets to from `top` by what the job says is below each, whatever the layers say; `None`: there is
/// none below it, or more than a chain may have.
fn lowest(request: &Request, top: LayerId) -> Option<LayerId> {
    let below = |id: LayerId| match request.layer(id)?.below {
        Below::Layer(below) => Some(below),
        Below::Nothing => None,
        Below::AsNamed => request.answers.iter().find_map(|answer| match answer.given {
            Given::Layer(below) if (answer.layer, answer.kind) == (id, NeedKind::Backing) => Some(below),
            _ => None,
        }),
    };
    let mut lowest = top;
    for _ in 0..request.budget.depth {
        match below(lowest) {
            Some(id) => lowest = id,
            None => return Some(lowest).filter(|id| *id != top),
        }
    }
    None
}

/// A layer with what the job gave for it.
struct Joined {
    image: Opened,
    /// What is below it, as far as that is known.
    below: Option<LayerId>,
    /// Which images that may be; empty: any.
    expected: Vec<Identity>,
    /// Names that the job has no answer for.
    needs: Vec<Need>,
}

impl Joined {
    fn open(io: &mut dyn ReadAt, request: &Request, id: LayerId) -> Result<Self, Error> {
        // The request is checked: every id is in range.
        let layer = request.layer(id).ok_or(Error::WrongOp)?;
        let mut image = open(io, id, layer)?;
        let part = image.part;
        let is_named = layer.below == Below::AsNamed;
        let (mut next, mut expected, mut needs) = (None, Vec::new(), Vec::new());
        match &mut image.driver {
            Driver::Raw(_) => {}
            Driver::Qcow2(image) => {
                if image.header().crypt() != Crypt::None {
                    return Err(Error::Encrypted { layer: id });
                }
                attach_data_file(request, image, &mut needs)?;
                if is_named {
                    next = backing(request, image, &mut needs)?;
                }
            }
            Driver::Blocks(image) => {
                if is_named {
                    expected = image.parent_identities();
                }
                for need in attach_files(&mut part.view(io), request, id, &mut **image)? {
                    // A file may hold several parts of the content.
                    if !needs.contains(&need) {
                        needs.push(need);
                    }
                }
                let facts = image.facts();
                if facts.encrypted {
                    return Err(Error::Encrypted { layer: id });
                }
                if let Some(Backing { name, format }) = facts.backing.as_ref().filter(|_| is_named) {
                    next = below(request, id, name, format.as_ref(), &mut needs)?;
                }
            }
        }
        if let Below::Layer(below) = layer.below {
            next = Some(below);
        }
        Ok(Self { image, below: next, expected, needs })
    }
}

fn zeros(range: &Range<u64>) -> Extent {
    Extent { start: range.start, len: range.end.saturating_sub(range.start), kind: Kind::Zero }
}

impl Layer {
    fn new(id: LayerId, image: Opened) -> Self {
        Self { id, image, last: None, is_preallocated: None }
    }

    /// What `range` is, from its start on. The range is not empty.
    ///
    /// The layer is asked for as long an extent as it has, and the extent is kept: whatever cuts it to pieces, other layers
    /// or the holes of the host's file, its entries are gone through once, which the budget of steps counts on.
    pub(super) fn map(&mut self, io: &mut dyn ReadAt, range: Range<u64>) -> Result<Extent, Error> {
        let len = range.end.saturating_sub(range.start);
        let rest = |last: Extent| match range.start.checked_sub(last.start)? {
            0 => Some(last),
            at => last.split(at).1,
        };
        let extent = match self.last.and_then(rest) {
            Some(extent) => extent,
            None => {
                let end = self.image.virtual_size().max(range.end);
                *self.last.insert(self.image.map(io, range.start..end)?)
            }
        };
        Ok(extent.split(len).0)
    }
}

/// Whether the host has data at `offset`, and where that ends.
pub(super) fn host_run(data: &[HostExtent], offset: u64) -> (bool, u64) {
    let after = data.partition_point(|extent| extent.start <= offset);
    let at = after.checked_sub(1).and_then(|index| data.get(index));
    match at.map(|extent| extent.start.saturating_add(extent.len)) {
        Some(end) if offset < end => (true, end),
        _ => (false, data.get(after).map_or(u64::MAX, |next| next.start)),
    }
}

/// A layer below is the one that the layer above was made on, where both tell.
fn check_identity(layer: LayerId, image: &dyn Blocks, expected: &[Identity]) -> Result<(), Error> {
    match (expected.first(), image.identity()) {
        (Some(&first), Some(found)) if !expected.contains(&found) => {
            let error = BlockError::ParentChanged { expected: first, found };
            Err(Error::Block { layer, format: image.facts().format, error })
        }
        _ => Ok(()),
    }
}

/// Gives a layer the files that hold parts of its content, or tells which the job has no answer for yet: a need for each
/// part, in their order.
///
/// # Errors
/// The layer's.
pub fn attach_files(
    io: &mut dyn ReadAt,
    request: &Request,
    layer: LayerId,
    image: &mut dyn Blocks,
) -> Result<Vec<Need>, Error> {
    let kind = NeedKind::Extent;
    let answer = |name: &[u8]| {
        let is_it = |answer: &&Answer| (answer.layer, answer.kind) == (layer, kind) && answer.name == name;
        request.answers.iter().find(is_it).map(|answer| answer.given)
    };
    let need = |name: &[u8]| Need { layer, kind, name: name.to_vec(), format: None };
    let files = image.files();
    if files.iter().any(|name| answer(name).is_none()) {
        return Ok(files.into_iter().map(need).collect());
    }
    image.attach(io, &|name| match answer(name) {
        Some(Given::Disk(disk)) => Some(disk),
        Some(Given::Layer(_) | Given::Refused) | None => None,
    })?;
    Ok(Vec::new())
}

/// What the job gave for a name that `layer` holds; the name must be the one that was asked for.
fn answer(request: &Request, layer: LayerId, kind: NeedKind, name: &[u8]) -> Result<Option<Given>, Error> {
    let Some(answer) = request.answers.iter().find(|answer| answer.layer == layer && answer.kind == kind) else {
        return Ok(None);
    };
    if answer.name != name {
        return Err(Error::Chain(ChainError::NameChanged { layer, kind, found: name.to_vec() }));
    }
    Ok(Some(answer.given))
}

fn attach_data_file(request: &Request, image: &mut Qcow2, needs: &mut Vec<Need>) -> Result<(), Error> {
    let layer = image.layer();
    let kind = NeedKind::DataFile;
    let Some(name) = image.data_file()? else { return Ok(()) };
    match answer(request, layer, kind, name)? {
        Some(given) => {
            let disk = disk_of(request, given);
            image.set_data_disk(disk);
        }
        None => needs.push(Need { layer, kind, name: name.to_vec(), format: None }),
    }
    Ok(())
}

fn backing(request: &Request, image: &Qcow2, needs: &mut Vec<Need>) -> Result<Option<LayerId>, Error> {
    let format = image.extensions().backing_format.as_ref().filter(|format| !format.is_empty());
    image.backing().map_or(Ok(None), |name| below(request, image.layer(), name, format, needs))
}

/// The layer below one that names it, or a need.
fn below(
    request: &Request,
    layer: LayerId,
    name: &[u8],
    format: Option<&Vec<u8>>,
    needs: &mut Vec<Need>,
) -> Result<Option<LayerId>, Error> {
    let kind = NeedKind::Backing;
    match answer(request, layer, kind, name)? {
        Some(Given::Layer(id)) => Ok(Some(id)),
        // A backing file is an image; bytes alone are no answer.
        Some(Given::Disk(_) | Given::Refused) => {
            Err(Error::Chain(ChainError::NameChanged { layer, kind, found: name.to_vec() }))
        }
        None => {
            needs.push(Need { layer, kind, name: name.to_vec(), format: format.cloned() });
            Ok(None)
        }
    }
}

/// The disk that an answer's bytes are on.
fn disk_of(request: &Request, given: Given) -> DiskId {
    match given {
        Given::Disk(disk) => disk,
        Given::Layer(layer) => request.layer(layer).map_or(DiskId(u32::MAX), |layer| layer.disk),
        Given::Refused => DiskId(u32::MAX),
    }
}
