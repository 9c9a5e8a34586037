//! What the user and the administrator allow: the part of a configuration that the gate asks. One object for every operation.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// The ground rule, before allowed directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Open nothing that an image names.
    None,
    /// Regular files beneath the directory of the image that names them.
    Dir,
    /// Any regular file the user may read.
    Any,
}

impl Ground {
    /// What a configuration may call them.
    pub const NAMES: &'static str = "\"none\", \"dir\" or \"any\"";

    /// The rule of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Dir, Self::Any].into_iter().find(|ground| ground.name() == name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Dir => "dir",
            Self::Any => "any",
        }
    }
}

/// A directory that the user allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    typed: PathBuf,     // from the root, on paper
    canonical: PathBuf, // as the kernel resolves it
}

impl Allowed {
    /// The directory to open files from.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.canonical
    }

    /// The names under which images may know it.
    pub fn names(&self) -> impl Iterator<Item = &Path> {
        [self.typed.as_path(), self.canonical.as_path()].into_iter()
    }
}

/// What may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    ground: Ground,
    allowed: Vec<Allowed>,
    depth_max: u32,
    files_max: usize,
}

/// Why there is no configuration, or no policy by it: nothing an image names is opened then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// A file can't be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The host's errno.
        errno: i32,
    },
    /// A file is no TOML.
    Syntax {
        /// The file.
        file: PathBuf,
        /// What the parser says, one line.
        message: String,
    },
    /// A file has a key that nobody knows.
    Key {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// A value is not one of those allowed.
    Value {
        /// The key or variable.
        key: &'static str,
        /// What may stand there.
        expected: String,
    },
    /// An allowed directory can't be found.
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The host's errno.
        errno: i32,
    },
}

impl PolicyError {
    /// A file that the host does not let us read.
    #[must_use]
    pub fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self::Unreadable { file: file.to_owned(), errno: error.raw_os_error().unwrap_or(0) }
    }
}

impl Policy {
    /// A policy. The directories are looked for now.
    ///
    /// # Errors
    /// [`PolicyError::Directory`].
    pub fn new<'a>(
        ground: Ground,
        allow: impl Iterator<Item = &'a Path>,
        depth_max: u32,
        files_max: usize,
    ) -> Result<Self, PolicyError> {
        let mut policy = Self { ground, allowed: Vec::new(), depth_max, files_max };
        for dir in allow {
            policy.allow(dir)?;
        }
        Ok(policy)
    }

    /// The ground rule.
    #[must_use]
    pub const fn ground(&self) -> Ground {
        self.ground
    }

    /// Directories beneath which any regular file may be opened.
    #[must_use]
    pub fn allowed(&self) -> &[Allowed] {
        &self.allowed
    }

    /// Most layers of a chain.
    #[must_use]
    pub const fn depth_max(&self) -> u32 {
        self.depth_max
    }

    /// Most files of a job.
    #[must_use]
    pub const fn files_max(&self) -> usize {
        self.files_max
    }

    fn allow(&mut self, dir: &Path) -> Result<(), PolicyError> {
        let missing = |error: std::io::Error| PolicyError::Directory {
            dir: dir.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
        };
        let canonical = dir.canonicalize().map_err(missing)?;
        let typed = super::lexical::absolute(dir).unwrap_or_else(|| canonical.clone());
        self.allowed.push(Allowed { typed, canonical });
        Ok(())
    }
}
