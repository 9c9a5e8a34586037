//! The snapshot table of a qcow2, byte by byte.

use super::place::be;
use crate::image::FuzzImage;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The byte after its last.
    pub end: u64,
    /// Identifier, without what follows its NUL.
    pub id: Vec<u8>,
    /// Name, without what follows its NUL.
    pub name: Vec<u8>,
    /// Where its L1 table is.
    pub l1_offset: u64,
    /// Entries of its L1 table.
    pub l1_count: u64,
    /// Bytes of VM state.
    pub vm_state_size: u64,
    /// Bytes of the disk.
    pub disk_size: u64,
}

/// The entries of a table at `start`, as many as there are before one that is not allowed, which is an error.
///
/// # Errors
/// The entries before it.
pub fn entries(image: &FuzzImage<'_>, start: u64, count: u64, disk_size: u64) -> Result<Vec<Entry>, Vec<Entry>> {
    let mut entries = Vec::new();
    let mut at = start;
    for _ in 0..count {
        at = at.next_multiple_of(8);
        let [id, name] = [12, 14].map(|field| be::<2>(image, at + field));
        let extra = be::<4>(image, at + 36);
        let text = at + 40 + extra;
        let end = text + id + name;
        if extra > 1024 || end - start > 64 << 20 {
            return Err(entries);
        }
        entries.push(Entry {
            end,
            id: string(image, text, id),
            name: string(image, text + id, name),
            l1_offset: be::<8>(image, at),
            l1_count: be::<4>(image, at + 8),
            vm_state_size: if extra >= 8 { be::<8>(image, at + 40) } else { be::<4>(image, at + 32) },
            disk_size: if extra >= 16 { be::<8>(image, at + 48) } else { disk_size },
        });
        at = end;
    }
    Ok(entries)
}

fn string(image: &FuzzImage<'_>, at: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    image.fill(at, &mut bytes);
    bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()
}
