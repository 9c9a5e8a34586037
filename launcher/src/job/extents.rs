//! Where a source holds data, as the host's file system sees it.
#![forbid(unsafe_code)]

use super::limits::HOST_EXTENTS_MAX;
use super::open::Opened;
use instar_abi::request::HostExtent;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;

/// What the host's file system knows of a source.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Where there may be data; `None`: anywhere.
    pub data: Option<Vec<HostExtent>>,
    /// Bytes it has set aside; `None`: unknown.
    pub allocated: Option<u64>,
}

impl Host {
    /// What it knows of an open file.
    #[must_use]
    pub fn of(opened: &Opened) -> Self {
        Self { data: of(&opened.file, opened.len), allocated: Some(opened.actual_size) }
    }
}

/// The stretches of the first `len` bytes of a file that may hold data; the rest reads as zeros.
/// `None`: the file system does not tell, or tells of more stretches than a request can list.
#[must_use]
fn of(file: &File, len: u64) -> Option<Vec<HostExtent>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start >= at => start,
            // Nothing but a hole to the end.
            Err(Errno::NXIO) => break,
            _ => return None,
        };
        if start >= len {
            break;
        }
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(len),
            _ => return None,
        };
        if extents.len() == HOST_EXTENTS_MAX {
            return None;
        }
        extents.push(HostExtent { start, len: end - start });
        at = end;
    }
    Some(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn holes_are_found_or_all_is_data() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8 << 20).expect("grows");
        file.write_all_at(&[1; 4096], 4 << 20).expect("written");
        let extents = of(&file, 8 << 20).expect("any file system answers");
        assert!(extents.iter().any(|e| e.start <= 4 << 20 && e.start + e.len >= (4 << 20) + 4096));
        assert!(extents.windows(2).all(|pair| pair[0].start + pair[0].len < pair[1].start));
        assert!(extents.iter().all(|e| e.len > 0 && e.start + e.len <= 8 << 20));
    }

    #[test]
    fn an_empty_file_and_a_pure_hole_have_no_data() {
        let file = tempfile::tempfile().expect("a file");
        assert_eq!(of(&file, 0), Some(vec![]));
    }

    #[test]
    fn extents_end_at_the_length() {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&[1; 8192], 0).expect("written");
        assert_eq!(of(&file, 700), Some(vec![HostExtent { start: 0, len: 700 }]));
    }
}
