//! What a job asks of the guest.
//!
//! Disks are what the guest can read and write; layers are images on those disks as the job opens
//! them. The user's images come first; what a guest asked for by [`crate::reply::Need`] follows as
//! an [`Answer`], and the guest compares the names again.

use crate::format::Format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Index into [`Request::disks`]. The disk's virtio device is the one after it: device 0 is control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DiskId(pub u32);

/// Index into [`Request::layers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LayerId(pub u32);

/// A whole job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// Every disk of the job, in device order.
    pub disks: Vec<Disk>,
    /// Every image of the job that is opened for reading.
    pub layers: Vec<Layer>,
    /// What earlier runs of this job asked for and got.
    pub answers: Vec<Answer>,
    /// What the guest may use up.
    pub budget: Budget,
    /// Randomness for identifiers: the same request gives the same bytes.
    pub seed: [u8; 32],
    /// Wall clock at the start of the job, in seconds since 1970.
    pub now: u64,
    /// Lanes that the mover may use, 1 to [`crate::layout::LANES_MAX`].
    pub lanes: u8,
}

/// The operation and its own parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Describe one image without opening what it names.
    Info {
        /// The image.
        image: LayerId,
        /// Tell also what speaks for its format, what partitions its content has, and what is risky about it.
        details: bool,
    },
    /// Copy the content of an image, its chain flattened, into a new image.
    Convert(Convert),
    /// Tell where the content of an image is.
    Map(Map),
    /// Tell how large a new image would be.
    Measure(Measure),
    /// Tell whether two images have the same content.
    Compare(Compare),
    /// Tell what is wrong with the metadata of one image.
    Check(Check),
}

/// Parameters of check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The image; what is below it is not opened.
    pub image: LayerId,
    /// Look at what qemu-img looks at, and no further.
    pub as_qemu_img: bool,
}

/// Parameters of map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// The image; its chain is walked.
    pub image: LayerId,
    /// First byte of the disk.
    pub start: u64,
    /// Most bytes; `None`: to the end of the disk.
    pub len: Option<u64>,
    /// Tell no more than qemu-img does, which does not look into vhdx.
    pub as_qemu_img: bool,
}

/// Parameters of measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// What would be stored.
    pub content: MeasuredContent,
    /// In what: [`TargetFormat::Raw`] or [`TargetFormat::Qcow2`], whose files are not looked at.
    pub target: TargetFormat,
    /// Bytes of the key of a LUKS volume that the content would be in; 0: it would be in none.
    pub luks_key_len: u32,
    /// All of the target is allocated when it is made.
    pub is_preallocated: bool,
}

/// What measure is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MeasuredContent {
    /// A new disk of this many bytes.
    Size(u64),
    /// A copy of an image, its chain flattened.
    Image {
        /// The image.
        image: LayerId,
        /// This internal snapshot of it.
        snapshot: Option<SnapshotName>,
    },
}

/// Parameters of compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// One image; its chain is flattened.
    pub left: LayerId,
    /// The other.
    pub right: LayerId,
    /// Sizes and allocation count, too.
    pub is_strict: bool,
}

/// Parameters of convert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Convert {
    /// The images to read, one behind the other; at least one.
    pub sources: Vec<LayerId>,
    /// Read this internal snapshot of the only source.
    pub snapshot: Option<SnapshotName>,
    /// The disk to write; its access is [`Access::Output`].
    pub target: DiskId,
    /// What to make of it.
    pub target_format: TargetFormat,
    /// Only what the top layer of the only source owns is copied: elsewhere a target that exists shows what it did. A new
    /// image says so by its [`Qcow2Options::backing`].
    pub top_only: bool,
    /// What the target holds before.
    pub before: Before,
    /// Runs of zeros of at least this many bytes become holes; 0: allocate everything.
    /// A multiple of 512, at most 16 MiB.
    pub sparse_len: u32,
    /// Clusters may be allocated as lanes get to them, in any order.
    pub any_order: bool,
    /// Content that can't be read becomes zeros, and [`Frame::Unreadable`](crate::reply::Frame::Unreadable) tells of it.
    pub salvage: bool,
    /// Content that lies on a disk as it is, is not read: [`Frame::Copy`](crate::reply::Frame::Copy) asks the launcher
    /// to copy it.
    pub offload: bool,
    /// Copy this part of the disk that the sources make up, as far as they go; `None`: all of it.
    pub part: Option<Part>,
}

/// A part of a virtual disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// First byte.
    pub start: u64,
    /// Bytes, at most.
    pub len: u64,
}

/// How the user names an internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotName {
    /// All identifiers first, then all names.
    IdOrName(Vec<u8>),
    /// An identifier.
    Id(Vec<u8>),
    /// A name.
    Name(Vec<u8>),
}

/// What a target holds before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Before {
    /// Nothing: it reads as zeros, and its length is set at the end.
    Empty,
    /// An existing target with unknown content: zeros must be written. A raw one keeps its length.
    Unknown {
        /// Its length in bytes.
        len: u64,
    },
    /// An existing raw target of fixed length that reads as zeros.
    Zeros {
        /// Its length in bytes.
        len: u64,
    },
}

/// Format and options of a new image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetFormat {
    /// Bytes as they are.
    Raw,
    /// qcow2.
    Qcow2(Qcow2Options),
    /// The image that the target disk holds: its format, its options and its size stay as they are.
    Existing {
        /// The image; its disk is the target.
        image: LayerId,
        /// Write compressed clusters.
        compress: bool,
    },
}

/// Options of a new qcow2 image. The guest checks that they fit together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qcow2Options {
    /// 2 (compat 0.10) or 3 (compat 1.1).
    pub version: u32,
    /// log2 of the cluster size in bytes, 9 to 21.
    pub cluster_bits: u32,
    /// log2 of the bits of a refcount, 0 to 6; 4 with version 2.
    pub refcount_order: u32,
    /// Refcounts may be out of date while the image is open.
    pub lazy_refcounts: bool,
    /// L2 entries of 16 bytes with subclusters.
    pub extended_l2: bool,
    /// The codec of compressed clusters.
    pub compression: Compression,
    /// Write compressed clusters (`-c`).
    pub compress: bool,
    /// The new image is an overlay: only what the top layer of the source owns is copied.
    pub backing: Option<NewBacking>,
    /// Every cluster is mapped, also where there is no content, and the file is as long as that asks for. To reserve
    /// room for it is the launcher's part.
    pub preallocated: bool,
    /// Content goes into a file of its own.
    pub data_file: Option<NewDataFile>,
}

impl Default for Qcow2Options {
    /// qemu-img's defaults.
    fn default() -> Self {
        Self {
            version: 3,
            cluster_bits: 16,
            refcount_order: 4,
            lazy_refcounts: false,
            extended_l2: false,
            compression: Compression::Zlib,
            compress: false,
            backing: None,
            preallocated: false,
            data_file: None,
        }
    }
}

/// The codec of compressed clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// The layer below a new image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBacking {
    /// Name to record, as the user typed it.
    pub name: Vec<u8>,
    /// Format to record.
    pub format: Vec<u8>,
    /// The image itself, for its virtual size.
    pub layer: LayerId,
}

/// The external data file of a new image, as long as its virtual size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDataFile {
    /// Name to record, as the user typed it.
    pub name: Vec<u8>,
    /// Its disk; the access is [`Access::Output`], and it is empty.
    pub disk: DiskId,
    /// It is to stay valid as a raw image.
    pub raw: bool,
}

/// What the guest may do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Reads only; writes fail on the host's side.
    ReadOnly,
    /// A new, empty output that grows as it is written.
    Output {
        /// Most bytes it may come to hold.
        capacity: u64,
    },
}

/// A stretch of a disk that holds data as the host's file system sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostExtent {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// A disk of the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Exact length in bytes; the device itself is rounded up to whole sectors and padded with zeros.
    pub len: u64,
    /// What the guest may do with it.
    pub access: Access,
    /// Where the host sees data (`SEEK_DATA`), sorted and disjoint; everything else reads as zeros.
    /// `None`: unknown, all may be data. At most 65,536 entries.
    pub data: Option<Vec<HostExtent>>,
    /// Bytes that the host's file system has set aside for it; `None`: unknown.
    pub allocated: Option<u64>,
}

/// An image as the job opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Where its bytes are.
    pub disk: DiskId,
    /// The format the user or the layer above gave; `None`: detect it.
    pub format: Option<Format>,
    /// Whether unrecognised content may be taken as raw.
    pub raw_gate: RawGate,
    /// A part of the disk instead of all of it (`offset` and `size` of the raw driver).
    pub window: Option<Window>,
    /// What is below it.
    pub below: Below,
}

/// What is below a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Below {
    /// What the image names.
    #[default]
    AsNamed,
    /// Nothing, whatever the image names.
    Nothing,
    /// This layer, whatever the image names.
    Layer(LayerId),
}

/// When content without a known header is taken as raw. Concerns detection only: a given format is obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RawGate {
    /// Only with a valid partition table.
    Partitioned,
    /// Always: qemu-img's own rule, in compatibility mode.
    Open,
}

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First byte.
    pub offset: u64,
    /// Bytes; `None`: to the end of the disk.
    pub len: Option<u64>,
}

/// A name that a guest asked for, and what the launcher opened for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The layer that named it.
    pub layer: LayerId,
    /// What the name is to that layer.
    pub kind: NeedKind,
    /// The name as the guest sent it; the guest compares it with what the image says now.
    pub name: Vec<u8>,
    /// What it became.
    pub given: Given,
}

/// What a name is to the image that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NeedKind {
    /// The layer below.
    Backing,
    /// qcow2's external data file.
    DataFile,
    /// A file that holds a part of the content (vmdk). A layer may have several, each by its name.
    Extent,
}

/// What the launcher opened for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Given {
    /// An image of its own.
    Layer(LayerId),
    /// Bytes that belong to the asking layer.
    Disk(DiskId),
    /// Nothing: the gate refused, and the operation only describes. The name stands in the description.
    Refused,
}

/// What the guest may use up; running out is a typed error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Bytes of heap that images may make the guest allocate.
    pub heap_bytes: u64,
    /// Bytes of metadata that may be read; content moved by the mover does not count.
    pub read_bytes: u64,
    /// Steps of loops over image structures.
    pub steps: u64,
    /// Layers of a chain.
    pub depth: u32,
}

impl Disk {
    /// A disk of `len` bytes that is only read, and of which the host tells nothing more.
    #[must_use]
    pub const fn read_only(len: u64) -> Self {
        Self { len, access: Access::ReadOnly, data: None, allocated: None }
    }
}

impl Layer {
    /// A whole disk as a layer, over what it names itself.
    #[must_use]
    pub const fn new(disk: DiskId, format: Option<Format>, raw_gate: RawGate) -> Self {
        Self { disk, format, raw_gate, window: None, below: Below::AsNamed }
    }
}

impl Request {
    /// A request without answers, randomness or clock, for one lane.
    #[must_use]
    pub const fn new(op: Op, disks: Vec<Disk>, layers: Vec<Layer>, budget: Budget) -> Self {
        Self { op, disks, layers, answers: Vec::new(), budget, seed: [0; 32], now: 0, lanes: 1 }
    }

    /// The layer of an id; `None`: out of range, which no id of a checked request is.
    #[must_use]
    pub fn layer(&self, id: LayerId) -> Option<&Layer> {
        self.layers.get(usize::try_from(id.0).ok()?)
    }

    /// The request in its wire form.
    ///
    /// # Errors
    /// `postcard`'s, which for these types means memory ran out.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_allocvec(self)
    }

    /// Reads the wire form. Indices are checked here once: every [`DiskId`] and [`LayerId`] of the
    /// result is in range.
    ///
    /// # Errors
    /// `postcard`'s, or an index out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        let (request, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(|_| RequestError::Encoding)?;
        if !rest.is_empty() {
            return Err(RequestError::TrailingBytes);
        }
        if request.indices_in_range() { Ok(request) } else { Err(RequestError::Index) }
    }

    fn indices_in_range(&self) -> bool {
        let disk = |id: DiskId| usize::try_from(id.0).is_ok_and(|index| index < self.disks.len());
        let layer = |id: LayerId| usize::try_from(id.0).is_ok_and(|index| index < self.layers.len());
        let op = match &self.op {
            Op::Info { image, .. } => layer(*image),
            Op::Check(check) => layer(check.image),
            Op::Convert(convert) => {
                let target = match &convert.target_format {
                    TargetFormat::Qcow2(Qcow2Options { backing, data_file, .. }) => {
                        backing.as_ref().is_none_or(|backing| layer(backing.layer))
                            && data_file.as_ref().is_none_or(|file| disk(file.disk))
                    }
                    TargetFormat::Existing { image, .. } => layer(*image),
                    TargetFormat::Raw => true,
                };
                let sources = !convert.sources.is_empty() && convert.sources.iter().all(|&source| layer(source));
                sources && target && disk(convert.target)
            }
            Op::Map(map) => layer(map.image),
            Op::Measure(measure) => match &measure.content {
                MeasuredContent::Size(_) => true,
                MeasuredContent::Image { image, .. } => layer(*image),
            },
            Op::Compare(compare) => layer(compare.left) && layer(compare.right),
        };
        let below = |below: Below| match below {
            Below::AsNamed | Below::Nothing => true,
            Below::Layer(id) => layer(id),
        };
        op && self.layers.iter().all(|l| disk(l.disk) && below(l.below))
            && self.answers.iter().all(|answer| {
                layer(answer.layer)
                    && match answer.given {
                        Given::Layer(id) => layer(id),
                        Given::Disk(id) => disk(id),
                        Given::Refused => true,
                    }
            })
    }
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Not `postcard` of a [`Request`].
    Encoding,
    /// Bytes follow the request.
    TrailingBytes,
    /// A disk or layer index past its list.
    Index,
}
