//! Whether a qcow2 image is clean: what uses each cluster, held against its refcount.

use super::qcow2::{Byte, compressed, refcount};
use crate::image::FuzzImage;
use instar_parsers::qcow2::Header;
use std::collections::BTreeMap;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// What is wrong with an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What loses or mixes content, in words.
    pub corruptions: Vec<String>,
    /// Clusters that are counted more often than they are used.
    pub leaks: u64,
}

/// Checks an image without snapshots and bitmaps.
#[must_use]
pub fn check(image: &FuzzImage<'_>, header: &Header) -> Verdict {
    let mut walk = Walk { image, header, users: BTreeMap::new(), verdict: Verdict::default(), copied: Vec::new() };
    walk.use_range("header", 0, 1);
    let (l1, table) = (header.l1(), header.refcount_table());
    walk.use_range("L1 table", l1.offset, u64::from(l1.count) * 8);
    walk.use_range("refcount table", table.offset, u64::from(table.count) * walk.cluster());
    for index in 0..u64::from(table.count) * walk.cluster() / 8 {
        let block = image.be64(table.offset + index * 8) & OFFSET;
        if block != 0 {
            walk.use_cluster("refcount block", block);
        }
    }
    for index in 0..u64::from(l1.count) {
        walk.l2(image.be64(l1.offset + index * 8));
    }
    walk.judge()
}

struct Walk<'a> {
    image: &'a FuzzImage<'a>,
    header: &'a Header,
    users: BTreeMap<u64, u64>, // cluster of the file: how often it is in use
    verdict: Verdict,
    copied: Vec<(u64, bool)>, // clusters that entries lead to, and whether they say "refcount 1"
}

impl Walk<'_> {
    fn cluster(&self) -> u64 {
        self.header.cluster_size().into()
    }

    fn corrupt(&mut self, what: String) {
        self.verdict.corruptions.push(what);
    }

    fn use_range(&mut self, what: &str, offset: u64, len: u64) {
        let cluster = self.cluster();
        let end = offset.saturating_add(len).div_ceil(cluster);
        for index in offset / cluster..end {
            if index * cluster >= self.image.len() {
                return self.corrupt(format!("{what} at {offset:#x} leaves the file of {:#x}", self.image.len()));
            }
            *self.users.entry(index).or_default() += 1;
        }
    }

    fn use_cluster(&mut self, what: &str, offset: u64) {
        if offset.is_multiple_of(self.cluster()) {
            self.use_range(what, offset, 1);
        } else {
            self.corrupt(format!("{what} at {offset:#x} is not aligned"));
        }
    }

    fn l2(&mut self, entry: u64) {
        let table = entry & OFFSET;
        if table == 0 {
            return;
        }
        self.use_cluster("L2 table", table);
        self.copied.push((table, entry & COPIED != 0));
        let entry_len = if self.header.has_extended_l2() { 16 } else { 8 };
        for index in 0..self.cluster() / entry_len {
            let word = self.image.be64(table + index * entry_len);
            let offset = word & OFFSET;
            if word & COMPRESSED != 0 {
                if word & COPIED != 0 {
                    self.corrupt(format!("compressed entry {word:#x} says refcount 1"));
                }
                let Byte::Compressed(offset, len) = compressed(self.header, word) else { continue };
                self.use_range("stream", offset, len.into());
            } else if offset != 0 && !self.header.has_data_file() {
                self.use_cluster("data", offset);
                self.copied.push((offset, word & COPIED != 0));
            }
        }
    }

    fn judge(mut self) -> Verdict {
        let last = self.image.len().div_ceil(self.cluster());
        for index in 0..last {
            let count = refcount(self.image, self.header, index * self.cluster());
            let users = self.users.get(&index).copied().unwrap_or(0);
            if count < users {
                self.corrupt(format!("cluster {index} has {users} users and refcount {count}"));
            }
            self.verdict.leaks += u64::from(count > users);
        }
        for (offset, copied) in std::mem::take(&mut self.copied) {
            if copied != (refcount(self.image, self.header, offset) == 1) {
                self.corrupt(format!("the entry for {offset:#x} says copied: {copied}, against its refcount"));
            }
        }
        self.verdict
    }
}
