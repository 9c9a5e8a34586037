//! Files that the user named: opened, looked at from outside, claimed.
#![forbid(unsafe_code)]

use crate::disk::lock::{self, Claim, LockError};
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

/// A file open for writing.
#[derive(Debug)]
pub struct OpenedOutput {
    /// The file.
    pub file: File,
    /// Which file it is.
    pub id: FileId,
    /// This run made it: it goes again if the run fails.
    pub is_new: bool,
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
}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self::Host(errno.raw_os_error())
    }
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
    let id = FileId { device: stat.st_dev, inode: stat.st_ino };
    Ok(Opened { file, path, id, protocol, len, actual_size })
}

/// Opens or makes a regular file for an output and claims it; what it holds stays for now.
///
/// # Errors
/// [`OpenError`]; a file made here is removed again.
pub fn output(path: &Path, sources: &[FileId]) -> Result<OpenedOutput, OpenError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mode = Mode::from_raw_mode(0o644);
    let (file, is_new) = match fs::open(path, flags | OFlags::CREATE | OFlags::EXCL, mode) {
        Ok(file) => (file, true),
        // Also where a dangling symlink stands in the way: then this makes its target, as qemu-img does.
        Err(Errno::EXIST) => (fs::open(path, flags | OFlags::CREATE, mode)?, false),
        Err(errno) => return Err(errno.into()),
    };
    let opened = OpenedOutput { id: FileId { device: 0, inode: 0 }, file: File::from(file), is_new };
    let checked = check_output(&opened.file, sources);
    match checked {
        Ok(id) => Ok(OpenedOutput { id, ..opened }),
        Err(error) => {
            opened.remove_if_new(path);
            Err(error)
        }
    }
}

fn check_output(file: &File, sources: &[FileId]) -> Result<FileId, OpenError> {
    let stat = fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenError::Kind);
    }
    let id = FileId { device: stat.st_dev, inode: stat.st_ino };
    if sources.contains(&id) {
        return Err(OpenError::SameFile);
    }
    lock::claim(file.as_fd(), Claim::CREATE).map_err(OpenError::Lock)?;
    Ok(id)
}

impl OpenedOutput {
    /// Removes the file if this run made it; one that was there before stays, whatever it holds now.
    pub fn remove_if_new(&self, path: &Path) {
        if self.is_new {
            // Nothing more can be done about a file that does not go; the run has failed already.
            let _ = fs::unlink(path);
        }
    }
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
        assert_eq!(output(&fifo, &[]).map(|_| ()), Err(OpenError::Kind));
        let missing = source(&dir.path().join("missing"), Claim::NONE).map(|_| ());
        assert_eq!(missing, Err(Errno::NOENT.into()));
    }

    #[test]
    fn an_output_that_was_there_keeps_its_content_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        std::fs::write(&path, b"before").expect("written");
        let opened = output(&path, &[]).expect("opens");
        assert!(!opened.is_new);
        opened.remove_if_new(&path);
        assert_eq!(std::fs::read(&path).expect("still there"), b"before");
    }

    #[test]
    fn a_new_output_goes_when_the_run_fails() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out");
        let opened = output(&path, &[]).expect("made");
        assert!(opened.is_new && path.exists());
        opened.remove_if_new(&path);
        assert!(!path.exists());
    }

    #[test]
    fn a_source_is_never_the_target() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let link = file.path().with_extension("link");
        std::fs::hard_link(file.path(), &link).expect("linked");
        let opened = source(file.path(), Claim::NONE).expect("opens");
        assert_eq!(output(&link, &[opened.id]).map(|_| ()), Err(OpenError::SameFile));
        std::fs::remove_file(link).expect("removed");
    }
}
