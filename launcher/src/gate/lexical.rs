//! Paths on paper: what can be said of a name without asking the file system.
#![forbid(unsafe_code)]

use std::path::{Component, Path, PathBuf};

/// A place to open a file from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The directory.
    pub dir: PathBuf,
    /// The name from there.
    pub rest: PathBuf,
    /// The kernel must not leave the directory on the way.
    pub beneath: bool,
}

/// Whether a relative name never climbs above where it starts.
#[must_use]
pub fn stays_beneath(name: &Path) -> bool {
    let mut depth = 0_u32;
    for component in name.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    depth > 0
}

/// A path from the root, `.` and `..` worked out. `None` without a current directory.
#[must_use]
pub fn absolute(path: &Path) -> Option<PathBuf> {
    std::path::absolute(path).ok().map(|path| normalise(&path))
}

/// An absolute path with `.` and `..` worked out on paper.
#[must_use]
pub fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    out
}

/// What of an absolute path follows a directory, whole components only; `None` if it is not beneath.
#[must_use]
pub fn beneath(dir: &Path, target: &Path) -> Option<PathBuf> {
    target.strip_prefix(dir).ok().filter(|rest| !rest.as_os_str().is_empty()).map(Path::to_owned)
}

/// Whether an absolute path leads to the kernel's own files.
#[must_use]
pub fn is_kernels(target: &Path) -> bool {
    ["/proc", "/sys", "/dev"].iter().any(|dir| target.starts_with(dir)) && !target.starts_with("/dev/shm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_dot_is_counted_out() {
        for (name, stays) in [
            ("a", true),
            ("./a", true),
            ("a/../b", true),
            ("a/b/../../c", true),
            ("..", false),
            ("../a", false),
            ("a/../../b", false),
            ("a/..", false),
            ("/a", false),
            ("a/../../dir/b", false),
            ("...", true),
            ("..a", true),
        ] {
            assert_eq!(stays_beneath(Path::new(name)), stays, "{name}");
        }
    }

    #[test]
    fn whole_components_are_compared() {
        let rest = |dir: &str, target: &str| beneath(Path::new(dir), &normalise(Path::new(target)));
        assert_eq!(rest("/imgs", "/imgs/a"), Some("a".into()));
        assert_eq!(rest("/imgs", "/imgs/./x/../a"), Some("a".into()));
        assert_eq!(rest("/imgs", "/imgs2/a"), None);
        assert_eq!(rest("/imgs", "/imgs/../etc/passwd"), None);
        assert_eq!(rest("/imgs", "/imgs"), None);
        assert_eq!(rest("/", "/a"), Some("a".into()));
    }

    #[test]
    fn the_kernels_own_paths_are_known() {
        for (path, expected) in
            [("/proc/self/fd/3", true), ("/dev/fd/3", true), ("/dev/shm/a", false), ("/processes/a", false)]
        {
            assert_eq!(is_kernels(Path::new(path)), expected, "{path}");
        }
    }
}
