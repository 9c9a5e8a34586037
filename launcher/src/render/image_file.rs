//! What the host itself knows of an image: the name the user typed and what `stat` says.
#![forbid(unsafe_code)]

use super::escape::c_string;

/// The file end of an image, from top to bottom: the image's own name, windows of the raw driver
/// between it and the file, the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Name of the image as qemu-img shows it: the file's, or a `json:` name where options say more.
    pub name: Vec<u8>,
    /// Raw nodes between image and file, top first; empty but for nested names.
    pub windows: Vec<WindowNode>,
    /// The file's own name, a plain path.
    pub path: Vec<u8>,
    /// What the file is.
    pub protocol: Protocol,
    /// Length of the file in bytes.
    pub len: u64,
    /// Bytes that the file occupies: `st_blocks` × 512.
    pub actual_size: u64,
    /// The files that it names and that hold parts of its content, in the image's order.
    pub parts: Vec<PartFile>,
}

impl ImageFile {
    /// Bytes that everything occupies which belongs to the image.
    #[must_use]
    pub fn whole_size(&self) -> u64 {
        self.parts.iter().fold(self.actual_size, |sum, part| sum.saturating_add(part.actual_size))
    }
}

/// A file that holds a part of an image's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFile {
    /// Its number among the parts.
    pub index: usize,
    /// Its path.
    pub path: Vec<u8>,
    /// Length in bytes.
    pub len: u64,
    /// Bytes that it occupies.
    pub actual_size: u64,
}

/// A raw node that shows a part of what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowNode {
    /// Its `json:` name.
    pub name: Vec<u8>,
    /// Bytes it shows, whole sectors.
    pub len: u64,
}

/// The protocol driver qemu-img would use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A regular file.
    File,
    /// A block device.
    HostDevice,
}

impl Protocol {
    /// qemu-img's name of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::HostDevice => "host_device",
        }
    }
}

/// Where a backing name leads when read beside the file that holds it; `None`: nowhere that can be told.
///
/// # Source
/// QEMU's `bdrv_make_absolute_filename` and `path_combine`: names with a protocol and absolute paths
/// stay, relative ones follow the directory part of `path`.
#[must_use]
pub fn full_backing_name(path: &[u8], backing: &[u8]) -> Option<Vec<u8>> {
    let backing = c_string(backing);
    if backing.is_empty() {
        return None;
    }
    if protocol_of(backing).is_some() || backing.starts_with(b"/") {
        return Some(backing.to_vec());
    }
    let after_slash = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    Some([&path[..after_slash], backing].concat())
}

/// The protocol that a name starts with: what stands before a colon that no slash precedes.
#[must_use]
pub fn protocol_of(name: &[u8]) -> Option<&[u8]> {
    let at = name.iter().position(|&byte| byte == b':' || byte == b'/')?;
    (name[at] == b':').then(|| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_names_combine_as_qemu_img_does() {
        for (path, backing, expected) in [
            ("b.qcow2", "a.qcow2", "a.qcow2"),
            ("sub/c.qcow2", "a.qcow2", "sub/a.qcow2"),
            ("/tmp/q/c", "../a", "/tmp/q/../a"),
            ("./c", "a", "./a"),
            ("sub/c", "/a", "/a"),
            ("sub/c", "nbd:foo", "nbd:foo"),
            ("sub/c", "json:{\"a\":1}", "json:{\"a\":1}"),
            ("sub/c", "./a:b", "sub/./a:b"),
            ("x:y/c", "a", "x:y/a"),
            ("sub/c", "a\0b", "sub/a"),
        ] {
            let full = full_backing_name(path.as_bytes(), backing.as_bytes()).expect("a name");
            assert_eq!(String::from_utf8_lossy(&full), expected, "{path} {backing}");
        }
        assert_eq!(full_backing_name(b"c", b""), None);
    }
}
