//! What the user and the administrator allow. One object for every operation.
#![forbid(unsafe_code)]

use crate::job::limits::{DEPTH_LIMIT, DEPTH_MAX, FILES_MAX};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The administrator's file.
const SYSTEM_FILE: &str = "/etc/instar/config.toml";

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

/// Where a policy comes from, the strongest first: command line, environment, the user's file, the
/// administrator's file.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--allow-backing DIR`, each.
    pub allow: Vec<PathBuf>,
    /// `INSTAR_BACKING`.
    pub backing: Option<OsString>,
    /// `INSTAR_ALLOW_BACKING`, directories with colons between.
    pub allow_backing: Option<OsString>,
    /// The user's file and the administrator's; a file that is not there says nothing.
    pub files: Vec<PathBuf>,
}

impl Sources {
    /// The sources of this process, and what the command line allows.
    #[must_use]
    pub fn of_process(allow: Vec<PathBuf>) -> Self {
        let config_home = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
        let user = std::env::var_os("INSTAR_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(config_home?.join("instar/config.toml")));
        Self {
            allow,
            backing: std::env::var_os("INSTAR_BACKING"),
            allow_backing: std::env::var_os("INSTAR_ALLOW_BACKING"),
            files: user.into_iter().chain([PathBuf::from(SYSTEM_FILE)]).collect(),
        }
    }
}

/// Why there is no policy: nothing an image names is opened then.
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
        expected: &'static str,
    },
    /// An allowed directory can't be found.
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The host's errno.
        errno: i32,
    },
}

impl Policy {
    /// The policy of these sources. A stronger source replaces a weaker one's ground rule and limits;
    /// allowed directories add up.
    ///
    /// # Errors
    /// Anything that is not understood: a policy half read would allow too much or too little.
    pub fn load(sources: &Sources) -> Result<Self, PolicyError> {
        let mut policy = Self { ground: Ground::Dir, allowed: Vec::new(), depth_max: DEPTH_MAX, files_max: FILES_MAX };
        for file in sources.files.iter().rev() {
            match std::fs::read_to_string(file) {
                Ok(text) => policy.take_file(file, &text)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    return Err(PolicyError::Unreadable { file: file.clone(), errno });
                }
            }
        }
        if let Some(ground) = &sources.backing {
            policy.ground = ground_of(ground.to_str().unwrap_or_default(), "INSTAR_BACKING")?;
        }
        let from_environment = sources.allow_backing.iter().flat_map(std::env::split_paths);
        for dir in from_environment.filter(|dir| !dir.as_os_str().is_empty()).chain(sources.allow.iter().cloned()) {
            policy.allow(&dir)?;
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

    /// Takes `[gate]` of a file's text; nothing but allowed directories is looked for on the host.
    ///
    /// # Errors
    /// The first thing that is not understood; the policy must not be used then.
    pub fn take_file(&mut self, file: &Path, text: &str) -> Result<(), PolicyError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| PolicyError::Syntax {
            file: file.to_owned(),
            message: error.message().to_owned(),
        })?;
        let unknown = |key: String| PolicyError::Key { file: file.to_owned(), key };
        for (section, value) in table {
            let toml::Value::Table(gate) = value else { return Err(unknown(section)) };
            if section != "gate" {
                return Err(unknown(section));
            }
            for (key, value) in gate {
                match key.as_str() {
                    "backing" => self.ground = ground_of(value.as_str().unwrap_or_default(), "gate.backing")?,
                    "allow" => {
                        let expected = PolicyError::Value { key: "gate.allow", expected: "a list of directories" };
                        for dir in value.as_array().ok_or_else(|| expected.clone())? {
                            self.allow(Path::new(dir.as_str().ok_or_else(|| expected.clone())?))?;
                        }
                    }
                    "max-depth" => {
                        let expected = PolicyError::Value { key: "gate.max-depth", expected: "a number from 1 to 64" };
                        let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
                        self.depth_max = number.filter(|depth| (1..=DEPTH_LIMIT).contains(depth)).ok_or(expected)?;
                    }
                    "max-disks" => {
                        let expected = PolicyError::Value { key: "gate.max-disks", expected: "a number from 1 to 256" };
                        let number = value.as_integer().and_then(|number| usize::try_from(number).ok());
                        self.files_max = number.filter(|files| (1..=FILES_MAX).contains(files)).ok_or(expected)?;
                    }
                    _ => return Err(unknown(format!("gate.{key}"))),
                }
            }
        }
        Ok(())
    }
}

fn ground_of(text: &str, key: &'static str) -> Result<Ground, PolicyError> {
    match text {
        "none" => Ok(Ground::None),
        "dir" => Ok(Ground::Dir),
        "any" => Ok(Ground::Any),
        _ => Err(PolicyError::Value { key, expected: "\"none\", \"dir\" or \"any\"" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_files(texts: &[&str]) -> Result<Policy, PolicyError> {
        let dir = tempfile::tempdir().expect("a directory");
        let files = texts.iter().enumerate().map(|(index, text)| {
            let file = dir.path().join(index.to_string());
            std::fs::write(&file, text).expect("written");
            file
        });
        let files = files.chain([dir.path().join("missing")]).collect();
        Policy::load(&Sources { files, ..Sources::default() })
    }

    #[test]
    fn without_any_source_the_images_directory_is_the_ground() {
        let policy = Policy::load(&Sources::default()).expect("a policy");
        assert_eq!((policy.ground(), policy.depth_max(), policy.allowed().len()), (Ground::Dir, 16, 0));
    }

    #[test]
    fn the_stronger_source_wins_and_directories_add_up() {
        let policy = from_files(&[
            "[gate]\nbacking = \"any\"\nallow = [\"/tmp\"]",
            "[gate]\nbacking = \"none\"\nmax-depth = 64\nmax-disks = 256\nallow = [\"/usr\"]",
        ]);
        let policy = policy.expect("a policy");
        assert_eq!((policy.ground(), policy.depth_max(), policy.files_max()), (Ground::Any, 64, 256));
        assert_eq!(policy.allowed().len(), 2);
        let sources = Sources {
            allow: vec!["/usr".into()],
            backing: Some("none".into()),
            allow_backing: Some("/tmp:/".into()),
            files: vec![],
        };
        let policy = Policy::load(&sources).expect("a policy");
        assert_eq!((policy.ground(), policy.allowed().len()), (Ground::None, 3));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let key = |result: Result<Policy, PolicyError>| match result {
            Err(PolicyError::Key { key, .. }) => key,
            other => format!("{other:?}"),
        };
        assert_eq!(key(from_files(&["[gate]\nbackings = \"any\""])), "gate.backings");
        assert_eq!(key(from_files(&["[gates]\n"])), "gates");
        assert_eq!(key(from_files(&["backing = \"any\""])), "backing");
        assert!(matches!(from_files(&["[gate"]), Err(PolicyError::Syntax { .. })));
        for text in
            ["backing = \"all\"", "backing = 1", "allow = \"/\"", "allow = [1]", "max-depth = 0", "max-depth = 65"]
        {
            let found = from_files(&[&format!("[gate]\n{text}")]);
            assert!(matches!(found, Err(PolicyError::Value { .. })), "{text}: {found:?}");
        }
        assert!(matches!(from_files(&["[gate]\nallow = [\"/no/such\"]"]), Err(PolicyError::Directory { .. })));
        let all = Sources { backing: Some("all".into()), ..Sources::default() };
        assert!(matches!(Policy::load(&all), Err(PolicyError::Value { .. })));
    }
}
