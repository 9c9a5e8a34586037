//! QEMU's image locks: who uses an image, and what others may do meanwhile.
//!
//! Each permission has two bytes of the file. A shared OFD lock on the first says "I use this", one
//! on the second "nobody else may". Before relying on a permission, one looks whether anybody holds
//! the opposite byte. Two programs that lock at once may both fail; never do both succeed wrongly.
//!
//! ```text
//! byte 100 + n   someone uses permission n          n = 0  consistent read
//! byte 200 + n   someone does not share it              1  write      3  resize
//! ```
#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::os::fd::BorrowedFd;

/// First byte of the permissions in use (QEMU's `RAW_LOCK_PERM_BASE`).
const USED_BASE: i64 = 100;
/// First byte of the permissions not shared (QEMU's `RAW_LOCK_SHARED_BASE`).
const UNSHARED_BASE: i64 = 200;

/// A permission of QEMU's block layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// The content makes sense while it is read.
    ConsistentRead,
    /// Content may change.
    Write,
    /// The length may change.
    Resize,
}

impl Permission {
    const fn bit(self) -> i64 {
        match self {
            Self::ConsistentRead => 0,
            Self::Write => 1,
            Self::Resize => 3,
        }
    }

    /// QEMU's name of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConsistentRead => "consistent read",
            Self::Write => "write",
            Self::Resize => "resize",
        }
    }
}

/// What a user of a file does, and what nobody else may do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    used: &'static [Permission],
    unshared: &'static [Permission],
}

impl Claim {
    /// Describing an image: its metadata is read, so nobody may write or resize.
    pub const DESCRIBE: Self = Self { used: &[], unshared: &[Permission::Write, Permission::Resize] };
    /// Describing a part of a raw file: only its length must stay.
    pub const DESCRIBE_WINDOW: Self = Self { used: &[], unshared: &[Permission::Resize] };
    /// Describing a raw file or sharing by `-U`: nothing at all.
    pub const NONE: Self = Self { used: &[], unshared: &[] };
    /// Reading content.
    pub const READ: Self =
        Self { used: &[Permission::ConsistentRead], unshared: &[Permission::Write, Permission::Resize] };
    /// Making a new image.
    pub const CREATE: Self = Self {
        used: &[Permission::ConsistentRead, Permission::Write, Permission::Resize],
        unshared: &[Permission::Write, Permission::Resize],
    };
}

/// Why a claim could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockError {
    /// Someone does not share what we would use.
    NotGranted(Permission),
    /// Someone uses what we would not share.
    InUse(Permission),
    /// The host failed.
    Host(i32),
}

/// Makes a claim on an open file. It holds until the last descriptor of this open is closed.
///
/// A file system without such locks grants everything, as in QEMU.
///
/// # Errors
/// [`LockError`]; what was locked before it stays so until the file is closed.
///
/// # Source
/// `raw_apply_lock_bytes` and `raw_check_lock_bytes` of QEMU's `block/file-posix.c`; which claim each
/// command makes was read off `strace` of qemu-img 10.0.2.
pub fn claim(file: BorrowedFd<'_>, claim: Claim) -> Result<(), LockError> {
    if matches!(holder(file, UNSHARED_BASE), Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP)) {
        return Ok(());
    }
    let host = |errno: Errno| LockError::Host(errno as i32);
    for &permission in claim.used {
        hold(file, USED_BASE + permission.bit()).map_err(host)?;
    }
    for &permission in claim.unshared {
        hold(file, UNSHARED_BASE + permission.bit()).map_err(host)?;
    }
    for &permission in claim.used {
        if holder(file, UNSHARED_BASE + permission.bit()).map_err(host)? {
            return Err(LockError::NotGranted(permission));
        }
    }
    for &permission in claim.unshared {
        if holder(file, USED_BASE + permission.bit()).map_err(host)? {
            return Err(LockError::InUse(permission));
        }
    }
    Ok(())
}

/// Takes a shared lock of one byte.
fn hold(file: BorrowedFd<'_>, byte: i64) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&one_byte(byte, libc::F_RDLCK))).map(drop)
}

/// Whether someone else holds a lock of one byte.
fn holder(file: BorrowedFd<'_>, byte: i64) -> nix::Result<bool> {
    let mut lock = one_byte(byte, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn one_byte(byte: i64, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short, // F_RDLCK, F_WRLCK: 0 and 1
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::process::{Command, Stdio};

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).open(path).expect("opens")
    }

    #[test]
    fn claims_exclude_each_other_as_in_qemu() {
        use Permission::Write;
        for (first, second, expected) in [
            (Claim::READ, Claim::READ, Ok(())),
            (Claim::READ, Claim::DESCRIBE, Ok(())),
            (Claim::READ, Claim::NONE, Ok(())),
            (Claim::CREATE, Claim::NONE, Ok(())),
            (Claim::CREATE, Claim::READ, Err(LockError::InUse(Write))),
            (Claim::CREATE, Claim::DESCRIBE, Err(LockError::InUse(Write))),
            (Claim::CREATE, Claim::DESCRIBE_WINDOW, Err(LockError::InUse(Permission::Resize))),
            (Claim::READ, Claim::CREATE, Err(LockError::NotGranted(Write))),
            (Claim::CREATE, Claim::CREATE, Err(LockError::NotGranted(Write))),
        ] {
            let path = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
            let (a, b) = (open(&path), open(&path));
            assert_eq!(claim(a.as_fd(), first), Ok(()));
            assert_eq!(claim(b.as_fd(), second), expected, "{first:?} {second:?}");
            drop(a);
            let c = open(&path);
            drop(b);
            assert_eq!(claim(c.as_fd(), second), Ok(()), "a closed file holds nothing");
        }
    }

    #[test]
    fn qemu_img_sees_our_claims() {
        if Command::new("qemu-img").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: needs qemu-img");
            return;
        }
        let path = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
        let file = open(&path);
        file.set_len(1 << 20).expect("grows");
        let target = tempfile::NamedTempFile::new().expect("a file").into_temp_path();
        let convert = || {
            let mut command = Command::new("qemu-img");
            command.args(["convert", "-f", "raw", "-O", "raw"]).args([&path, &target]).output().expect("qemu-img runs")
        };
        claim(file.as_fd(), Claim::READ).expect("nobody else");
        assert!(convert().status.success());
        claim(file.as_fd(), Claim::CREATE).expect("nobody else");
        let refused = convert();
        assert!(!refused.status.success());
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("Failed to get shared \"write\" lock"), "{text}");
    }
}
