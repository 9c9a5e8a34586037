//! What files, environment and command line set, the strongest last: one object for every operation.
//!
//! ```text
//! built in ─▸ /etc/instar/config.toml ─▸ the user's file ─▸ environment ─▸ command line
//! ```
//!
//! A stronger source replaces what a weaker one says of a key; allowed directories add up. A file that is not understood
//! is an error of every operation: half a configuration would allow too much or too little.
#![forbid(unsafe_code)]

mod keys;
mod limited;
mod show;

pub use keys::nearest;
pub use limited::Limited;

use crate::gate::policy::{Ground, Policy, PolicyError};
use crate::job::limits::{DEPTH_MAX, FILES_MAX, SPARSE_LEN};
use keys::{KEYS, Key};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The administrator's file.
const SYSTEM_FILE: &str = "/etc/instar/config.toml";

/// Where a configuration comes from.
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
    /// The sources of this process; of the command line nothing.
    #[must_use]
    pub fn of_process() -> Self {
        let config_home = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
        let user = std::env::var_os("INSTAR_CONFIG")
            .map(PathBuf::from)
            .or_else(|| Some(config_home?.join("instar/config.toml")));
        Self {
            allow: Vec::new(),
            backing: std::env::var_os("INSTAR_BACKING"),
            allow_backing: std::env::var_os("INSTAR_ALLOW_BACKING"),
            files: user.into_iter().chain([PathBuf::from(SYSTEM_FILE)]).collect(),
        }
    }
}

/// Who says what a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is built in.
    BuiltIn,
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(&'static str),
    /// An option.
    Option(&'static str),
}

/// What a run may use up, in place of what the operation has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of heap that images may take.
    pub heap: Option<u64>,
    /// Bytes of metadata that may be read.
    pub read: Option<u64>,
    /// Wall clock.
    pub time: Option<Duration>,
    /// Bytes of the guest's memory, a multiple of 2 MiB.
    pub guest_memory: Option<u64>,
}

/// What a configuration says, each value within its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// Results are JSON where nothing else is asked for.
    pub json: bool,
    /// `info` tells more.
    pub details: bool,
    /// The ground rule of the gate.
    pub ground: Ground,
    /// Most layers of a chain.
    pub depth_max: u32,
    /// Most files of a job.
    pub files_max: usize,
    /// Unknown content is taken for what qemu-img takes it for.
    pub raw_as_qemu_img: bool,
    /// What a run may use up.
    pub limits: Limits,
    /// Bytes of zeros that become a hole.
    pub sparse_len: u32,
    /// Lanes of a conversion; `None`: one for each core.
    pub workers: Option<u8>,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            json: false,
            details: false,
            ground: Ground::Dir,
            depth_max: DEPTH_MAX,
            files_max: FILES_MAX,
            raw_as_qemu_img: false,
            limits: Limits::default(),
            sparse_len: SPARSE_LEN,
            workers: None,
        }
    }
}

/// A configuration, and who says what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    values: Values,
    /// Directories beneath which images may name files, too, as they were typed.
    allow: Vec<(PathBuf, Origin)>,
    /// Of every key that is not as built in.
    origins: BTreeMap<&'static str, Origin>,
}

impl Config {
    /// The configuration of these sources. On the host, nothing is looked at but the files.
    ///
    /// # Errors
    /// Anything that is not understood.
    pub fn load(sources: &Sources) -> Result<Self, PolicyError> {
        let mut config = Self::default();
        for file in sources.files.iter().rev() {
            match std::fs::read_to_string(file) {
                Ok(text) => config.take_file(file, &text)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(PolicyError::unreadable(file, &error)),
            }
        }
        if let Some(ground) = &sources.backing {
            const VARIABLE: &str = "INSTAR_BACKING";
            let text = ground.to_str().unwrap_or_default();
            config.values.ground = Ground::from_name(text)
                .ok_or_else(|| PolicyError::Value { key: VARIABLE, expected: Ground::NAMES.to_owned() })?;
            config.origins.insert("gate.backing", Origin::Variable(VARIABLE));
        }
        let from_environment = sources.allow_backing.iter().flat_map(std::env::split_paths);
        for dir in from_environment.filter(|dir| !dir.as_os_str().is_empty()) {
            config.allow.push((dir, Origin::Variable("INSTAR_ALLOW_BACKING")));
        }
        config.allow.extend(sources.allow.iter().map(|dir| (dir.clone(), Origin::Option("--allow-backing"))));
        Ok(config)
    }

    /// Takes a file's text.
    ///
    /// # Errors
    /// The first thing that is not understood; the configuration must not be used then.
    pub fn take_file(&mut self, file: &Path, text: &str) -> Result<(), PolicyError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| PolicyError::Syntax {
            file: file.to_owned(),
            message: error.message().to_owned(),
        })?;
        let unknown = |key: String| PolicyError::Key { file: file.to_owned(), key };
        for (section, value) in table {
            let toml::Value::Table(values) = value else { return Err(unknown(section)) };
            if !KEYS.iter().any(|key| key.section() == section) {
                return Err(unknown(section));
            }
            for (name, value) in values {
                let full = format!("{section}.{name}");
                let key = KEYS.iter().find(|key| key.name == full).ok_or_else(|| unknown(full))?;
                self.set(key, &value, file)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &Key, value: &toml::Value, file: &Path) -> Result<(), PolicyError> {
        let origin = Origin::File(file.to_owned());
        let wrong = || PolicyError::Value { key: key.name, expected: (key.expected)() };
        match key.set {
            Some(set) => {
                set(&mut self.values, value).ok_or_else(wrong)?;
                self.origins.insert(key.name, origin);
            }
            // The only key that adds up.
            None => {
                for dir in value.as_array().ok_or_else(wrong)? {
                    self.allow.push((dir.as_str().ok_or_else(wrong)?.into(), origin.clone()));
                }
            }
        }
        Ok(())
    }

    /// Keys that anybody has set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.origins.len() + usize::from(!self.allow.is_empty())
    }

    /// What it says, but for the directories.
    #[must_use]
    pub const fn values(&self) -> &Values {
        &self.values
    }

    /// What may be opened of that which images name, `more` directories included. Here the directories are looked for.
    ///
    /// # Errors
    /// [`PolicyError::Directory`].
    pub fn policy(&self, more: &[PathBuf]) -> Result<Policy, PolicyError> {
        let dirs = self.allow.iter().map(|(dir, _)| dir).chain(more);
        let Values { ground, depth_max, files_max, .. } = self.values;
        Policy::new(ground, dirs.map(PathBuf::as_path), depth_max, files_max)
    }
}

#[cfg(test)]
mod tests;
