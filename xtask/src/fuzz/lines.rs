//! The lines of a target: which block of the machine's code each row of the line tables belongs to.

use crate::elf;
use anyhow::Result;
use gimli::{EndianSlice, LittleEndian};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A block of the machine's code, as the compiler's coverage counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where it begins.
    pub address: u64,
    /// Its place in the target's table, by which libFuzzer names it.
    pub index: usize,
    /// A function begins with it.
    pub entry: bool,
}

/// A row of the line tables: the code of a line begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The block that it lies in.
    pub block: Block,
    /// It lies where the block begins.
    pub first: bool,
    /// The file, from the checkout's top.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// The rows of a binary that are of the tree at `root`.
///
/// # Errors
/// The binary lacks its tables, or they are broken.
pub fn rows(binary: &[u8], root: &Path) -> Result<Vec<Row>> {
    rows_in(&blocks(elf::section(binary, "__sancov_pcs")?), binary, root)
}

fn rows_in(blocks: &[Block], binary: &[u8], root: &Path) -> Result<Vec<Row>> {
    let dwarf =
        gimli::Dwarf::load(|id| Ok::<_, anyhow::Error>(Reader::new(elf::section(binary, id.name())?, LittleEndian)))?;
    let mut rows = Vec::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next()? {
        let unit = dwarf.unit(header)?;
        let Some(program) = unit.line_program.clone() else { continue };
        // A file's name, once for each of its numbers.
        let mut files: BTreeMap<u64, Option<String>> = BTreeMap::new();
        let mut of_unit = program.rows();
        while let Some((header, row)) = of_unit.next_row()? {
            let Some(line) = row.line().filter(|_| !row.end_sequence()) else { continue };
            let name = || name(&dwarf, &unit, header.file(row.file_index())?, root);
            let Some(file) = files.entry(row.file_index()).or_insert_with(name) else { continue };
            let Some(block) = block_of(blocks, row.address()) else { continue };
            let (first, line) = (row.address() == block.address, u32::try_from(line.get())?);
            rows.push(Row { block, first, file: file.clone(), line });
        }
    }
    Ok(rows)
}

/// The compiler's table of blocks: pairs of words, an address and flags.
fn blocks(table: &[u8]) -> Vec<Block> {
    let word = |bytes: &[u8]| u64::from_le_bytes(*bytes.first_chunk().expect("half of 16 bytes"));
    let block = |(index, pair): (usize, &[u8])| {
        let (address, flags) = pair.split_at(8);
        Block { address: word(address), index, entry: word(flags) & 1 != 0 }
    };
    let mut blocks: Vec<Block> = table.chunks_exact(16).enumerate().map(block).collect();
    blocks.sort_by_key(|block| block.address);
    blocks
}

/// The block that an address lies in.
fn block_of(blocks: &[Block], address: u64) -> Option<Block> {
    let after = blocks.partition_point(|block| block.address <= address);
    blocks.get(after.checked_sub(1)?).copied()
}

/// A file's name from the top of the tree; none: it is not of the tree.
fn name(
    dwarf: &gimli::Dwarf<Reader<'_>>,
    unit: &gimli::Unit<Reader<'_>>,
    file: &gimli::FileEntry<Reader<'_>>,
    root: &Path,
) -> Option<String> {
    let program = unit.line_program.as_ref()?;
    let text = |value| Some(dwarf.attr_string(unit, value).ok()?.to_string_lossy().into_owned());
    let mut path = PathBuf::new();
    path.extend(unit.comp_dir.map(|folder| folder.to_string_lossy().into_owned()));
    // Joining an absolute path starts anew.
    path.extend(file.directory(program.header()).and_then(text));
    path.push(text(file.path_name())?);
    Some(path.strip_prefix(root).ok()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_the_block_before_it() {
        let mut table = Vec::new();
        for word in [0x30_u64, 0, 0x10, 1, 0x20, 0] {
            table.extend_from_slice(&word.to_le_bytes());
        }
        let blocks = blocks(&table);
        let found = |address: u64| block_of(&blocks, address).map(|block| (block.index, block.entry));
        assert_eq!(found(0x0f), None);
        assert_eq!([found(0x10), found(0x1f)], [Some((1, true)); 2]);
        assert_eq!([found(0x20), found(0x30), found(0x99)], [Some((2, false)), Some((0, false)), Some((0, false))]);
    }

    /// This test's own binary has tables of lines.
    #[test]
    fn the_lines_of_a_binary_are_those_of_the_tree() {
        let binary = std::fs::read(std::env::current_exe().expect("it runs")).expect("readable");
        // What the linker left out lies at 0.
        let all = Block { address: 1, index: 7, entry: false };
        let rows = rows_in(&[all], &binary, &crate::cargo::root()).expect("tables of lines");
        let here = rows.iter().filter(|row| row.file == "xtask/src/fuzz/lines.rs");
        assert!(here.clone().any(|row| row.line > line!() - 9 && row.line < line!()), "{}", rows.len());
        assert!(here.clone().all(|row| row.block == all && !row.first));
        assert!(rows.iter().all(|row| Path::new(&row.file).is_relative()));
        assert!(super::rows(b"no binary", Path::new("/")).is_err());
    }
}
