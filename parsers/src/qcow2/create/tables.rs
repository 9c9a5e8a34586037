//! The L2 tables that are being filled: one while the disk is passed in order, several where it is not.

use super::put;
use crate::qcow2::wire::entry;
use alloc::vec::Vec;

/// A table that is not complete yet.
struct Table {
    /// Which one of the image's it is.
    index: u64,
    /// Where it goes.
    offset: u64,
    bytes: Vec<u8>,
}

/// All of them, by index.
#[derive(Default)]
pub struct Tables(Vec<Table>);

impl Tables {
    fn find(&self, index: u64) -> Result<usize, usize> {
        // Usually the last one.
        match self.0.last() {
            Some(last) if last.index == index => Ok(self.0.len().saturating_sub(1)),
            Some(last) if last.index > index => self.0.binary_search_by_key(&index, |table| table.index),
            _ => Err(self.0.len()),
        }
    }

    /// Whether table `index` is among them.
    pub fn has(&self, index: u64) -> bool {
        self.find(index).is_ok()
    }

    /// Adds an empty table of `len` bytes, which goes to `offset`.
    pub fn add(&mut self, index: u64, offset: u64, len: usize) {
        if let Err(at) = self.find(index) {
            self.0.insert(at, Table { index, offset, bytes: alloc::vec![0; len] });
        }
    }

    /// Sets a word of table `index`.
    pub fn set(&mut self, index: u64, word: u64, value: u64) {
        if let Some(table) = self.find(index).ok().and_then(|at| self.0.get_mut(at)) {
            put(&mut table.bytes, word, value.to_be_bytes());
        }
    }

    /// Sets bits of a word of table `index`.
    pub fn add_bits(&mut self, index: u64, word: u64, bits: u64) {
        self.set(index, word, self.word(index, word) | bits);
    }

    /// The cluster that a word of table `index` leads to.
    pub fn cluster(&self, index: u64, word: u64) -> Option<u64> {
        let found = self.word(index, word);
        (found & entry::COPIED != 0).then_some(found & entry::OFFSET)
    }

    fn word(&self, index: u64, word: u64) -> u64 {
        let table = self.find(index).ok().and_then(|at| self.0.get(at));
        let slot = usize::try_from(word).ok().and_then(|word| table?.bytes.as_chunks().0.get(word));
        slot.map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    /// Takes out those before table `index`: place and bytes.
    pub fn take_before(&mut self, index: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let count = self.0.partition_point(|table| table.index < index);
        self.0.drain(..count).map(|table| (table.offset, table.bytes))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }
}
