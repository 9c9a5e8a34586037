//! What `info` tells of an image.
//!
//! # Source
//! Keys, their presence and their order as QEMU 10.0's `ImageInfoSpecificQCow2` (`qapi/block-core.json`) and
//! `QCryptoBlockInfoLUKS` (`qapi/crypto.json`).

use super::header::Crypt;
use super::limits;
use super::map::Qcow2;
use super::snapshot::Snapshot;
use crate::image::{Codec, Tree};
use crate::luks;
use alloc::vec::Vec;
use instar_abi::facts::{self, Backing, Node, Value};
use instar_abi::format::Format;

/// The facts every format has, and the tree of those that qcow2 has.
#[must_use]
pub fn facts(image: &Qcow2) -> (facts::Image, Vec<Node>) {
    let header = image.header();
    let backing_format = image.extensions().backing_format.clone().filter(|format| !format.is_empty());
    let facts = facts::Image {
        format: Format::Qcow2,
        virtual_size: header.virtual_size(),
        cluster_size: Some(header.cluster_size().into()),
        encrypted: header.crypt() != Crypt::None,
        compressed: false,
        dirty: Some(header.is_dirty()),
        backing: image.backing().map(|name| Backing { name: name.to_vec(), format: backing_format }),
        child_len: None,
        specific: Some(b"qcow2".to_vec()),
    };
    (facts, specific(image))
}

impl From<Snapshot> for facts::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        let mut id = snapshot.id;
        id.truncate(limits::SNAPSHOT_ID_SHOWN);
        let mut name = snapshot.name;
        name.truncate(limits::SNAPSHOT_NAME_SHOWN);
        Self {
            id,
            name,
            vm_state_size: snapshot.vm_state_size,
            date_seconds: snapshot.date_seconds,
            date_nanoseconds: snapshot.date_nanoseconds,
            vm_clock_nanoseconds: snapshot.vm_clock_nanoseconds,
            icount: snapshot.icount,
        }
    }
}

fn specific(image: &Qcow2) -> Vec<Node> {
    let header = image.header();
    let mut tree = Tree::default();
    let version_3 = header.version() >= 3;
    tree.text("compat", if version_3 { "1.1" } else { "0.10" });
    if version_3 {
        if let Some(name) = &image.extensions().data_file {
            tree.text("data-file", name);
        }
        if header.has_data_file() {
            tree.add("data-file-raw", Value::Bool(header.is_data_file_raw()));
        }
        tree.add("extended-l2", Value::Bool(header.has_extended_l2()));
        tree.add("lazy-refcounts", Value::Bool(header.has_lazy_refcounts()));
        tree.add("corrupt", Value::Bool(header.is_corrupt()));
    }
    tree.add("refcount-bits", Value::Number(header.refcount_bits().into()));
    match (header.crypt(), image.luks()) {
        (Crypt::Aes, _) => tree.nest("encrypt", Value::Object, |tree| tree.text("format", "aes")),
        (Crypt::Luks, Some(luks)) => tree.nest("encrypt", Value::Object, |tree| {
            tree.text("format", "luks");
            encryption(tree, luks);
        }),
        _ => {}
    }
    if version_3 && !image.bitmaps().is_empty() {
        tree.nest("bitmaps", Value::List, |tree| bitmaps(tree, image));
    }
    tree.text(
        "compression-type",
        match header.compression() {
            Codec::Deflate | Codec::Zlib => "zlib",
            Codec::Zstd => "zstd",
        },
    );
    tree.into_nodes()
}

fn encryption(tree: &mut Tree, luks: &luks::Header) {
    tree.text("cipher-alg", luks.cipher);
    tree.text("cipher-mode", luks.mode);
    tree.text("ivgen-alg", luks.iv_generator);
    if let Some(hash) = luks.iv_hash {
        tree.text("ivgen-hash-alg", hash);
    }
    tree.text("hash-alg", luks.hash);
    tree.add("detached-header", Value::Bool(false));
    tree.add("payload-offset", Value::Number(luks.payload_offset));
    tree.add("master-key-iters", Value::Number(luks.master_key_iterations.into()));
    tree.text("uuid", &luks.uuid);
    tree.nest("slots", Value::List, |tree| {
        for slot in &luks.slots {
            tree.nest("", Value::Object, |tree| {
                tree.add("active", Value::Bool(slot.active));
                if slot.active {
                    tree.add("iters", Value::Number(slot.iterations.into()));
                    tree.add("stripes", Value::Number(slot.stripes.into()));
                }
                tree.add("key-offset", Value::Number(slot.key_offset));
            });
        }
    });
}

fn bitmaps(tree: &mut Tree, image: &Qcow2) {
    for bitmap in image.bitmaps() {
        tree.nest("", Value::Object, |tree| {
            tree.text("name", &bitmap.name);
            let granularity = 1u64.checked_shl(bitmap.granularity_bits.into()).unwrap_or(0);
            tree.add("granularity", Value::Number(granularity));
            tree.nest("flags", Value::List, |tree| {
                if bitmap.in_use {
                    tree.text("", "in-use");
                }
                if bitmap.auto {
                    tree.text("", "auto");
                }
            });
        });
    }
}
