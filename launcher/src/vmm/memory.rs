//! Guest memory: one mapping, touched only by volatile copies and by the kernel's vectored I/O.

use crate::disk::Segments;
use instar_abi::layout;
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileSlice,
};

/// The memory of one guest, from address 0.
#[derive(Clone)]
pub struct Memory {
    map: GuestMemoryMmap,
    len: u64,
}

/// A piece of a guest's memory that another process has made.
#[derive(Debug)]
pub struct Piece {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// The file that holds it.
    pub file: File,
    /// Where in the file it starts.
    pub offset: u64,
}

/// A guest address that is not memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemoryRange {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

impl Memory {
    /// Maps `len` bytes. Pages appear as they are touched: large ones (where the host has them) in `large`, small ones
    /// elsewhere.
    ///
    /// # Errors
    /// The host's: no address space, for one.
    pub fn new(len: u64, large: Range<u64>) -> io::Result<Self> {
        let size = usize::try_from(len).map_err(io::Error::other)?;
        let map = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).map_err(io::Error::other)?;
        let memory = Self { map, len };
        memory.advise(0..len, libc::MADV_NOHUGEPAGE);
        memory.advise(large.start.min(len)..large.end.min(len), libc::MADV_HUGEPAGE);
        Ok(memory)
    }

    /// Maps memory that another process has made, in pieces at these guest addresses.
    ///
    /// That process may cut its file short meanwhile: touching what is gone ends this process, not its work in a
    /// wrong way.
    ///
    /// # Errors
    /// Pieces that overlap, lie past their file, or don't start on a page; the host's.
    pub fn shared(pieces: Vec<Piece>) -> io::Result<Self> {
        let len = pieces.iter().map(|piece| piece.len).fold(0, u64::saturating_add);
        let mut regions = Vec::with_capacity(pieces.len());
        for Piece { address, len, file, offset } in pieces {
            let size = usize::try_from(len).map_err(io::Error::other)?;
            let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
            if rustix::fs::seek(&file, SeekFrom::End(0))? < end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mapping = MmapRegion::from_file(FileOffset::new(file, offset), size).map_err(io::Error::other)?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(address));
            regions.push(region.ok_or(io::ErrorKind::InvalidInput)?);
        }
        let map = GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?;
        Ok(Self { map, len })
    }

    /// Best effort: without large pages a run is slower, not wrong.
    fn advise(&self, range: Range<u64>, advice: libc::c_int) {
        let len = range.end.saturating_sub(range.start);
        if len > 0
            && let Ok(start) = self.map.get_host_address(GuestAddress(range.start))
        {
            // SAFETY: the range ends within `self.len`, so the range lies in our own live mapping; these two pieces
            // of advice change only how pages are backed.
            unsafe { libc::madvise(start.cast(), len as usize, advice) };
        }
    }

    /// Whether these bytes are there.
    #[must_use]
    pub fn holds(&self, address: u64, bytes: &[u8]) -> bool {
        const PART: usize = 4096;
        (address..).step_by(PART).zip(bytes.chunks(PART)).all(|(address, part)| {
            let mut found = [0; PART];
            let found = &mut found[..part.len()];
            self.map.read_slice(found, GuestAddress(address)).is_ok() && found == part
        })
    }

    /// Sets every byte but those of `but` to zero. Pages that are there stay where they are, for whoever has mapped them: touching a new one
    /// costs more than clearing an old one.
    ///
    /// # Errors
    /// The host's.
    pub fn clear(&self, but: &Range<u64>) -> io::Result<()> {
        const PAGE: usize = 4096;
        let start = self.map.get_host_address(GuestAddress(0)).map_err(io::Error::other)?;
        let len = usize::try_from(self.len).map_err(io::Error::other)?;
        let mut present = vec![0u8; len.div_ceil(PAGE)];
        // SAFETY: the range is our own mapping, and `present` has a byte for each of its pages.
        if unsafe { libc::mincore(start.cast(), len, present.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let is_kept = |page: usize| but.contains(&(page as u64 * PAGE as u64));
        let mut page = 0;
        while let Some(&first) = present.get(page) {
            let is_like_first = |&(at, now): &(usize, &u8)| now & 1 == first & 1 && is_kept(at) == is_kept(page);
            let count = (page..).zip(&present[page..]).take_while(is_like_first).count();
            let (at, bytes) = (page * PAGE, count * PAGE);
            if is_kept(page) {
                // Whoever calls has reason to know what is there.
            } else if first & 1 == 1 {
                // SAFETY: the pages lie in our own mapping; no vCPU runs, and nothing has a reference into it.
                unsafe { start.add(at).write_bytes(0, bytes) };
            // A page that is not present may have been moved out of memory.
            // SAFETY: the pages lie in our own private mapping, where this advice means: zeros from now on.
            } else if unsafe { libc::madvise(start.add(at).cast(), bytes, libc::MADV_DONTNEED) } != 0 {
                return Err(io::Error::last_os_error());
            }
            page += count;
        }
        Ok(())
    }

    /// Bytes of memory.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where the mapping starts in this process, for the memory slot.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.map.get_host_address(GuestAddress(0)).map_or(0, |start| start.addr() as u64)
    }

    /// The guest memory as the queue code wants it.
    #[must_use]
    pub fn map(&self) -> &GuestMemoryMmap {
        &self.map
    }

    /// Copies bytes into guest memory.
    ///
    /// # Errors
    /// The range is not memory.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), OutOfMemoryRange> {
        let out = OutOfMemoryRange { address, len: bytes.len() as u64 };
        self.map.write_slice(bytes, GuestAddress(address)).map_err(|_| out)
    }

    /// Copies bytes out of guest memory.
    ///
    /// # Errors
    /// The range is not memory.
    pub fn read<const LEN: usize>(&self, address: u64) -> Result<[u8; LEN], OutOfMemoryRange> {
        let mut bytes = [0; LEN];
        let out = OutOfMemoryRange { address, len: LEN as u64 };
        self.map.read_slice(&mut bytes, GuestAddress(address)).map_err(|_| out)?;
        Ok(bytes)
    }

    /// One segment of a request.
    ///
    /// # Errors
    /// The range is not memory, or memory that holds code: no device has a part in changing that.
    pub fn segment(&self, address: u64, len: u32) -> Result<VolatileSlice<'_>, OutOfMemoryRange> {
        if layout::is_code(address, len.into()) {
            return Err(OutOfMemoryRange { address, len: len.into() });
        }
        self.map
            .get_slice(GuestAddress(address), len as usize)
            .map_err(|_| OutOfMemoryRange { address, len: len.into() })
    }
}

/// The data segments of one request in guest memory.
#[derive(Default)]
pub struct GuestSegments<'m> {
    slices: Vec<VolatileSlice<'m>>,
    len: u64,
}

impl<'m> GuestSegments<'m> {
    /// Adds a segment at the end.
    pub fn push(&mut self, slice: VolatileSlice<'m>) {
        self.len += slice.len() as u64;
        self.slices.push(slice);
    }

    /// Number of segments.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slices.len()
    }

    /// Forgets the segments, keeps the room.
    pub fn clear(&mut self) {
        self.slices.clear();
        self.len = 0;
    }

    /// The segments from byte `at` on, for one system call.
    fn vectors(&self, at: u64) -> Vec<libc::iovec> {
        let mut skip = usize::try_from(at).unwrap_or(usize::MAX);
        let mut vectors = Vec::with_capacity(self.slices.len());
        for slice in &self.slices {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            if let Ok(rest) = slice.offset(skipped)
                && !rest.is_empty()
            {
                vectors.push(libc::iovec { iov_base: rest.ptr_guard_mut().as_ptr().cast(), iov_len: rest.len() });
            }
        }
        vectors
    }

    /// Repeats a vectored call until everything is moved, nothing moves any more, or it fails.
    fn transfer(&self, mut call: impl FnMut(&[libc::iovec], u64) -> isize) -> io::Result<u64> {
        let mut done = 0;
        while done < self.len {
            let vectors = self.vectors(done);
            match call(&vectors[..vectors.len().min(IOV_MAX)], done) {
                0 => break,
                moved if moved > 0 => done += moved as u64,
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(done)
    }
}

/// Linux's limit of vectors a call (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

fn file_offset(offset: u64, done: u64) -> libc::off_t {
    offset.checked_add(done).and_then(|at| libc::off_t::try_from(at).ok()).unwrap_or(libc::off_t::MAX)
}

impl Segments for GuestSegments<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_file(&mut self, file: BorrowedFd<'_>, offset: u64) -> io::Result<u64> {
        self.transfer(|vectors, done| {
            // SAFETY: each vector lies in guest memory (a `VolatileSlice` proves it) that stays mapped while
            // the slice's borrow lives; the kernel writes there as any device would, and this
            // process has no reference into it. `vectors` has at most IOV_MAX elements.
            unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, file_offset(offset, done)) }
        })
    }

    fn write_file(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        let done = self.transfer(|vectors, done| {
            // SAFETY: as in `read_file`; the kernel only reads.
            unsafe {
                libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, file_offset(offset, done))
            }
        })?;
        if done == self.len { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let (mut skip, mut rest) = (usize::try_from(at).unwrap_or(usize::MAX), bytes);
        for slice in &self.slices {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            let (now, later) = rest.split_at(rest.len().min(slice.len() - skipped));
            if let Ok(part) = slice.subslice(skipped, now.len()) {
                part.copy_from(now);
            }
            rest = later;
        }
    }

    fn take(&self, at: u64, bytes: &mut [u8]) {
        let (mut skip, mut rest) = (usize::try_from(at).unwrap_or(usize::MAX), bytes);
        for slice in &self.slices {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            let (now, later) = rest.split_at_mut(rest.len().min(slice.len() - skipped));
            if let Ok(part) = slice.subslice(skipped, now.len()) {
                part.copy_to(now);
            }
            rest = later;
        }
    }

    fn zero_from(&mut self, at: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = at;
        while at < self.len {
            let len = (self.len - at).min(ZEROS.len() as u64);
            self.put(at, &ZEROS[..len as usize]);
            at += len;
        }
    }

    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.len).unwrap_or(0));
        for slice in &self.slices {
            let start = bytes.len();
            bytes.resize(start + slice.len(), 0);
            slice.copy_to(&mut bytes[start..]);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleared_memory_is_zero_wherever_it_was_touched() {
        const LEN: u64 = 16 << 20;
        let memory = Memory::new(LEN, 8 << 20..LEN).expect("memory");
        let touched = [0, 4095, 3 << 20, (8 << 20) + 5, (12 << 20) - 1, LEN - 3];
        for &address in &touched {
            memory.write(address, &[7; 3]).expect("in range");
        }
        memory.clear(&(2 << 20..4 << 20)).expect("cleared");
        let page = |page: u64| memory.read::<4096>(page * 4096).expect("in range");
        let all: Vec<u8> = (0..LEN / 4096).flat_map(page).collect();
        let left: Vec<usize> = all.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        assert_eq!(left, [3 << 20, (3 << 20) + 1, (3 << 20) + 2], "what is kept");
        assert!(memory.holds(3 << 20, &[7, 7, 7, 0]) && !memory.holds((3 << 20) + 1, &[7, 7, 7]));
        memory.write(4096, b"again").expect("in range");
        assert_eq!(memory.read::<5>(4096).expect("in range"), *b"again");
    }
}
