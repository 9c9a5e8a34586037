//! VMDK, VMware's format: in one file, or described by a text and spread over several.
//!
//! ```text
//! sparse   header | descriptor | grain directory ──> grain tables ──> grains
//! stream   header | descriptor | (marker, zlib stream) … | tables, directory | footer: the header that counts
//! text     descriptor ──> extents, one behind the other: flat files, sparse files, zeros
//! ```
//!
//! The text only names files. They are asked for, and the image is whole when it has them ([`Blocks::attach`]).
//!
//! # Source
//! VMware, "Virtual Disk Format 5.0"; ESX's sparse forms, and what is refused, as QEMU 10.0's `block/vmdk.c`.

mod check;
mod descriptor;
mod grains;
#[cfg(any(test, feature = "invariants"))]
pub mod invariants;
mod wire;

use crate::image::{Blocks, Extent, FileOf, Kind, Layered, Tree};
use crate::store::ReadAt;
use alloc::vec::Vec;
use descriptor::{Descriptor, Line, LineError, LineKind, NO_ID};
use grains::Grains;
use instar_abi::control::SECTOR_LEN;
use instar_abi::error::{BlockError, Error, Field, Identity, Structure};
use instar_abi::facts::{self, Backing, Node, Value};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use wire::Header;

/// Most bytes of a descriptor that are looked at, as in QEMU.
const DESCRIPTOR_LEN_MAX: u64 = (1 << 20) - 1;
/// Most files with content: as many as a job may have.
const FILES_MAX: usize = 256;
/// Most extents in files: several may be in one.
const PARTS_MAX: usize = 1024;
/// What every extent costs in memory, beside its name.
const LINE_LEN: u64 = 256;
/// Kinds of images that a text may describe, as in QEMU.
const KINDS: [&[u8]; 6] =
    [b"monolithicFlat", b"vmfs", b"vmfsSparse", b"seSparse", b"twoGbMaxExtentSparse", b"twoGbMaxExtentFlat"];

/// A VMDK. Having one proves: the descriptor reads, and what is open of the extents is sound.
pub struct Vmdk {
    layered: Layered,
    facts: facts::Image,
    descriptor: Descriptor,
    create_type: Vec<u8>,
    extents: Vec<Part>, // in the order of the disk, without gaps
}

/// A part of the disk.
struct Part {
    start: u64,
    len: u64,
    body: Body,
    /// Its line; `None`: it is in the image's own file.
    line: Option<LineKind>,
    /// Bytes that the descriptor says of.
    said_len: Option<u64>,
}

enum Body {
    Zero,
    Flat {
        disk: DiskId,
        offset: u64,
    },
    Grains(Grains),
    /// Its file is not open.
    Missing,
}

impl Vmdk {
    /// Opens an image without the layer below and without the files that it names.
    ///
    /// # Errors
    /// [`Error::Block`]; those of the reads.
    pub fn open(io: &mut dyn ReadAt, layer: LayerId, disk: DiskId) -> Result<Self, Error> {
        let layered = Layered { layer, format: Format::Vmdk };
        let first: Header = io.read_wire(disk, 0)?;
        match first.magic {
            wire::MAGIC if first.capacity.get() == 0 && first.descriptor_offset.get() != 0 => {
                let text_at = first.descriptor_offset.get().saturating_mul(SECTOR_LEN);
                Self::of_text(io, layered, disk, text_at, wire::DESCRIPTOR_OFFSET)
            }
            wire::MAGIC => {
                let grains = Grains::hosted(io, layered, disk, first)?;
                Self::of_grains(io, layered, disk, grains, b"monolithicSparse")
            }
            wire::COWD_MAGIC => {
                let grains = Grains::cowd(io, layered, disk)?;
                // Only a text would say more.
                Self::of_grains(io, layered, disk, grains, b"")
            }
            _ => Self::of_text(io, layered, disk, 0, 0),
        }
    }

    /// An image in one file.
    fn of_grains(
        io: &mut dyn ReadAt,
        layered: Layered,
        disk: DiskId,
        grains: Grains,
        create_type: &[u8],
    ) -> Result<Self, Error> {
        let descriptor = descriptor(io, layered, disk, wire::DESCRIPTOR_OFFSET)?;
        let (len, body) = (grains.len, Body::Grains(grains));
        let extents = Vec::from([Part { start: 0, len, body, line: None, said_len: None }]);
        Self::new(layered, descriptor, create_type.to_vec(), extents)
    }

    /// An image that a text at `text_at` describes; identifiers are looked for at `ids_at`, as in QEMU.
    fn of_text(io: &mut dyn ReadAt, layered: Layered, disk: DiskId, text_at: u64, ids_at: u64) -> Result<Self, Error> {
        let len = io.len(disk).min(DESCRIPTOR_LEN_MAX);
        let text = io.read_vec(disk, text_at, usize::try_from(len).unwrap_or(0))?;
        let error = layered.error(BlockError::Magic { structure: Structure::Descriptor });
        let create_type = descriptor::create_type(&text).ok_or(error)?.to_vec();
        layered.check(KINDS.contains(&create_type.as_slice()), BlockError::CreateType)?;
        let mut extents = Vec::new();
        for (line, extent) in descriptor::lines(&text) {
            io.budget().take_heap(LINE_LEN)?;
            let Line { sectors, kind } = extent.map_err(|error| {
                layered.error(match error {
                    LineError::Broken => BlockError::ExtentLine { line },
                    LineError::NoAccess => BlockError::Field { field: Field::Access, found: line.into() },
                })
            })?;
            let len = sectors.saturating_mul(SECTOR_LEN);
            let body = if kind == LineKind::Zero { Body::Zero } else { Body::Missing };
            extents.push(Part { start: 0, len, body, line: Some(kind), said_len: Some(len) });
        }
        io.budget().give_heap(len);
        let descriptor = descriptor(io, layered, disk, ids_at)?;
        let image = Self::new(layered, descriptor, create_type, extents)?;
        let mut names = image.files();
        layered.field(Field::Extents, names.len() as u64, names.len() <= PARTS_MAX)?;
        names.sort_unstable();
        names.dedup();
        layered.field(Field::Extents, names.len() as u64, names.len() <= FILES_MAX)?;
        Ok(image)
    }

    fn new(layered: Layered, descriptor: Descriptor, create_type: Vec<u8>, extents: Vec<Part>) -> Result<Self, Error> {
        let backing = descriptor.parent.clone().map(|name| Backing { name, format: Some(b"vmdk".to_vec()) });
        let facts = facts::Image { backing, specific: Some(b"vmdk".to_vec()), ..layered.facts(0, None) };
        let mut image = Self { layered, facts, descriptor, create_type, extents };
        image.place()?;
        Ok(image)
    }

    /// Puts the extents one behind the other, by the lengths that are known now.
    fn place(&mut self) -> Result<(), Error> {
        let mut end = 0u64;
        for extent in &mut self.extents {
            extent.start = end;
            end = end.saturating_add(extent.len);
        }
        self.layered.field(Field::VirtualSize, end, i64::try_from(end).is_ok())?;
        // As `vmdk_co_get_info` of QEMU: what the first has, all must have.
        let traits = |part: &Part| match &part.body {
            Body::Grains(grains) => (Some(grains.grain_size), grains.is_compressed()),
            Body::Zero | Body::Flat { .. } | Body::Missing => (None, false),
        };
        let (cluster_size, is_compressed) = self.extents.first().map_or((None, false), traits);
        let is_alike = self.extents.iter().all(|part| {
            let (size, compressed) = traits(part);
            compressed == is_compressed
                && (cluster_size.is_none() || size.unwrap_or(part.len) == cluster_size.unwrap_or(0))
        });
        self.facts.virtual_size = end;
        self.facts.cluster_size = cluster_size.filter(|_| is_alike);
        self.facts.dirty = is_alike.then_some(false);
        if self.extents.iter().any(|part| traits(part).1) {
            self.create_type = b"streamOptimized".to_vec();
        }
        Ok(())
    }

    fn extent_at(&self, at: u64) -> Option<(usize, &Part)> {
        let index = self.extents.partition_point(|extent| extent.start <= at).checked_sub(1)?;
        self.extents.get(index).map(|extent| (index, extent))
    }
}

/// What a descriptor within the image's first file says of the image.
fn descriptor(io: &mut dyn ReadAt, layered: Layered, disk: DiskId, at: u64) -> Result<Descriptor, Error> {
    let text = io.read_vec(disk, at, wire::DESCRIPTOR_LEN)?;
    io.budget().give_heap(wire::DESCRIPTOR_LEN as u64);
    let error = BlockError::Magic { structure: Structure::Descriptor };
    Descriptor::parse(&text).map_err(|_| layered.error(error))
}

/// A sparse extent in a file of its own.
fn sparse(io: &mut dyn ReadAt, layered: Layered, disk: DiskId) -> Result<Grains, Error> {
    let first: Header = io.read_wire(disk, 0)?;
    match first.magic {
        // One that is a text again would name files again.
        wire::MAGIC if first.capacity.get() > 0 || first.descriptor_offset.get() == 0 => {
            Grains::hosted(io, layered, disk, first)
        }
        wire::COWD_MAGIC => Grains::cowd(io, layered, disk),
        _ => Err(layered.error(BlockError::Magic { structure: Structure::Header })),
    }
}

impl Blocks for Vmdk {
    fn facts(&self) -> &facts::Image {
        &self.facts
    }

    fn specific(&self) -> Vec<Node> {
        let mut tree = Tree::default();
        tree.add("cid", Value::Number(self.descriptor.id.into()));
        tree.add("parent-cid", Value::Number(self.descriptor.parent_id.into()));
        tree.text("create-type", &self.create_type);
        tree.nest("extents", Value::List, |tree| {
            for part in &self.extents {
                tree.nest("", Value::Object, |tree| part.describe(tree));
            }
        });
        tree.into_nodes()
    }

    fn identity(&self) -> Option<Identity> {
        Some(Identity::Cid(self.descriptor.id))
    }

    fn parent_identities(&self) -> Vec<Identity> {
        let id = Some(self.descriptor.parent_id).filter(|id| *id != NO_ID);
        id.map(Identity::Cid).into_iter().collect()
    }

    fn files(&self) -> Vec<&[u8]> {
        self.extents.iter().filter_map(|extent| extent.line.as_ref()?.name()).collect()
    }

    fn attach(&mut self, io: &mut dyn ReadAt, file_of: FileOf<'_>) -> Result<(), Error> {
        let layered = self.layered;
        for extent in &mut self.extents {
            let Some(line) = &extent.line else { continue };
            let Some(disk) = line.name().and_then(file_of) else { continue };
            let grains = match line {
                LineKind::Zero => continue,
                LineKind::Flat { offset, .. } => {
                    let offset = offset.saturating_mul(SECTOR_LEN);
                    layered.field(Field::DataOffset, offset, i64::try_from(offset).is_ok())?;
                    extent.body = Body::Flat { disk, offset };
                    continue;
                }
                LineKind::Sparse { .. } => sparse(io, layered, disk)?,
                LineKind::SeSparse { .. } => Grains::se_sparse(io, layered, disk)?,
            };
            // Its own header counts, as in QEMU.
            extent.len = grains.len;
            extent.body = Body::Grains(grains);
        }
        self.place()?;
        #[cfg(any(test, feature = "invariants"))]
        invariants::check_vmdk(self, io);
        Ok(())
    }

    fn is_preallocated(&self, at: u64) -> bool {
        self.extent_at(at).is_some_and(|(_, extent)| matches!(extent.body, Body::Flat { .. }))
    }

    fn block_at(&self, io: &mut dyn ReadAt, at: u64) -> Result<Extent, Error> {
        let (index, part) = self.extent_at(at).ok_or(self.layered.error(BlockError::NoExtent { index: 0 }))?;
        let whole = |kind| Extent { start: part.start, len: part.len, kind };
        match &part.body {
            Body::Zero => Ok(whole(Kind::Zero)),
            Body::Flat { disk, offset } => Ok(whole(Kind::Data { disk: *disk, offset: *offset })),
            Body::Grains(grains) => {
                let grain = grains.grain_at(io, at.saturating_sub(part.start))?;
                Ok(Extent { start: grain.start.saturating_add(part.start), ..grain })
            }
            Body::Missing => {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                Err(self.layered.error(BlockError::NoExtent { index }))
            }
        }
    }
}

impl Part {
    /// As QEMU's `VmdkExtentInfo`.
    fn describe(&self, tree: &mut Tree) {
        let grains = match &self.body {
            Body::Grains(grains) => Some(grains),
            _ => None,
        };
        if grains.is_some_and(Grains::is_compressed) {
            tree.add("compressed", Value::Bool(true));
        }
        tree.add("virtual-size", Value::Number(self.len));
        let name = self.line.as_ref().map(|line| line.name().unwrap_or_default().to_vec());
        tree.add("filename", name.map_or(Value::FileName, Value::NamedFile));
        if let Some(grains) = grains {
            tree.add("cluster-size", Value::Number(grains.grain_size));
        }
        tree.text("format", self.line.as_ref().map_or("", LineKind::word));
    }
}

#[cfg(test)]
mod tests;
