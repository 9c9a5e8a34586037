//! What the user's words for an image mean: a path, `file:…`, `json:{…}` or an option string.
//!
//! Whatever is said, at the bottom is one file. Between it and the image there may be nodes of the
//! raw driver, each showing a part of what is below.
#![forbid(unsafe_code)]

pub use super::name_error::NameError;
use super::options::Options;
use crate::render::image_file::{WindowNode, protocol_of};
use crate::render::json::{Layout, to_text};
use crate::render::qdict::{QDict, Value};
use instar_abi::control::SECTOR_LEN;
use instar_abi::format::Format;
use instar_abi::request::Window;

/// Most nodes of a name, the file not counted.
const LEVELS_MAX: usize = 8;

/// An image as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// The user's words, for messages.
    pub typed: Vec<u8>,
    /// The file, a plain path.
    pub path: Vec<u8>,
    /// Open without claims on the file: `-U`, or `force-share` among the options.
    pub shared: bool,
    /// What is below it.
    pub below: NameBelow,
    levels: Vec<Level>, // top first, never empty; all but the first are raw
}

/// What is below an image, as far as the user says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameBelow {
    /// What the image names.
    AsNamed,
    /// Nothing: `"backing": null`.
    Nothing,
    /// This, by options that begin with `backing.`.
    Image(Box<ImageName>),
}

/// A node with a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Level {
    driver: Option<Format>,       // `None`, at the top only: to be detected
    offset: Option<(Value, u64)>, // as typed, and meant
    size: Option<(Value, u64)>,
}

/// How the words are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A path, `file:…` or `json:…`.
    Name,
    /// An option string, by `--image-opts`.
    Options,
}

impl ImageName {
    /// Reads the user's words. A `format` given by `-f` goes before one among the options.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn parse(typed: &[u8], reading: Reading, format: Option<Format>) -> Result<Self, NameError> {
        let mut name = match (reading, typed.strip_prefix(b"json:")) {
            (Reading::Options, _) => Self::from_options(Options::from_list(typed)?)?,
            (Reading::Name, Some(json)) => {
                let json = str::from_utf8(json).map_err(|error| NameError::Json { column: error.valid_up_to() + 1 })?;
                Self::from_options(Options::from_json(json)?)?
            }
            (Reading::Name, None) => Self::from_path(plain_path(typed)?),
        };
        name.typed = typed.to_vec();
        if format.is_some() {
            name.set_format(format);
        }
        match name.levels.first_mut() {
            // Only raw has these options, so whoever gives them means raw.
            Some(top) if top.driver.is_none() && top.is_window() => top.driver = Some(Format::Raw),
            Some(Level { driver, offset: Some(_), .. }) if *driver != Some(Format::Raw) => {
                return Err(unknown_option(*driver, "offset"));
            }
            Some(Level { driver, size: Some(_), .. }) if *driver != Some(Format::Raw) => {
                return Err(unknown_option(*driver, "size"));
            }
            _ => {}
        }
        Ok(name)
    }

    /// An image of a plain path.
    #[must_use]
    pub fn from_path(path: Vec<u8>) -> Self {
        Self { typed: path.clone(), path, shared: false, below: NameBelow::AsNamed, levels: vec![Level::default()] }
    }

    fn from_options(mut options: Options) -> Result<Self, NameError> {
        let mut name = Self { levels: Vec::new(), ..Self::from_path(Vec::new()) };
        loop {
            if !name.levels.is_empty()
                && let Some(path) = file_node(&mut options)?
            {
                return Ok(Self { path, ..name });
            }
            if name.levels.len() == LEVELS_MAX {
                return Err(NameError::TooDeep);
            }
            options = name.take_level(options)?;
        }
    }

    /// Takes a node with a driver; returns the options of what is below it.
    fn take_level(&mut self, mut options: Options) -> Result<Options, NameError> {
        let driver = match options.take("driver") {
            None => None,
            Some(Value::Text(name)) => Some(format_of(&name)?),
            Some(_) => return Err(NameError::Driver { name: Vec::new() }),
        };
        if !self.levels.is_empty() && driver != Some(Format::Raw) {
            return Err(NameError::DriverPlace { name: driver.map_or("", Format::name) });
        }
        match options.take("file") {
            None => {}
            Some(Value::Text(name)) => return Err(NameError::NodeReference { name }),
            Some(_) => return Err(NameError::NoFile),
        }
        let below = options.take_below("file");
        if below.is_empty() {
            return Err(if driver.is_none() { NameError::NoDriverNorFile } else { NameError::NoFile });
        }
        let (offset, size) = (take_number(&mut options, "offset")?, take_number(&mut options, "size")?);
        self.levels.push(Level { driver, offset, size });
        self.shared |= match options.take("force-share") {
            Some(Value::Bool(truth)) => truth,
            Some(Value::Text(text)) => text == b"on",
            _ => false,
        };
        PLAIN.into_iter().for_each(|key| drop(options.take(key)));
        options.take_below("cache");
        if self.levels.len() == 1 && options.get("backing") == Some(&Value::Null) {
            options.take("backing");
            self.below = NameBelow::Nothing;
        }
        let backing = if self.levels.len() == 1 { options.take_below("backing") } else { Options::default() };
        if !backing.is_empty() {
            self.below = NameBelow::Image(Box::new(Self::from_options(backing)?));
        }
        match options.any_key() {
            None => Ok(below),
            Some(key) if is_known_option(key) => Err(NameError::UnsupportedOption { key: key.to_owned() }),
            Some(key) => Err(unknown_option(driver, key)),
        }
    }

    /// The format that the user gave; `None`: to be detected.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.levels.first().and_then(|top| top.driver)
    }

    /// Sets the format; `None`: to be detected.
    pub fn set_format(&mut self, format: Option<Format>) {
        if let Some(top) = self.levels.first_mut() {
            top.driver = format;
        }
    }

    /// Whether the image is a part of a raw file, so that others may write to the rest.
    #[must_use]
    pub fn is_window(&self) -> bool {
        self.levels.iter().any(Level::is_window)
    }

    /// The part of the file that the image is made of; `None`: all of it.
    ///
    /// # Errors
    /// A node that does not fit what is below it.
    pub fn window(&self, file_len: u64) -> Result<Option<Window>, NameError> {
        let places = self.places(file_len)?;
        if !self.is_window() {
            return Ok(None);
        }
        let (offset, len) = places.first().copied().unwrap_or((0, file_len));
        let to_the_end = offset.checked_add(len).is_none_or(|end| end >= file_len);
        Ok(Some(Window { offset, len: (!to_the_end).then_some(len) }))
    }

    /// Start in the file and length of each raw node, top first.
    fn places(&self, file_len: u64) -> Result<Vec<(u64, u64)>, NameError> {
        let mut places = Vec::new();
        let mut start = 0_u64;
        let mut below = sectors_up(file_len);
        for level in self.levels.iter().rev() {
            let offset = level.offset.as_ref().map_or(0, |(_, offset)| *offset);
            if offset > below {
                return Err(NameError::OffsetPastEnd { offset, below });
            }
            let size = match level.size {
                Some((_, size)) if !size.is_multiple_of(SECTOR_LEN) => return Err(NameError::SizeAlignment),
                Some((_, size)) if size > below - offset => return Err(NameError::SizePastEnd { offset, size, below }),
                Some((_, size)) => size,
                None => below - offset,
            };
            start = start.saturating_add(offset);
            below = sectors_up(size);
            places.push((start, below));
        }
        places.reverse();
        Ok(places)
    }

    /// The image's name as qemu-img shows it, once its format is known.
    #[must_use]
    pub fn shown(&self, format: Format) -> Vec<u8> {
        self.shown_from(0, format)
    }

    /// The raw nodes between the image and its file, top first.
    #[must_use]
    pub fn windows(&self, file_len: u64) -> Vec<WindowNode> {
        let places = self.places(file_len).unwrap_or_default();
        let node = |(index, &(_, len))| WindowNode { name: self.shown_from(index, Format::Raw), len };
        places.iter().enumerate().skip(1).map(node).collect()
    }

    /// The file's path where it says all, else a `json:` name.
    fn shown_from(&self, index: usize, top: Format) -> Vec<u8> {
        let levels = self.levels.get(index..).unwrap_or_default();
        if !levels.iter().any(Level::is_window) {
            return self.path.clone();
        }
        let file = [("driver", Value::text("file")), ("filename", Value::text(&self.path))];
        let mut node = file.into_iter().collect::<QDict>();
        for (depth, level) in levels.iter().enumerate().rev() {
            let format = if depth == 0 { top } else { Format::Raw };
            let below = std::mem::take(&mut node);
            node.put("driver", Value::text(format.name()));
            if let Some((typed, _)) = &level.offset {
                node.put("offset", typed.clone());
            }
            if let Some((typed, _)) = &level.size {
                node.put("size", typed.clone());
            }
            node.put("file", Value::Object(below));
        }
        [b"json:", to_text(&Value::Object(node), Layout::Compact).as_bytes()].concat()
    }
}

impl Level {
    const fn is_window(&self) -> bool {
        self.offset.is_some() || self.size.is_some()
    }
}

/// A path as typed: `file:` cut off, other protocols refused.
fn plain_path(typed: &[u8]) -> Result<Vec<u8>, NameError> {
    let path = match protocol_of(typed) {
        None => typed.to_vec(),
        Some(b"file") => {
            let rest = &typed[b"file:".len()..];
            // As QEMU does, so that the path is not taken for a protocol again.
            if protocol_of(rest).is_some() { [b"./", rest].concat() } else { rest.to_vec() }
        }
        Some(name) => return Err(NameError::Protocol { name: name.to_vec() }),
    };
    if path.is_empty() { Err(NameError::Empty) } else { Ok(path) }
}

/// The path of a file node, if these options describe one.
fn file_node(options: &mut Options) -> Result<Option<Vec<u8>>, NameError> {
    let driver = match options.get("driver") {
        None => None,
        Some(Value::Text(name)) if matches!(name.as_slice(), b"file" | b"host_device") => options.take("driver"),
        Some(_) => return Ok(None),
    };
    let path = match options.take("filename") {
        Some(Value::Text(path)) if driver.is_some() => path,
        Some(Value::Text(path)) => plain_path(&path)?,
        _ => return Err(NameError::NoFileName),
    };
    // They choose how the host is asked, not what is read.
    ["locking", "aio", "force-share"].into_iter().chain(PLAIN).for_each(|key| drop(options.take(key)));
    options.take_below("cache");
    match options.any_key() {
        Some(key) => Err(NameError::UnknownOption { driver: "file", key: key.to_owned() }),
        None if path.is_empty() => Err(NameError::Empty),
        None => Ok(Some(path)),
    }
}

/// Options of every node that choose how the host is asked, not what is read.
const PLAIN: [&str; 5] = ["node-name", "read-only", "auto-read-only", "discard", "detect-zeroes"];

/// Options of QEMU's drivers that this version does not have.
fn is_known_option(key: &str) -> bool {
    let known = ["encrypt.", "data-file", "key-secret", "lazy-refcounts", "pass-discard", "overlap-check"];
    known.iter().any(|known| key.starts_with(known)) || key.ends_with("cache-size")
}

/// The format that the user names, after `-f` or as a driver.
///
/// # Errors
/// [`NameError`]: nobody knows it, or it is the driver of something that is no local file.
pub fn format_of(name: &[u8]) -> Result<Format, NameError> {
    let name = name.to_vec();
    match Format::from_name(&name) {
        // qemu-img has no driver of this name.
        Some(Format::Iso) => Err(NameError::Driver { name }),
        Some(format) => Ok(format),
        None if matches!(name.as_slice(), b"file" | b"host_device") => Err(NameError::UnsupportedDriver { name }),
        None if is_protocol_driver(&name) => Err(NameError::Protocol { name }),
        None => Err(NameError::Driver { name }),
    }
}

fn unknown_option(driver: Option<Format>, key: &str) -> NameError {
    NameError::UnknownOption { driver: driver.map_or("raw", Format::name), key: key.to_owned() }
}

fn take_number(options: &mut Options, key: &str) -> Result<Option<(Value, u64)>, NameError> {
    let bad = || NameError::BadNumber { key: key.to_owned() };
    let Some(value) = options.take(key) else { return Ok(None) };
    let number = match &value {
        Value::Number(number) => u64::try_from(*number).map_err(|_| bad())?,
        Value::Text(text) => super::size::parse(text).ok_or_else(bad)?,
        _ => return Err(bad()),
    };
    Ok(Some((value, number)))
}

/// Drivers of QEMU that open something else than a local file.
fn is_protocol_driver(name: &[u8]) -> bool {
    let known: [&[u8]; 20] = [
        b"nbd",
        b"http",
        b"https",
        b"ftp",
        b"ftps",
        b"ssh",
        b"rbd",
        b"iscsi",
        b"iser",
        b"gluster",
        b"nfs",
        b"nvme",
        b"host_cdrom",
        b"null-co",
        b"null-aio",
        b"vvfat",
        b"blkdebug",
        b"blkverify",
        b"quorum",
        b"throttle",
    ];
    known.contains(&name)
}

fn sectors_up(len: u64) -> u64 {
    len.checked_next_multiple_of(SECTOR_LEN).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(typed: &str) -> Result<ImageName, NameError> {
        ImageName::parse(typed.as_bytes(), Reading::Name, None)
    }

    fn options(typed: &str) -> Result<ImageName, NameError> {
        ImageName::parse(typed.as_bytes(), Reading::Options, None)
    }

    fn shown(name: &ImageName) -> String {
        String::from_utf8(name.shown(Format::Qcow2)).expect("ASCII")
    }

    #[test]
    fn paths_are_read_as_qemu_img_reads_them() {
        for (typed, path) in [
            ("a.raw", "a.raw"),
            ("./x:y", "./x:y"),
            ("file:a.raw", "a.raw"),
            ("file:x:y", "./x:y"),
            ("/a/b:c", "/a/b:c"),
            (r#"json:{"file.filename":"a.raw"}"#, "a.raw"),
            (r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"x:y"}}"#, "x:y"),
        ] {
            let found = name(typed).expect("a name");
            assert_eq!((shown(&found).as_str(), found.path.as_slice()), (path, path.as_bytes()), "{typed}");
            assert_eq!(found.window(1000), Ok(None));
        }
        assert_eq!(name("nbd://x"), Err(NameError::Protocol { name: b"nbd".to_vec() }));
        assert_eq!(name("x:y"), Err(NameError::Protocol { name: b"x".to_vec() }));
        assert_eq!(name(""), Err(NameError::Empty));
    }

    #[test]
    fn windows_are_shown_as_typed() {
        let found = options("driver=raw,offset=1k,size=0x400,file.filename=r.raw").expect("a name");
        assert_eq!(
            String::from_utf8(found.shown(Format::Raw)).expect("ASCII"),
            r#"json:{"offset": "1k", "driver": "raw", "size": "0x400", "file": {"driver": "file", "filename": "r.raw"}}"#
        );
        assert_eq!(found.window(4096), Ok(Some(Window { offset: 1024, len: Some(1024) })));
        assert_eq!(found.windows(4096), []);
        let nested = r#"json:{"driver":"qcow2","file":{"driver":"raw","offset":512,"file":{"filename":"a"}}}"#;
        let found = name(nested).expect("a name");
        let inner = r#"{"offset": 512, "driver": "raw", "file": {"driver": "file", "filename": "a"}}"#;
        assert_eq!(shown(&found), format!(r#"json:{{"driver": "qcow2", "file": {inner}}}"#));
        assert_eq!(found.window(1030), Ok(Some(Window { offset: 512, len: None })));
        assert_eq!(found.windows(1030), [WindowNode { name: format!("json:{inner}").into_bytes(), len: 1024 }]);
    }

    #[test]
    fn windows_upon_windows_add_up() {
        let inner = r#"{"driver":"raw","offset":1024,"size":4096,"file":{"filename":"a"}}"#;
        let found = name(&format!(r#"json:{{"driver":"raw","offset":512,"file":{inner}}}"#)).expect("a name");
        assert_eq!(found.window(1 << 20), Ok(Some(Window { offset: 1536, len: Some(3584) })));
        assert_eq!(found.windows(1 << 20).len(), 1);
        assert_eq!(found.windows(1 << 20)[0].len, 4096);
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let at = |text: &str| options(&format!("driver=raw,{text},file.filename=a")).expect("a name").window(4096);
        assert_eq!(at("size=1000"), Err(NameError::SizeAlignment));
        assert_eq!(at("offset=4097"), Err(NameError::OffsetPastEnd { offset: 4097, below: 4096 }));
        assert_eq!(at("offset=512,size=4096"), Err(NameError::SizePastEnd { offset: 512, size: 4096, below: 4096 }));
    }

    #[test]
    fn what_we_do_not_have_is_refused_by_name() {
        let text = |text: &str| text.to_owned();
        for (typed, error) in [
            ("driver=raw", NameError::NoFile),
            ("filename=a", NameError::NoDriverNorFile),
            ("r.raw", NameError::NodeReference { name: b"r.raw".to_vec() }),
            ("driver=foo,file.filename=a", NameError::Driver { name: b"foo".to_vec() }),
            ("driver=nbd,path=a", NameError::Protocol { name: b"nbd".to_vec() }),
            ("driver=raw,file.driver=nbd,file.path=a", NameError::Protocol { name: b"nbd".to_vec() }),
            ("driver=raw,file.driver=file", NameError::NoFileName),
            ("driver=raw,file.filename=a,foo=1", NameError::UnknownOption { driver: "raw", key: text("foo") }),
            (
                "driver=qcow2,file.filename=a,offset=1",
                NameError::UnknownOption { driver: "qcow2", key: text("offset") },
            ),
            (
                "driver=qcow2,file.filename=a,encrypt.key-secret=s",
                NameError::UnsupportedOption { key: text("encrypt.key-secret") },
            ),
            ("driver=raw,offset=x,file.filename=a", NameError::BadNumber { key: text("offset") }),
            ("driver=raw,file.driver=qcow2,file.file.filename=a", NameError::DriverPlace { name: "qcow2" }),
        ] {
            assert_eq!(options(typed), Err(error), "{typed}");
        }
        let deep =
            format!("json:{}{}{}", r#"{"driver":"raw","file":"#.repeat(20), r#"{"filename":"a"}"#, "}".repeat(20));
        assert_eq!(name(&deep), Err(NameError::TooDeep));
    }

    #[test]
    fn a_format_given_beside_the_name_goes_first() {
        let typed = br#"json:{"driver":"qcow2","file":{"filename":"a"},"backing":null}"#;
        let found = ImageName::parse(typed, Reading::Name, Some(Format::Raw)).expect("a name");
        assert_eq!((found.format(), found.below), (Some(Format::Raw), NameBelow::Nothing));
        let found = ImageName::parse(typed, Reading::Name, None).expect("a name");
        assert_eq!((found.format(), found.typed.as_slice()), (Some(Format::Qcow2), typed.as_slice()));
    }
}
