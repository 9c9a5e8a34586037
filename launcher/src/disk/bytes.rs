//! The bytes of a file: through the page cache, or as a cache mode of the user's has it.
//!
//! ```text
//! mode           reads and writes         a flush            after the run
//! unsafe         page cache               nothing            nothing
//! writeback      page cache               fdatasync          fsync
//! none           past it (O_DIRECT)       fdatasync          fsync
//! writethrough   O_DSYNC                  fdatasync          fsync
//! directsync     O_DIRECT and O_DSYNC     fdatasync          fsync
//! ```
//!
//! Guest memory is not aligned as `O_DIRECT` wants it, so what goes past the cache goes through a buffer that
//! is. What does not start or end on a block goes through the page cache; the kernel keeps both in step.
#![forbid(unsafe_code)]

use super::{Segments, copy};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::{Errno, preadv};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

/// qemu-img's cache modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Past the page cache.
    None,
    /// Through it, made durable where the guest flushes.
    Writeback,
    /// Every write is durable.
    Writethrough,
    /// Past the page cache, and every write is durable.
    Directsync,
    /// Nothing is waited for.
    Unsafe,
}

impl CacheMode {
    /// The mode of qemu-img's name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" | "off" => Self::None,
            "writeback" => Self::Writeback,
            "writethrough" => Self::Writethrough,
            "directsync" => Self::Directsync,
            "unsafe" => Self::Unsafe,
            _ => return None,
        })
    }

    /// Whether what a run made is on the disk when it ends.
    #[must_use]
    pub fn is_durable(self) -> bool {
        self != Self::Unsafe
    }

    fn flags(self) -> OFlags {
        match self {
            Self::Writeback | Self::Unsafe => OFlags::empty(),
            Self::None => OFlags::DIRECT,
            Self::Writethrough => OFlags::DSYNC,
            Self::Directsync => OFlags::DIRECT | OFlags::DSYNC,
        }
    }
}

/// Offsets, lengths and memory of `O_DIRECT`: a page, which is a multiple of every logical block size in use.
const ALIGNMENT: u64 = 4096;
/// Bytes of the aligned buffer.
const BUFFER_LEN: u64 = 1 << 20;

/// A file, and how its bytes are reached.
#[derive(Debug)]
pub struct FileBytes {
    file: File,
    special: Option<(File, OFlags)>, // the same file, opened with these flags
    durable: bool,
}

/// Through the page cache, and nothing is waited for.
impl From<File> for FileBytes {
    fn from(file: File) -> Self {
        Self { file, special: None, durable: false }
    }
}

impl FileBytes {
    /// A file open for reading, in a cache mode.
    ///
    /// # Errors
    /// The host's; `EINVAL`: the file system has no `O_DIRECT`.
    pub fn source(file: File, mode: CacheMode) -> Result<Self, Errno> {
        // Nothing is written, so nothing need be durable.
        Self::reopen(file, mode.flags().difference(OFlags::DSYNC), OFlags::RDONLY, false)
    }

    /// A source again, from the descriptors that [`FileBytes::fds`] told of it: the second one goes past the page cache.
    #[must_use]
    pub fn source_from(mut files: Vec<File>) -> Option<Self> {
        let direct = if files.len() == 2 { files.pop() } else { None };
        let special = direct.map(|file| (file, OFlags::DIRECT));
        Some(Self { file: files.pop()?, special, durable: false }).filter(|_| files.is_empty())
    }

    /// A file open for writing, in a cache mode.
    ///
    /// # Errors
    /// The host's; `EINVAL`: the file system has no `O_DIRECT`.
    pub fn output(file: File, mode: CacheMode) -> Result<Self, Errno> {
        Self::reopen(file, mode.flags(), OFlags::RDWR, mode.is_durable())
    }

    fn reopen(file: File, flags: OFlags, access: OFlags, durable: bool) -> Result<Self, Errno> {
        let special = if flags.is_empty() {
            None
        } else {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            Some((File::from(fs::open(path, access | flags | OFlags::CLOEXEC, Mode::empty())?), flags))
        };
        Ok(Self { file, special, durable })
    }

    /// The file, through the page cache.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Every descriptor of it.
    #[must_use]
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(&self.file).chain(self.special.iter().map(|(file, _)| file)).map(|file| file.as_fd()).collect()
    }

    fn direct(&self) -> Option<&File> {
        self.special.as_ref().filter(|(_, flags)| flags.contains(OFlags::DIRECT)).map(|(file, _)| file)
    }

    /// As [`Segments::read_file`].
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, offset: u64, into: &mut dyn Segments) -> io::Result<u64> {
        let Some(file) = self.direct() else { return into.read_file(self.file.as_fd(), offset) };
        let end = offset.checked_add(into.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let mut buffer = Aligned::new(into.len().saturating_add(2 * ALIGNMENT));
        let mut at = offset;
        while at < end {
            let start = at - at % ALIGNMENT;
            let len = (end - start).next_multiple_of(ALIGNMENT).min(buffer.len());
            let part = buffer.get(len);
            let read = read_up_to(file, part, start)?;
            let (skip, have) = (at - start, read.min(end - start));
            if have <= skip {
                break;
            }
            into.put(at - offset, &part[skip as usize..have as usize]);
            at = start + have;
            if read < len {
                break;
            }
        }
        Ok(at - offset)
    }

    /// As [`Segments::write_file`].
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, offset: u64, from: &dyn Segments) -> io::Result<()> {
        let Some(direct) = self.direct() else {
            let file = self.special.as_ref().map_or(&self.file, |(file, _)| file);
            return from.write_file(file.as_fd(), offset);
        };
        let len = from.len();
        let mut buffer = Aligned::new(len);
        let mut done = 0;
        while done < len {
            let at = offset.checked_add(done).ok_or(io::ErrorKind::InvalidInput)?;
            let (left, beyond) = (len - done, at % ALIGNMENT);
            let (file, part) = match (beyond, left / ALIGNMENT * ALIGNMENT) {
                (0, 0) => (&self.file, left),
                (0, whole) => (direct, whole.min(buffer.len())),
                _ => (&self.file, left.min(ALIGNMENT - beyond)),
            };
            let bytes = buffer.get(part);
            from.take(done, bytes);
            copy::write_all(file.as_fd(), at, bytes)?;
            done += part;
        }
        Ok(())
    }

    /// Makes completed writes durable, where the mode asks for it.
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> io::Result<()> {
        if self.durable { self.file.sync_data() } else { Ok(()) }
    }
}

/// Reads until the buffer is full or the file ends.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<u64> {
    let mut done = 0;
    while done < buffer.len() {
        match preadv(file, &mut [IoSliceMut::new(&mut buffer[done..])], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => {
                done += read;
                // A partial block is the last one, and a read behind it would not be aligned.
                if !(read as u64).is_multiple_of(ALIGNMENT) {
                    break;
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(done as u64)
}

/// A buffer that starts on a page.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// As much as `len` bytes can use, at most [`BUFFER_LEN`], whole blocks.
    fn new(len: u64) -> Self {
        let len = len.next_multiple_of(ALIGNMENT).clamp(ALIGNMENT, BUFFER_LEN);
        let bytes = vec![0; (len + ALIGNMENT) as usize];
        let start = bytes.as_ptr().align_offset(ALIGNMENT as usize);
        Self { bytes, start }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64 - ALIGNMENT
    }

    /// The first `len` bytes.
    fn get(&mut self, len: u64) -> &mut [u8] {
        &mut self.bytes[self.start..][..len as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Memory;
    use super::*;
    use std::os::unix::fs::FileExt as _;

    const MODES: [CacheMode; 5] =
        [CacheMode::None, CacheMode::Writeback, CacheMode::Writethrough, CacheMode::Directsync, CacheMode::Unsafe];

    /// A file on a disk, where there is one; a file system without `O_DIRECT` says so.
    fn output(mode: CacheMode) -> Option<FileBytes> {
        let file = tempfile::tempfile_in(".").or_else(|_| tempfile::tempfile()).expect("a file");
        match FileBytes::output(file, mode) {
            Err(Errno::INVAL) => {
                println!("skipped: needs a file system with O_DIRECT");
                None
            }
            other => Some(other.expect("opens")),
        }
    }

    fn pattern(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|index| ((index / 7 + seed) % 251) as u8).collect()
    }

    fn memory(bytes: &[u8], lens: &[usize]) -> Memory {
        let mut memory = Memory::new(lens, 0);
        memory.put(0, bytes);
        memory
    }

    #[test]
    fn bytes_are_the_same_in_every_mode_wherever_they_start_and_end() {
        for bytes in MODES.into_iter().filter_map(output) {
            let mut model = vec![0; 3 << 20];
            let cases: [(usize, &[usize]); 8] = [
                (0, &[4096, 8192]),
                (512, &[512]),
                (4096 * 3 - 512, &[512, 4096, 1024]),
                (1 << 20, &[(1 << 20) + 512]),
                (100 * 512, &[300 * 512, 512, 7 * 512]),
                (4096 * 2, &[512]),
                (2 << 20, &[1 << 20]),
                ((2 << 20) - 512, &[1024]),
            ];
            for (seed, (offset, lens)) in cases.into_iter().enumerate() {
                let data = pattern(lens.iter().sum(), seed);
                bytes.write(offset as u64, &memory(&data, lens)).expect("written");
                model[offset..][..data.len()].copy_from_slice(&data);
            }
            bytes.flush().expect("possible");
            let len = bytes.file().metadata().expect("open").len() as usize;
            let mut all = vec![0; len];
            bytes.file().read_exact_at(&mut all, 0).expect("read");
            assert!(all == model[..len], "{bytes:?}");
            for (offset, len) in [(0, 512), (512, 4096), (1536, (1 << 20) + 512), (4096, 2 << 20), (0, 3 << 20)] {
                let mut memory = Memory::new(&[512, len - 512], 0xEE);
                assert_eq!(bytes.read(offset as u64, &mut memory).expect("read"), len as u64);
                assert!(memory.to_vec() == model[offset..][..len], "{bytes:?} {offset} {len}");
            }
        }
    }

    #[test]
    fn a_file_that_ends_within_a_block_is_read_to_its_end() {
        for mode in MODES {
            let Some(bytes) = output(mode) else { continue };
            bytes.file().write_all_at(&[7; 5000], 0).expect("written");
            for (offset, len, expected) in [(0, 8192, 5000), (4096, 4096, 904), (4608, 512, 392), (8192, 512, 0)] {
                let mut memory = Memory::new(&[len], 0xEE);
                assert_eq!(bytes.read(offset, &mut memory).expect("read"), expected, "{mode:?} {offset}");
                let expected = usize::try_from(expected).expect("small");
                assert_eq!(memory.to_vec()[..expected], vec![7; expected]);
                assert_eq!(memory.to_vec()[expected..], vec![0xEE; len - expected]);
            }
        }
    }

    #[test]
    fn flags_are_the_modes() {
        for (name, flags) in [
            ("none", OFlags::DIRECT),
            ("off", OFlags::DIRECT),
            ("writethrough", OFlags::DSYNC),
            ("directsync", OFlags::DIRECT | OFlags::DSYNC),
        ] {
            let Some(bytes) = output(CacheMode::from_name(name).expect("a mode")) else { continue };
            let (file, _) = bytes.special.as_ref().expect("opened so");
            assert!(fs::fcntl_getfl(file).expect("open").contains(flags), "{name}");
        }
        assert_eq!(CacheMode::from_name("foo"), None);
    }
}
