//! Room for a new image on the host's file system: `-o preallocation`.
//!
//! Done after a run that went well and before the file gets its name, so that what the guest wrote need not be
//! told from what it did not: the file system knows.
#![forbid(unsafe_code)]

use nix::fcntl::posix_fallocate;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// What is reserved for a new image beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Every cluster is mapped; the file system reserves nothing.
    Metadata,
    /// The file system reserves room.
    Falloc,
    /// Zeros are written wherever nothing else was.
    Full,
}

/// Bytes between two looks at whether the run is to stop.
const STEP: u64 = 256 << 20;
/// Bytes of zeros a write.
const ZEROS_LEN: usize = 4 << 20;

/// Reserves room for all of a file's `len` bytes. `stop`: whether to end early, the file being of no use any more.
///
/// # Errors
/// The host's errno.
///
/// # Source
/// `handle_aiocb_truncate` of QEMU's `block/file-posix.c`: glibc's `posix_fallocate`, which writes where a file
/// system can't reserve.
pub fn reserve(file: &File, len: u64, how: Preallocation, stop: &mut dyn FnMut() -> bool) -> Result<(), i32> {
    match how {
        Preallocation::Off | Preallocation::Metadata => Ok(()),
        Preallocation::Falloc => allocate(file, len, stop),
        Preallocation::Full => fill_holes(file, len, stop),
    }
}

fn allocate(file: &File, len: u64, stop: &mut dyn FnMut() -> bool) -> Result<(), i32> {
    let mut at = 0;
    while at < len && !stop() {
        let step = STEP.min(len - at);
        let number = |value: u64| i64::try_from(value).map_err(|_| Errno::FBIG.raw_os_error());
        match posix_fallocate(file, number(at)?, number(step)?) {
            Ok(()) => at += step,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno as i32),
        }
    }
    Ok(())
}

/// Writes zeros into the holes; a file system that does not tell of them has none.
fn fill_holes(file: &File, len: u64, stop: &mut dyn FnMut() -> bool) -> Result<(), i32> {
    let zeros = vec![0; ZEROS_LEN];
    let mut at = 0;
    while at < len && !stop() {
        let hole = match seek(file, SeekFrom::Hole(at)) {
            Ok(hole) if hole < len => hole,
            Ok(_) | Err(Errno::NXIO | Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno.raw_os_error()),
        };
        let end = match seek(file, SeekFrom::Data(hole)) {
            Ok(data) => data.min(len),
            Err(Errno::NXIO) => len,
            Err(errno) => return Err(errno.raw_os_error()),
        };
        at = hole;
        while at < end && !stop() {
            let part = zeros.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            file.write_all_at(&zeros[..part], at).map_err(|error| error.raw_os_error().unwrap_or(0))?;
            at += part as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn sparse(len: u64) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(len).expect("grows");
        file.write_all_at(&[7; 8192], 1 << 20).expect("written");
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.metadata().expect("open").len()).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    }

    #[test]
    fn room_is_there_and_content_stays() {
        for how in [Preallocation::Falloc, Preallocation::Full] {
            let len = (9 << 20) + 700;
            let file = sparse(len);
            let before = content(&file);
            reserve(&file, len, how, &mut || false).expect("room");
            let after = file.metadata().expect("open");
            assert!(after.blocks() * 512 >= len, "{how:?}: {} blocks", after.blocks());
            assert_eq!(after.len(), len);
            assert!(content(&file) == before, "{how:?}");
        }
    }

    #[test]
    fn nothing_is_reserved_unless_asked() {
        for how in [Preallocation::Off, Preallocation::Metadata] {
            let file = sparse(64 << 20);
            reserve(&file, 64 << 20, how, &mut || false).expect("nothing to do");
            assert!(file.metadata().expect("open").blocks() * 512 < 32 << 20);
        }
    }

    #[test]
    fn a_stop_ends_it() {
        for how in [Preallocation::Falloc, Preallocation::Full] {
            let file = sparse(64 << 20);
            reserve(&file, 64 << 20, how, &mut || true).expect("nothing done");
            assert!(file.metadata().expect("open").blocks() * 512 < 32 << 20);
        }
    }

    #[test]
    fn a_full_file_system_is_an_error() {
        let Ok(full) = File::options().write(true).open("/dev/full") else { return };
        assert!(allocate(&full, 4096, &mut || false).is_err());
    }
}
