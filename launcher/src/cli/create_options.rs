//! `-o`: the options of a new image, as qemu-img reads them and in its words.
//!
//! Whatever is wrong is said before a target exists; what qemu-img has and this version has not is
//! refused by name.
#![forbid(unsafe_code)]

use super::grammar::UsageError;
use crate::job::convert::DataFile;
use crate::job::reserve::Preallocation;
use crate::job::size;
use crate::render::escape::shown;
use instar_abi::format::Format;
use instar_abi::request::{Compression, Qcow2Options};
use std::ffi::OsStr;

/// The options given, in order: key and value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(Vec<(String, Vec<u8>)>);

/// Whether a list of options asks what options there are.
#[must_use]
pub fn wants_help(list: &OsStr) -> bool {
    items(list.as_encoded_bytes()).iter().any(|item| matches!(item.as_slice(), b"help" | b"?"))
}

/// What kind of value an option takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Size,
    Number,
    Switch,
}

/// Name, kind and qemu-img's explanation of every option of a new qcow2 image; the last two columns say
/// whether it belongs to the protocol below, and whether raw has it, too.
const OPTIONS: [(&str, Kind, &str, bool, bool); 23] = [
    ("backing_file", Kind::Text, "File name of a base image", false, false),
    ("backing_fmt", Kind::Text, "Image format of the base image", false, false),
    ("cluster_size", Kind::Size, "qcow2 cluster size", false, false),
    ("compat", Kind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])", false, false),
    ("compression_type", Kind::Text, "Compression method used for image cluster compression", false, false),
    ("data_file", Kind::Text, "File name of an external data file", false, false),
    ("data_file_raw", Kind::Switch, "The external data file must stay valid as a raw image", false, false),
    ("encrypt.cipher-alg", Kind::Text, "Name of encryption cipher algorithm", false, false),
    ("encrypt.cipher-mode", Kind::Text, "Name of encryption cipher mode", false, false),
    ("encrypt.format", Kind::Text, "Encrypt the image, format choices: 'aes', 'luks'", false, false),
    ("encrypt.hash-alg", Kind::Text, "Name of encryption hash algorithm", false, false),
    ("encrypt.iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds", false, false),
    ("encrypt.ivgen-alg", Kind::Text, "Name of IV generator algorithm", false, false),
    ("encrypt.ivgen-hash-alg", Kind::Text, "Name of IV generator hash algorithm", false, false),
    ("encrypt.key-secret", Kind::Text, "ID of secret providing qcow AES key or LUKS passphrase", false, false),
    (
        "encryption",
        Kind::Switch,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        false,
        false,
    ),
    ("extended_l2", Kind::Switch, "Extended L2 tables", false, false),
    ("extent_size_hint", Kind::Size, "Extent size hint for the image file, 0 to disable", true, true),
    ("lazy_refcounts", Kind::Switch, "Postpone refcount updates", false, false),
    ("nocow", Kind::Switch, "Turn off copy-on-write (valid only on btrfs)", true, true),
    ("preallocation", Kind::Text, "Preallocation mode (allowed values: off, metadata, falloc, full)", false, true),
    ("refcount_bits", Kind::Number, "Width of a reference count entry in bits", false, false),
    ("size", Kind::Size, "Virtual disk size", false, true),
];

/// `-o help`. `has_target`: a target was named, so that the options of its protocol are told, too.
#[must_use]
pub fn help(format: Format, has_target: bool) -> String {
    let mut text = match has_target {
        true => "Supported options:\n".to_owned(),
        false => format!("Supported {} options:\n", format.name()),
    };
    for (name, kind, about, of_protocol, of_raw) in OPTIONS {
        if (format == Format::Raw && !of_raw) || (of_protocol && !has_target) {
            continue;
        }
        // Of raw, without a target, there is only what the format itself has.
        if format == Format::Raw && !has_target && name != "size" {
            continue;
        }
        let kind = match kind {
            Kind::Text => "<str>",
            Kind::Size => "<size>",
            Kind::Number => "<num>",
            Kind::Switch => "<bool (on/off)>",
        };
        let about = if format == Format::Raw { about.replace("metadata, ", "") } else { about.to_owned() };
        text += &format!("  {:<22} - {about}\n", format!("{name}={kind}"));
    }
    if !has_target {
        text += "\nThe protocol level may support further options.\n";
        text += "Specify the target filename to include those options.\n";
    }
    text
}

impl Given {
    /// Reads one `-o` after those before it.
    ///
    /// # Errors
    /// An option that the format has not, or a value of the wrong kind.
    pub fn add(&mut self, list: &OsStr, format: Format) -> Result<(), UsageError> {
        let text = list.as_encoded_bytes();
        // Several lists are joined with commas: one that begins or ends with one would say something else then.
        let doubled = text.len() - text.iter().rposition(|&byte| byte != b',').map_or(0, |at| at + 1);
        if text.is_empty() || text.starts_with(b",") || doubled % 2 == 1 {
            return Err(UsageError::alone(format!("Invalid option list: {}", shown(text))));
        }
        for item in items(text) {
            let (key, value) = key_and_value(&item, format)?;
            self.0.retain(|(known, _)| *known != key);
            self.0.push((key, value));
        }
        Ok(())
    }

    /// Whether none was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in order.
    #[must_use]
    pub fn all(&self) -> &[(String, Vec<u8>)] {
        &self.0
    }

    /// `encrypt.format`.
    #[must_use]
    pub fn encryption(&self) -> Option<&[u8]> {
        self.text("encrypt.format")
    }

    fn text(&self, key: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_slice())
    }

    fn switch(&self, key: &str) -> bool {
        self.text(key).and_then(switch).unwrap_or(false)
    }

    /// `backing_file` and `backing_fmt`.
    #[must_use]
    pub fn backing(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        (self.text("backing_file"), self.text("backing_fmt"))
    }

    /// Refuses what this version can't make, whatever the format.
    ///
    /// # Errors
    /// [`UsageError::NotYet`] with the option's name.
    pub fn check_supported(&self) -> Result<(), UsageError> {
        let refused = |key: &str| UsageError::NotYet { what: format!("option '-o {key}'") };
        let known = ["size", "extent_size_hint"];
        if let Some((key, _)) =
            self.0.iter().find(|(key, _)| known.contains(&key.as_str()) || key.starts_with("encrypt."))
        {
            return Err(refused(key));
        }
        match ["encryption", "nocow"].into_iter().find(|key| self.switch(key)) {
            Some(key) => Err(refused(key)),
            None => Ok(()),
        }
    }

    /// What is to be reserved for the image. `words` are what qemu-img says when an image can't be made.
    ///
    /// # Errors
    /// A mode that is none, or none of the format's.
    pub fn preallocation(
        &self,
        format: Format,
        words: impl Fn(&str) -> UsageError,
    ) -> Result<Preallocation, UsageError> {
        match self.text("preallocation") {
            None | Some(b"off" | b"") => Ok(Preallocation::Off),
            Some(b"metadata") if format == Format::Raw => Err(words("Unsupported preallocation mode: metadata")),
            Some(b"metadata") => Ok(Preallocation::Metadata),
            Some(b"falloc") => Ok(Preallocation::Falloc),
            Some(b"full") => Ok(Preallocation::Full),
            Some(mode) => Err(words(&match format {
                Format::Raw => format!("invalid parameter value: {}", shown(mode)),
                _ => format!("Parameter 'preallocation' does not accept value '{}'", shown(mode)),
            })),
        }
    }

    /// `data_file` and `data_file_raw`.
    #[must_use]
    pub fn data_file(&self) -> Option<DataFile> {
        let raw = self.switch("data_file_raw");
        self.text("data_file").map(|name| DataFile { name: name.to_vec(), raw })
    }

    /// The options of a qcow2 image; the files that it names are left to the caller. `words` are what qemu-img
    /// says when an image can't be made.
    ///
    /// # Errors
    /// Options that don't fit together, in the order of `qcow2_co_create` in QEMU's `block/qcow2.c`.
    pub fn qcow2(&self, has_backing: bool, words: impl Fn(&str) -> UsageError) -> Result<Qcow2Options, UsageError> {
        let preallocation = self.preallocation(Format::Qcow2, &words)?;
        const VERSION_3: &str = "(use version=v3 or greater)";
        let version = match self.text("compat") {
            None | Some(b"1.1" | b"v3") => 3,
            Some(b"0.10" | b"v2") => 2,
            Some(other) => {
                return Err(words(&format!("Parameter 'version' does not accept value '{}'", shown(other))));
            }
        };
        let compression = match self.text("compression_type") {
            None | Some(b"zlib") => Compression::Zlib,
            Some(b"zstd") => Compression::Zstd,
            Some(other) => {
                let text = format!("Parameter 'compression-type' does not accept value '{}'", shown(other));
                return Err(words(&text));
            }
        };
        let mut options = Qcow2Options { version, compression, ..Qcow2Options::default() };
        let cluster_size = self.text("cluster_size").and_then(size::parse).unwrap_or(65536);
        if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
            return Err(words("Cluster size must be a power of two between 512 and 2048k"));
        }
        options.cluster_bits = cluster_size.trailing_zeros();
        options.extended_l2 = self.switch("extended_l2");
        if options.extended_l2 && options.version < 3 {
            let text = "Extended L2 entries are only supported with compatibility level 1.1 and above";
            return Err(words(&format!("{text} {VERSION_3}")));
        }
        if options.extended_l2 && cluster_size < 16384 {
            return Err(words("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"));
        }
        options.preallocated = preallocation != Preallocation::Off;
        if options.preallocated && has_backing && !options.extended_l2 {
            let text = "Backing file and preallocation can only be used at the same time if extended_l2 is on";
            return Err(words(text));
        }
        options.lazy_refcounts = self.switch("lazy_refcounts");
        if options.lazy_refcounts && options.version < 3 {
            let text = "Lazy refcounts only supported with compatibility level 1.1 and above";
            return Err(words(&format!("{text} {VERSION_3}")));
        }
        let bits = self.text("refcount_bits").and_then(number).unwrap_or(16);
        if !bits.is_power_of_two() || bits > 64 {
            return Err(words("Refcount width must be a power of two and may not exceed 64 bits"));
        }
        options.refcount_order = bits.trailing_zeros();
        if options.version < 3 && bits != 16 {
            let text = "Different refcount widths than 16 bits require compatibility level 1.1 or above";
            return Err(words(&format!("{text} {VERSION_3}")));
        }
        let data_file = self.data_file();
        if data_file.is_none() && self.switch("data_file_raw") {
            return Err(words("data-file-raw requires data-file"));
        }
        if has_backing && self.switch("data_file_raw") {
            return Err(words("Backing file and data-file-raw cannot be used at the same time"));
        }
        if data_file.is_some() && options.version < 3 {
            let text = "External data files are only supported with compatibility level 1.1 and above";
            return Err(words(&format!("{text} {VERSION_3}")));
        }
        if options.version < 3 && options.compression != Compression::Zlib {
            let text = "Non-zlib compression type is only supported with compatibility level 1.1 and above";
            return Err(words(&format!("{text} {VERSION_3}")));
        }
        Ok(options)
    }
}

/// One item of a list, held against the options of the format.
fn key_and_value(item: &[u8], format: Format) -> Result<(String, Vec<u8>), UsageError> {
    let has = |key: &str| {
        OPTIONS.iter().find(|(known, _, _, _, of_raw)| *known == key && (*of_raw || format == Format::Qcow2))
    };
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (key, value) = match item.iter().position(|&byte| byte == b'=') {
        Some(at) => (lossy(&item[..at]), item[at + 1..].to_vec()),
        None => {
            let key = lossy(item);
            // `nolazy_refcounts` is `lazy_refcounts=off`.
            match key.strip_prefix("no").filter(|rest| has(&key).is_none() && has(rest).is_some()) {
                Some(rest) => (rest.to_owned(), b"off".to_vec()),
                None => (key, b"on".to_vec()),
            }
        }
    };
    let name = shown(key.as_bytes());
    let Some((_, kind, ..)) = has(&key) else {
        return Err(UsageError::alone(format!("Invalid parameter '{name}'")));
    };
    let typed = shown(&value);
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let fault = match kind {
        Kind::Text => None,
        Kind::Switch => switch(&value).is_none().then(|| format!("Parameter '{name}' expects 'on' or 'off'")),
        Kind::Number if number(&value).is_some() => None,
        Kind::Number if is_number(&value) => Some(format!("Value '{typed}' is too large for parameter '{name}'")),
        Kind::Number => Some(format!("Parameter '{name}' expects a number")),
        Kind::Size if size::parse(&value).is_some() => None,
        Kind::Size => {
            // What is a number, but not in range.
            let digits = value.strip_prefix(b"-").unwrap_or(&value);
            let digits = digits.strip_suffix(b"E").or_else(|| digits.strip_suffix(b"e")).unwrap_or(digits);
            Some(match is_number(digits) {
                true => format!("Value '{typed}' is out of range for parameter '{name}'"),
                false => format!(
                    "Parameter '{name}' expects a non-negative number below 2^64\n\
                     Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                     and exabytes, respectively."
                ),
            })
        }
    };
    fault.map_or(Ok((key, value)), |text| Err(UsageError::alone(text)))
}

fn number(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn switch(text: &[u8]) -> Option<bool> {
    match text {
        b"on" | b"yes" | b"true" | b"y" => Some(true),
        b"off" | b"no" | b"false" | b"n" => Some(false),
        _ => None,
    }
}

/// The items of a list; commas within them are doubled.
pub(super) fn items(text: &[u8]) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        rest = after;
        let doubled = rest.first() == Some(&b',');
        match (byte, items.last_mut()) {
            (b',', Some(item)) if doubled => {
                item.push(b',');
                rest = &rest[1..];
            }
            (b',', _) => items.push(Vec::new()),
            (byte, Some(item)) => item.push(*byte),
            (_, None) => {}
        }
    }
    items
}
