//! Guest memory that another program maps: a file without a name.

use instar_abi::layout::LARGE_PAGE_LEN;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

/// A file in memory, with zeros in it.
#[derive(Debug)]
pub struct MemoryFile {
    file: OwnedFd,
    len: u64,
}

impl MemoryFile {
    /// A file of `len` bytes.
    ///
    /// # Errors
    /// The host's.
    pub fn new(len: u64) -> io::Result<Self> {
        let file = memfd_create("guest memory", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len)?;
        Ok(Self { file, len })
    }

    /// Has the host put a part into large pages, where it can: each costs a fraction of what its small ones cost when they are
    /// touched one by one. What is in them stays.
    pub fn make_large(&self, part: &Range<u64>) {
        const LARGE: usize = LARGE_PAGE_LEN as usize;
        let start = part.start.min(self.len).next_multiple_of(LARGE_PAGE_LEN);
        let end = part.end.min(self.len) & !(LARGE_PAGE_LEN - 1);
        if start >= end {
            return;
        }
        let (Ok(offset), Ok(len)) = (libc::off_t::try_from(start), usize::try_from(end - start)) else { return };
        let (nothing, private) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let room = unsafe { libc::mmap(std::ptr::null_mut(), len + LARGE, nothing, private, -1, 0) };
        if room == libc::MAP_FAILED {
            return;
        }
        // A large page must be one in the mapping too.
        let pages = room.map_addr(|address| address.next_multiple_of(LARGE));
        let (read, over) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: takes the place of the `len` bytes behind the first large page's start of our own new mapping.
        let mapped = unsafe { libc::mmap(pages, len, read, over, self.file.as_raw_fd(), offset) };
        if mapped != libc::MAP_FAILED {
            for at in (0..len).step_by(LARGE) {
                // The kernel makes a large page only where there is a small one.
                // SAFETY: a byte of the mapping. Another process may write to it meanwhile, which a volatile read bears, or
                // cut the file short, which ends this process and does not let it go on in a wrong way.
                unsafe { pages.byte_add(at).cast::<u8>().read_volatile() };
            }
            // SAFETY: our own mapping; the advice changes how its pages are kept, not what is in them.
            unsafe { libc::madvise(pages, len, libc::MADV_COLLAPSE) };
        }
        // SAFETY: the whole of the mapping made here, to which there are no references.
        unsafe { libc::munmap(room, len + LARGE) };
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn what_is_in_large_pages_stays() {
        let memory = MemoryFile::new(16 << 20).expect("memory");
        let file = File::from(memory.file.try_clone().expect("a descriptor"));
        let places = [0, (4 << 20) + 5, (6 << 20) - 1, (9 << 20) + 4096, (16 << 20) - 1];
        for place in places {
            file.write_all_at(&[7], place).expect("in range");
        }
        // Parts that are no large pages, or past the end, are left as they are.
        for part in [3 << 20..11 << 20, 15 << 20..99 << 20, 5 << 20..5 << 20, u64::MAX - 1..u64::MAX] {
            memory.make_large(&part);
        }
        let mut bytes = vec![0; 16 << 20];
        file.read_exact_at(&mut bytes, 0).expect("read");
        let left: Vec<u64> = (0..).zip(&bytes).filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        assert_eq!(left, places);
    }
}
