//! Files that the user named: opened, looked at from outside, claimed.
#![forbid(unsafe_code)]

use crate::disk::bytes::FileBytes;
use crate::disk::lock::{self, Claim, LockError};
use crate::gate::Refusal;
use crate::render::image_file::Protocol;
use rustix::fs::{self, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Device and inode: which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file that was looked at.
    #[must_use]
    pub const fn of(stat: &fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// A file open for reading, and what the host knows of it.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: File,
    /// Where it was found.
    pub path: PathBuf,
    /// Which file it is.
    pub id: FileId,
    /// Regular file or block device.
    pub protocol: Protocol,
    /// Length in bytes.
    pub len: u64,
    /// Bytes it occupies.
    pub actual_size: u64,
}

impl Opened {
    /// The same open file once more, with what is claimed of it.
    ///
    /// # Errors
    /// The host's errno.
    pub fn again(&self) -> Result<Self, i32> {
        let file = self.file.try_clone().map_err(|error| error.raw_os_error().unwrap_or(0))?;
        Ok(Self { file, path: self.path.clone(), ..*self })
    }
}

/// Why a file could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The host refused; its errno.
    Host(i32),
    /// A directory, a FIFO, a socket or a character device.
    Kind,
    /// Someone else uses it.
    Lock(LockError),
    /// The source and the target are one file.
    SameFile,
    /// A pipe, which takes raw images only.
    Pipe,
    /// The file system has no `O_DIRECT`, which the cache mode takes.
    NoDirect,
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self::Host(errno.raw_os_error())
    }
}

/// What a refusal of a file is where an image, and not the user, names it.
impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Host(errno) => Self::Host(errno),
            OpenError::Lock(error) => Self::Lock(error),
            OpenError::Kind | OpenError::SameFile | OpenError::Pipe | OpenError::NoDirect => Self::Kind,
        }
    }
}

/// Reaches a file's bytes as a cache mode has it: see [`FileBytes`].
///
/// # Errors
/// [`OpenError::NoDirect`], or the host's.
pub fn in_cache_mode(bytes: Result<FileBytes, Errno>) -> Result<FileBytes, OpenError> {
    bytes.map_err(|errno| if errno == Errno::INVAL { OpenError::NoDirect } else { errno.into() })
}

/// A path of the user's bytes.
#[must_use]
pub fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Opens a file for reading and claims it. `O_NONBLOCK` keeps FIFOs and devices from holding us up.
///
/// # Errors
/// [`OpenError`].
pub fn source(path: &Path, claim: Claim) -> Result<Opened, OpenError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = look_at(File::from(fs::open(path, flags, Mode::empty())?), path.to_owned())?;
    lock::claim(opened.file.as_fd(), claim).map_err(OpenError::Lock)?;
    Ok(opened)
}

/// Opens what is there to be written over, a regular file or a block device, and claims it.
///
/// # Errors
/// [`OpenError`].
pub fn existing(path: &Path, sources: &[FileId]) -> Result<Opened, OpenError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = look_at(File::from(fs::open(path, flags, Mode::empty())?), path.to_owned())?;
    if sources.contains(&opened.id) {
        return Err(OpenError::Lock(LockError::NotGranted(lock::Permission::Write)));
    }
    lock::claim(opened.file.as_fd(), Claim::CREATE).map_err(OpenError::Lock)?;
    Ok(opened)
}

/// What the host knows of an open file.
///
/// # Errors
/// It is neither a regular file nor a block device, or the host fails.
pub fn look_at(file: File, path: PathBuf) -> Result<Opened, OpenError> {
    let stat = fs::fstat(&file)?;
    let protocol = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Protocol::File,
        FileType::BlockDevice => Protocol::HostDevice,
        _ => return Err(OpenError::Kind),
    };
    // A block device has no size in its stat.
    let len = fs::seek(&file, SeekFrom::End(0))?;
    let actual_size = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    Ok(Opened { file, path, id: FileId::of(&stat), protocol, len, actual_size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_is_opened_with_its_exact_length() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&[1; 700]).expect("written");
        let opened = source(file.path(), Claim::READ).expect("opens");
        assert_eq!((opened.len, opened.protocol), (700, Protocol::File));
        assert!(opened.actual_size >= 512);
    }

    #[test]
    fn only_regular_files_and_block_devices_are_opened_and_a_fifo_does_not_hang() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        fs::mknodat(fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
        for path in [dir.path(), &fifo, Path::new("/dev/null")] {
            assert_eq!(source(path, Claim::NONE).map(|_| ()), Err(OpenError::Kind), "{path:?}");
        }
        let missing = source(&dir.path().join("missing"), Claim::NONE).map(|_| ());
        assert_eq!(missing, Err(Errno::NOENT.into()));
    }
}
