//! A private directory for one run.

use crate::vmm::guardian::Guardian;
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A directory that only this user can enter. Dropped, it is removed with all it holds; so it is when this process is
/// killed, by the guardian that comes with it.
#[derive(Debug)]
pub struct Directory(PathBuf);

/// Longest path of a socket (`sun_path`) with its end, less a name of three digits.
const PATH_LEN_MAX: usize = 108 - 5;

impl Directory {
    /// A new one where the user's sockets go, else where temporary files do.
    ///
    /// # Errors
    /// The host's.
    pub fn new() -> io::Result<(Self, Guardian)> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!("instar-{:016x}", u64::from_ne_bytes(random));
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let parents = runtime.into_iter().chain([std::env::temp_dir(), PathBuf::from("/tmp")]);
        let mut result = Err(io::ErrorKind::NotFound.into());
        for path in parents.map(|parent| parent.join(&name)) {
            if path.as_os_str().len() <= PATH_LEN_MAX {
                // Watched over before it is there: no moment is left at which it could stay behind.
                let guardian = Guardian::over(&path)?;
                result = DirBuilder::new().mode(0o700).create(&path).map(|()| (Self(path), guardian));
                if result.is_ok() {
                    break;
                }
            }
        }
        result
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a file in it.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        File::create_new(&path)?.write_all(bytes)?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing of the user's is in it; a program that still ran would be at fault.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_directory_is_private_and_leaves_nothing() {
        let (directory, _guardian) = Directory::new().expect("made");
        let mode = directory.path().metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let file = directory.write("a", b"b").expect("written");
        assert!(directory.write("a", b"c").is_err());
        assert_eq!(std::fs::read(file).expect("there"), b"b");
        let path = directory.path().to_owned();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_whose_owner_is_gone_is_removed_by_its_guardian() {
        let (directory, guardian) = Directory::new().expect("made");
        directory.write("a", b"b").expect("written");
        let path = directory.path().to_owned();
        std::mem::forget(directory);
        drop(guardian);
        assert!(!path.exists());
    }
}
