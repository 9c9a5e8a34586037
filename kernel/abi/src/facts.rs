//! What info tells of an image.
//!
//! Format-specific facts travel as a tree in preorder, so that the launcher can print every
//! format's facts in qemu-img's layout without knowing the format, and so that a hostile guest
//! can't make it recurse.

use crate::format::Format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The facts every format has. Strings are the image's own bytes, unescaped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The format it was opened as.
    pub format: Format,
    /// Virtual size in bytes.
    pub virtual_size: u64,
    /// Cluster size in bytes, for formats that report one.
    pub cluster_size: Option<u64>,
    /// Content is encrypted.
    pub encrypted: bool,
    /// Content is compressed as a whole (vmdk streamOptimized).
    pub compressed: bool,
    /// The image was not closed cleanly; `None`: the format does not tell.
    pub dirty: Option<bool>,
    /// The layer below, as the image names it.
    pub backing: Option<Backing>,
    /// Length of the protocol child where the format reports more than the file has
    /// (qcow2 metadata past the end), in bytes; `None`: the file's own.
    pub child_len: Option<u64>,
    /// `type` of the format-specific facts, which follow as [`Node`]s; `None`: the format has none.
    pub specific: Option<Vec<u8>>,
}

/// A reference to the layer below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing {
    /// Name as recorded.
    pub name: Vec<u8>,
    /// Format as recorded.
    pub format: Option<Vec<u8>>,
}

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Identifier, at most 65,535 bytes on disk.
    pub id: Vec<u8>,
    /// Name.
    pub name: Vec<u8>,
    /// Bytes of VM state.
    pub vm_state_size: u64,
    /// Creation time, seconds since 1970.
    pub date_seconds: u32,
    /// Nanoseconds of the creation time.
    pub date_nanoseconds: u32,
    /// VM clock in nanoseconds.
    pub vm_clock_nanoseconds: u64,
    /// Instruction count, where recorded.
    pub icount: Option<u64>,
}

/// One node of the format-specific tree, in preorder. The members of the root object have depth 0;
/// a container is followed by its members, one deeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Nesting, at most [`DEPTH_MAX`]; at most one more than the node before, and only after a container.
    pub depth: u8,
    /// Key within an object; empty for the items of a list.
    pub key: Vec<u8>,
    /// The value.
    pub value: Value,
}

/// Deepest [`Node::depth`].
pub const DEPTH_MAX: u8 = 7;

/// A value of the format-specific tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// An object; its members follow.
    Object,
    /// A list; its items follow.
    List,
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(u64),
    /// Bytes of text, unescaped.
    Text(Vec<u8>),
    /// The name of the image's own file, which the guest does not know.
    FileName,
    /// The name of a file that the image names so: it is read beside the image.
    NamedFile(Vec<u8>),
}
