//! The file that a run makes: it gets its name only when it is whole.
//!
//! A new image is written to a file without a name in the target's directory (`O_TMPFILE`), or under
//! a random name that starts with a dot where the file system has no such files. [`Target::keep`] gives
//! it its name, in place of what was there. Whatever else ends the run leaves no trace of it.
//!
//! An existing file is written in place, as qemu-img does, where replacing it would change more than
//! its content: a symbolic link, a file with several names, one of another owner or with attributes of
//! its own, one in a directory that can't be written to. Its old content then stays only until the
//! first write ([`crate::disk::output`]).
#![forbid(unsafe_code)]

use super::open::{FileId, OpenError};
use crate::disk::lock::{self, Claim};
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// A file open for writing, on its way to its name. Dropped before [`Target::keep`], it is gone.
#[derive(Debug)]
pub struct Target {
    file: File,
    place: Place,
    replaced: Option<File>, // held open, and so locked, until the end
}

/// Where the file is.
#[derive(Debug)]
enum Place {
    /// Nowhere yet.
    Unnamed(Beside),
    /// Under a name of no meaning.
    Named { beside: Beside, temporary: OsString },
    /// At its place; `made` by this run at this path, so that it goes with a run that fails.
    Final { made: Option<PathBuf> },
    /// Nothing is left to be done.
    Done,
}

/// A name in a directory.
#[derive(Debug)]
pub struct Beside {
    directory: OwnedFd,
    name: OsString,
}

const FLAGS: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const MODE: Mode = Mode::from_raw_mode(0o644);

impl Target {
    /// Makes the file for an output and claims what stands at its place.
    ///
    /// # Errors
    /// [`OpenError`]; nothing has changed then.
    pub fn create(path: &Path, sources: &[FileId]) -> Result<Self, OpenError> {
        let there = match fs::lstat(path) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        let is_link = there.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        // A name that ends in a slash names no file: the kernel shall say so.
        if is_link || path.as_os_str().as_bytes().ends_with(b"/") {
            return Self::in_place(path, sources);
        }
        let Some(there) = there else {
            return match Self::beside(path) {
                Ok(target) => Ok(target),
                // Some confinements allow the one name only.
                Err(Errno::ACCESS | Errno::PERM) => Self::in_place(path, sources),
                Err(errno) => Err(errno.into()),
            };
        };
        let file = File::from(fs::open(path, FLAGS | OFlags::NOFOLLOW, Mode::empty())?);
        check(&file, sources)?;
        if !is_replaceable(&file, &there) {
            return Ok(Self { file, place: Place::Final { made: None }, replaced: None });
        }
        match Self::beside(path) {
            Ok(mut target) if fs::fchmod(&target.file, Mode::from_raw_mode(there.st_mode)).is_ok() => {
                target.replaced = Some(file);
                Ok(target)
            }
            _ => Ok(Self { file, place: Place::Final { made: None }, replaced: None }),
        }
    }

    fn in_place(path: &Path, sources: &[FileId]) -> Result<Self, OpenError> {
        let made = fs::stat(path).is_err();
        let file = File::from(fs::open(path, FLAGS | OFlags::CREATE, MODE)?);
        // Behind a dangling link a new file has appeared: it is what would have to go, not the link.
        let made = if made { std::fs::canonicalize(path).ok() } else { None };
        let target = Self { file, place: Place::Final { made }, replaced: None };
        check(&target.file, sources)?;
        Ok(target)
    }

    fn beside(path: &Path) -> Result<Self, Errno> {
        let nameless = if path.as_os_str().is_empty() { Errno::NOENT } else { Errno::ISDIR };
        let name = path.file_name().ok_or(nameless)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beside = Beside { directory: fs::open(parent, flags, Mode::empty())?, name };
        match fs::openat(&beside.directory, ".", FLAGS | OFlags::TMPFILE, MODE) {
            Ok(file) if fs::stat(handle(&file)).is_ok() => {
                return Ok(Self { file: File::from(file), place: Place::Unnamed(beside), replaced: None });
            }
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::ACCESS)) => return Err(errno),
            // Without /proc there is no way to name such a file; many file systems have none.
            _ => {}
        }
        let temporary = random_name()?;
        let file = fs::openat(&beside.directory, &temporary, FLAGS | OFlags::CREATE | OFlags::EXCL, MODE)?;
        Ok(Self { file: File::from(file), place: Place::Named { beside, temporary }, replaced: None })
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether both would get the same name, or are the same file.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let id = |file: &File| fs::fstat(file).map(|stat| FileId::of(&stat)).ok();
        let at = |place: &Place| match place {
            Place::Unnamed(beside) | Place::Named { beside, .. } => {
                Some((fs::fstat(&beside.directory).map(|stat| FileId::of(&stat)).ok()?, beside.name.clone()))
            }
            Place::Final { .. } | Place::Done => None,
        };
        id(&self.file) == id(&other.file) || at(&self.place).is_some_and(|place| at(&other.place) == Some(place))
    }

    /// Gives the file its name. `durable`: content and name are on the disk then.
    ///
    /// # Errors
    /// The host's; a file of this run's is gone then.
    pub fn keep(mut self, durable: bool) -> io::Result<Kept> {
        if durable {
            self.file.sync_all()?;
        }
        if let Place::Unnamed(beside) = &self.place {
            let link =
                |name: &OsStr| fs::linkat(CWD, handle(&self.file), &beside.directory, name, AtFlags::SYMLINK_FOLLOW);
            let named = if self.replaced.is_none() { link(&beside.name) } else { Err(Errno::EXIST) };
            match named {
                Ok(()) => return self.kept(durable),
                // A link can't replace a name, so this one does with less and is then moved.
                Err(Errno::EXIST) => {
                    let temporary = random_name()?;
                    link(&temporary)?;
                    let Place::Unnamed(beside) = std::mem::replace(&mut self.place, Place::Done) else {
                        return Ok(Kept::Old);
                    };
                    self.place = Place::Named { beside, temporary };
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        if let Place::Named { beside, temporary } = &self.place {
            fs::renameat(&beside.directory, temporary, &beside.directory, &beside.name)?;
        }
        self.kept(durable)
    }

    fn kept(&mut self, durable: bool) -> io::Result<Kept> {
        let is_new = self.replaced.is_none();
        Ok(match std::mem::replace(&mut self.place, Place::Done) {
            Place::Unnamed(beside) | Place::Named { beside, .. } => {
                if durable {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    fs::fsync(fs::openat(&beside.directory, ".", flags, Mode::empty())?)?;
                }
                if is_new { Kept::Beside(beside) } else { Kept::Old }
            }
            Place::Final { made: Some(path) } => Kept::At(path),
            Place::Final { made: None } | Place::Done => Kept::Old,
        })
    }
}

/// A file that has its name, and whether this run made it there.
#[derive(Debug)]
pub enum Kept {
    /// In this directory, where no such name was.
    Beside(Beside),
    /// At this path, likewise.
    At(PathBuf),
    /// In place of another.
    Old,
}

impl Kept {
    /// Removes it again, unless there was one before.
    pub fn take_back(self) {
        // Nothing more can be done about a file that does not go; the run has failed already.
        let _ = match self {
            Self::Beside(beside) => fs::unlinkat(&beside.directory, &beside.name, AtFlags::empty()),
            Self::At(path) => fs::unlink(path),
            Self::Old => Ok(()),
        };
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Nothing more can be done about a file that does not go; the run has failed already.
        let _ = match &self.place {
            Place::Named { beside, temporary } => fs::unlinkat(&beside.directory, temporary, AtFlags::empty()),
            Place::Final { made: Some(path) } => fs::unlink(path),
            Place::Unnamed(_) | Place::Final { made: None } | Place::Done => Ok(()),
        };
    }
}

/// Only a regular file, no source, that nobody uses.
fn check(file: &File, sources: &[FileId]) -> Result<(), OpenError> {
    let stat = fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenError::Kind);
    }
    if sources.contains(&FileId::of(&stat)) {
        return Err(OpenError::SameFile);
    }
    lock::claim(file.as_fd(), Claim::CREATE).map_err(OpenError::Lock)
}

/// Whether a new file under the same name differs from this one in nothing but content.
fn is_replaceable(file: &File, named: &Stat) -> bool {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut names = [0; 256];
    let attributes = match fs::flistxattr(file, &mut names) {
        Ok(len) => names[..len].split(|&byte| byte == 0).any(|name| !name.is_empty() && name != b"security.selinux"),
        Err(Errno::OPNOTSUPP) => false,
        Err(_) => true,
    };
    let same = fs::fstat(file).is_ok_and(|stat| FileId::of(&stat) == FileId::of(named));
    same && named.st_nlink == 1 && (named.st_uid, named.st_gid) == (user, group) && !attributes
}

/// The name of an open file, also of one that has none.
fn handle(file: impl std::os::fd::AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

fn random_name() -> Result<OsString, Errno> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".instar-{:016x}", u64::from_le_bytes(random)).into())
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
