//! The gate: which files an image may make the launcher open.
//!
//! An image names its backing and data files, and images lie. A name goes through three stages, and
//! each can only refuse:
//!
//! ```text
//! lexical     no protocol, no /proc, /sys, /dev; beneath the naming image's directory or an allowed
//!             one, `..` counted out on paper. Nothing on the file system has been touched so far,
//!             so the answer can't depend on what exists outside.
//! beneath     openat2 from that directory: the kernel follows symlinks and `..` only inside it.
//! the file    a regular file, not yet part of the chain.
//! ```
//!
//! There is one [`Policy`] for every operation; [`crate::config`] makes it.
#![forbid(unsafe_code)]

pub mod lexical;
pub mod policy;

use crate::disk::lock::{self, Claim, LockError};
use crate::job::open::{self, FileId, OpenError, Opened, path_of};
use crate::render::image_file::protocol_of;
use lexical::Inside;
use policy::{Ground, Policy};
use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// Longest name that is looked at, in bytes: the kernel's `PATH_MAX`.
const NAME_LEN_MAX: usize = 4095;

/// Why a name was not opened. What is said does not depend on anything outside the allowed directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing that an image names may be opened.
    Closed,
    /// The name starts with a protocol, `json:` among them.
    Protocol,
    /// The name is empty, too long or holds a NUL.
    Name,
    /// The name leads out of the allowed directories, or could.
    Outside,
    /// A path of the kernel's own: `/proc`, `/sys`, `/dev`.
    Kernel,
    /// Not a regular file.
    Kind,
    /// The file is part of the chain already.
    Cycle,
    /// More layers than allowed.
    Depth {
        /// As many are allowed.
        max: u32,
    },
    /// More files than allowed.
    Files {
        /// As many are allowed.
        max: usize,
    },
    /// Inside, but it can't be opened; the host's errno.
    Host(i32),
    /// Inside, but someone else uses it.
    Lock(LockError),
}

/// The files of one job, and the policy that says which may join them.
#[derive(Debug)]
pub struct Gate<'a> {
    policy: &'a Policy,
    files: Vec<FileId>,
}

impl<'a> Gate<'a> {
    /// A gate for a job whose files so far are the user's own.
    #[must_use]
    pub fn new(policy: &'a Policy, users: &[FileId]) -> Self {
        Self { policy, files: users.to_vec() }
    }

    /// Opens what the image at `naming` calls `name`, as layer number `depth` (the user's image is 1).
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn open(&mut self, naming: &Path, name: &[u8], depth: u32, claim: Claim) -> Result<Opened, Refusal> {
        if depth > self.policy.depth_max() {
            return Err(Refusal::Depth { max: self.policy.depth_max() });
        }
        let files_max = self.policy.files_max();
        if self.files.len() >= files_max {
            return Err(Refusal::Files { max: files_max });
        }
        let (file, path) = self.open_file(naming, name)?;
        let opened = open::look_at(file, path).map_err(|error| match error {
            OpenError::Host(errno) => Refusal::Host(errno),
            _ => Refusal::Kind,
        })?;
        if self.files.contains(&opened.id) {
            return Err(Refusal::Cycle);
        }
        lock::claim(opened.file.as_fd(), claim).map_err(Refusal::Lock)?;
        self.files.push(opened.id);
        Ok(opened)
    }

    fn open_file(&self, naming: &Path, name: &[u8]) -> Result<(File, PathBuf), Refusal> {
        if self.policy.ground() == Ground::None && self.policy.allowed().is_empty() {
            return Err(Refusal::Closed);
        }
        if name.is_empty() || name.len() > NAME_LEN_MAX || name.contains(&0) {
            return Err(Refusal::Name);
        }
        if protocol_of(name).is_some() {
            return Err(Refusal::Protocol);
        }
        let home = naming.parent().filter(|home| !home.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (home_absolute, name) = (lexical::absolute(home).ok_or(Refusal::Name)?, path_of(name));
        let target = lexical::normalise(&home_absolute.join(name));
        if lexical::is_kernels(&target) {
            return Err(Refusal::Kernel);
        }
        // The user sees the path as QEMU would make it.
        let shown = if name.is_absolute() { name.to_owned() } else { naming.with_file_name("").join(name) };
        let inside = match self.policy.ground() {
            Ground::Dir => self.place(home, &home_absolute, name, &target),
            Ground::None => self.place_allowed(&target),
            Ground::Any => Some(Inside { dir: home.to_owned(), rest: name.to_owned(), beneath: false }),
        };
        let inside = inside.ok_or(Refusal::Outside)?;
        open_inside(&inside).map(|file| (file, shown))
    }

    /// Where a name may be opened from: the naming image's own directory, else an allowed one.
    fn place(&self, home: &Path, home_absolute: &Path, name: &Path, target: &Path) -> Option<Inside> {
        // A relative name stays as it is, so that `..` after a symlink means what the kernel says.
        if name.is_relative() && lexical::stays_beneath(name) {
            return Some(Inside { dir: home.to_owned(), rest: name.to_owned(), beneath: true });
        }
        if name.is_absolute()
            && let Some(rest) = lexical::beneath(home_absolute, target)
        {
            return Some(Inside { dir: home.to_owned(), rest, beneath: true });
        }
        self.place_allowed(target)
    }

    fn place_allowed(&self, target: &Path) -> Option<Inside> {
        self.policy.allowed().iter().find_map(|allowed| {
            let rest = allowed.names().find_map(|dir| lexical::beneath(dir, target))?;
            Some(Inside { dir: allowed.dir().to_owned(), rest, beneath: true })
        })
    }
}

/// Opens a file beneath a directory, looking first whether it is one without opening it: opening a
/// device can do things.
fn open_inside(inside: &Inside) -> Result<File, Refusal> {
    let refuse = |errno: Errno| match errno {
        // A symlink or `..` that leads out, or a magic link.
        Errno::XDEV | Errno::LOOP => Refusal::Outside,
        errno => Refusal::Host(errno.raw_os_error()),
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = fs::openat(CWD, &inside.dir, directory, Mode::empty()).map_err(refuse)?;
    let resolve = match inside.beneath {
        true => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        false => ResolveFlags::NO_MAGICLINKS,
    };
    let open = |flags| fs::openat2(&dir, &inside.rest, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(refuse);
    let looked_at = fs::fstat(open(OFlags::PATH)?).map_err(refuse)?;
    if FileType::from_raw_mode(looked_at.st_mode) != FileType::RegularFile {
        return Err(Refusal::Kind);
    }
    let file = File::from(open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
    let opened = fs::fstat(&file).map_err(refuse)?;
    // Someone may have put another file in its place in between.
    if (opened.st_dev, opened.st_ino) == (looked_at.st_dev, looked_at.st_ino) { Ok(file) } else { Err(Refusal::Kind) }
}

#[cfg(test)]
mod tests;
