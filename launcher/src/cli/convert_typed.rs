//! What was typed after `convert`, held against itself: which options go together, in qemu-img's words.
#![forbid(unsafe_code)]

use super::create_options::Given;
use super::grammar::{Parsed, UsageError};
use super::image_options::{MOST_LANES, check_object, lanes, source_cache};
use crate::config::Values;
use crate::disk::bytes::CacheMode;
use crate::disk::existing::Content;
use crate::job::convert::{Backing, DataFile};
use crate::job::limits::{SPARSE_LEN, SPARSE_LEN_MAX};
use crate::job::name::{ImageName, Reading, format_of};
use crate::job::reserve::Preallocation;
use crate::job::size;
use crate::render::escape::shown;
use instar_abi::format::Format;
use instar_abi::request::{LayerId, Qcow2Options, SnapshotName, TargetFormat};
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU64;
use std::path::PathBuf;

/// What was typed.
pub(super) struct Typed {
    pub sources: Vec<OsString>,
    pub target: OsString,
    pub reading: Reading,
    pub target_reading: Reading,
    pub format: Option<OsString>,
    pub target_format: TargetFormat,
    pub existing: Option<Content>,
    pub top_only: bool,
    pub backing: Option<Backing>,
    pub data_file: Option<DataFile>,
    pub preallocation: Preallocation,
    pub snapshot: Option<SnapshotName>,
    pub sparse_len: u32,
    pub any_order: bool,
    pub salvage: bool,
    pub offload: bool,
    pub rate: Option<NonZeroU64>,
    pub shared: bool,
    pub cache: CacheMode,
    pub source_cache: CacheMode,
    pub lanes: u8,
    pub shows_progress: bool,
    pub warns: bool,
    pub allow: Vec<PathBuf>,
    pub asked: Vec<&'static str>,
}

impl Typed {
    /// `set`: what the configuration says of what was not typed.
    pub fn new(parsed: &Parsed, set: Option<&Values>) -> Result<Self, UsageError> {
        let alone = |words: &str| Err(UsageError::alone(words));
        let sparse_len =
            parsed.last("sparse-size").map_or(Ok(set.map_or(SPARSE_LEN, |set| set.sparse_len)), sparse_len)?;
        let lanes = parsed
            .last("parallel")
            .map_or_else(|| Ok(set.and_then(|set| set.workers).unwrap_or_else(lanes)), parallel)?;
        let rate = parsed.last("rate").map_or(Ok(None), rate)?;
        let snapshot = parsed.last("snapshot").map(snapshot).transpose()?;
        parsed.all("object").try_for_each(check_object)?;
        let names = parsed.names();
        let [sources @ .., target] = &names[..] else { return alone("Must specify image file name") };
        if sources.is_empty() {
            return alone("Must specify image file name");
        }
        let image_opts = parsed.flag("image-opts");
        let format = parsed.last("format").map(OsStr::to_owned);
        let target_opts = parsed.flag("target-image-opts");
        let exclusive = "--image-opts and --format are mutually exclusive";
        if (format.is_some() && image_opts) || (target_opts && parsed.last("output-format").is_some()) {
            return alone(exclusive);
        }
        let existing = existing(parsed)?;
        if parsed.flag("copy-range") {
            let with = [("sparse-size", parsed.last("sparse-size").is_some()), ("compress", parsed.flag("compress"))];
            match with.into_iter().find(|(_, given)| *given) {
                Some(("compress", _)) => return alone("Cannot enable copy offloading when -c is used"),
                Some(_) => return alone("Cannot enable copy offloading when -S is used"),
                None if parsed.flag("salvage") => return alone("Cannot use copy offloading in salvaging mode"),
                None => {}
            }
        }
        if sources.len() > 1 && snapshot.is_some() {
            return alone("No support for concatenating multiple snapshot");
        }
        let new = NewImage::new(parsed, target, existing.is_some())?;
        // qemu-img asks neither what it is nor whether the target names it.
        let top_only = existing.is_some() && parsed.last("backing").is_some();
        if sources.len() > 1 && (top_only || new.backing.is_some()) {
            return alone(
                "Having a backing file for the target makes no sense when concatenating multiple input images",
            );
        }
        if top_only && existing == Some(Content::Zeros) {
            return alone("Cannot use --target-is-zero when the destination image has a backing file");
        }
        let cache = parsed.last("cache").map_or("unsafe".into(), |mode| mode.to_string_lossy());
        let Some(cache) = CacheMode::from_name(&cache) else {
            return Err(UsageError::alone(format!("Invalid cache option: {}", shown(cache.as_bytes()))));
        };
        let source_cache = source_cache(parsed)?;
        let reading = |options: bool| if options { Reading::Options } else { Reading::Name };
        let typed = Self {
            sources: sources.iter().map(|&source| source.to_owned()).collect(),
            target: (*target).to_owned(),
            reading: reading(image_opts),
            target_reading: reading(target_opts),
            format,
            target_format: new.format,
            existing,
            top_only,
            backing: new.backing,
            data_file: new.data_file,
            preallocation: new.preallocation,
            snapshot,
            sparse_len,
            any_order: parsed.flag("oob-writes"),
            salvage: parsed.flag("salvage"),
            offload: parsed.flag("copy-range"),
            warns: !parsed.flag("quiet"),
            rate,
            shared: parsed.flag("force-share"),
            cache,
            source_cache,
            lanes,
            shows_progress: parsed.flag("progress") && !parsed.flag("quiet"),
            allow: parsed.all("allow-backing").map(PathBuf::from).collect(),
            asked: Vec::new(),
        };
        Ok(Self { asked: typed.asked(), ..typed })
    }

    /// What an op image may not have yet, by the options' names.
    fn asked(&self) -> Vec<&'static str> {
        let plain = Qcow2Options::default();
        let qcow2 = match &self.target_format {
            TargetFormat::Raw | TargetFormat::Existing { .. } => &plain,
            TargetFormat::Qcow2(options) => options,
        };
        let all = [
            ("several sources", self.sources.len() > 1),
            ("-l", self.snapshot.is_some()),
            ("-n", self.existing.is_some()),
            ("-B", self.top_only || self.backing.is_some()),
            ("-W", self.any_order),
            ("--salvage", self.salvage),
            ("-C", self.offload),
            ("-o data_file", self.data_file.is_some()),
            ("-o preallocation", qcow2.preallocated),
            ("-c", qcow2.compress),
            ("-o compat", qcow2.version != plain.version),
            ("-o cluster_size", qcow2.cluster_bits != plain.cluster_bits),
            ("-o refcount_bits", qcow2.refcount_order != plain.refcount_order),
            ("-o lazy_refcounts", qcow2.lazy_refcounts),
            ("-o extended_l2", qcow2.extended_l2),
            ("-o compression_type", qcow2.compression != plain.compression),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }
}

/// `-n` and what belongs to it.
fn existing(parsed: &Parsed) -> Result<Option<Content>, UsageError> {
    let skips = parsed.flag("no-create");
    for (id, words) in [
        ("target-is-zero", "--target-is-zero requires use of -n flag"),
        ("target-image-opts", "--target-image-opts requires use of -n flag"),
    ] {
        if parsed.flag(id) && !skips {
            return Err(UsageError::alone(words));
        }
    }
    let content = if parsed.flag("target-is-zero") { Content::Zeros } else { Content::Unknown };
    Ok(skips.then_some(content))
}

/// The target: its format with its options, and the files it names.
struct NewImage {
    format: TargetFormat,
    backing: Option<Backing>,
    data_file: Option<DataFile>,
    preallocation: Preallocation,
}

impl NewImage {
    /// An image that names nothing.
    fn plain(format: TargetFormat) -> Self {
        Self { format, backing: None, data_file: None, preallocation: Preallocation::Off }
    }

    fn new(parsed: &Parsed, target: &OsStr, exists: bool) -> Result<Self, UsageError> {
        let format = match named_format(parsed, target) {
            Some(format) => format,
            None => target_format(parsed.last("output-format"))?,
        };
        let mut given = Given::default();
        parsed.all("options").try_for_each(|list| given.add(list, format))?;
        let alone = |words: &str| Err(UsageError::alone(words));
        let compress = parsed.flag("compress");
        if exists {
            return match () {
                () if !given.is_empty() => alone("-o has no effect when skipping image creation"),
                () if format == Format::Raw && compress => alone("Compression not supported for this file format"),
                () if format == Format::Raw => Ok(Self::plain(TargetFormat::Raw)),
                // The job knows which layer it is.
                () => Ok(Self::plain(TargetFormat::Existing { image: LayerId(0), compress })),
            };
        }
        let (file, of_file) = given.backing();
        let file = parsed.last("backing").map(OsStr::as_encoded_bytes).or(file).filter(|name| !name.is_empty());
        let of_file = parsed.last("backing-format").map(OsStr::as_encoded_bytes).or(of_file);
        let creating = |words: &str| {
            let (target, format) = (shown(target.as_encoded_bytes()), format.name());
            UsageError::alone(format!("{target}: error while converting {format}: {words}"))
        };
        if format == Format::Raw {
            return match () {
                () if file.is_some() => alone("Backing file not supported for file format 'raw'"),
                () if of_file.is_some() => alone("Backing file format not supported for file format 'raw'"),
                () if compress => alone("Compression not supported for this file format"),
                () => {
                    given.check_supported()?;
                    let preallocation = given.preallocation(format, creating)?;
                    Ok(Self { preallocation, ..Self::plain(TargetFormat::Raw) })
                }
            };
        }
        if file.is_some() && of_file.is_none() {
            return alone("Use of backing file requires explicit backing format");
        }
        if compress && !matches!(given.preallocation(format, creating), Ok(Preallocation::Off)) {
            return alone("Compression and preallocation not supported at the same time");
        }
        given.check_supported()?;
        let mut options = given.qcow2(file.is_some(), creating)?;
        options.compress = compress;
        let data_file = given.data_file();
        if compress && data_file.is_some() {
            // qemu-img finds out when it writes the first cluster.
            return alone("error while writing at byte 0: Operation not supported");
        }
        let backing = match (file, of_file) {
            (None, None) => None,
            (None, Some(_)) => return Err(creating("Backing format cannot be used without backing file")),
            (Some(name), of_file) => {
                let of_file = of_file.unwrap_or_default();
                let format = format_of(of_file).map_err(|_| {
                    creating(&format!("Parameter 'backing-fmt' does not accept value '{}'", shown(of_file)))
                })?;
                Some(Backing { name: name.to_vec(), format })
            }
        };
        let preallocation = given.preallocation(format, creating)?;
        Ok(Self { format: TargetFormat::Qcow2(options), backing, data_file, preallocation })
    }
}

/// The format that an option string for the target names.
fn named_format(parsed: &Parsed, target: &OsStr) -> Option<Format> {
    let words = Some(target.as_encoded_bytes()).filter(|_| parsed.flag("target-image-opts"))?;
    // What is wrong with it is said later.
    let format = ImageName::parse(words, Reading::Options, None).ok()?.format();
    format.filter(|format| matches!(format, Format::Raw | Format::Qcow2))
}

/// The target's format, by name.
pub(super) fn target_format(typed: Option<&OsStr>) -> Result<Format, UsageError> {
    let name = typed.map_or(b"raw".as_slice(), OsStr::as_encoded_bytes);
    match Format::from_name(name) {
        Some(format @ (Format::Raw | Format::Qcow2)) => Ok(format),
        Some(format) => Err(UsageError::NotYet { what: format!("target format '{}'", format.name()) }),
        None => Err(UsageError::alone(format!("Unknown file format '{}'", shown(name)))),
    }
}

/// `-l`: an ID or a name, or an option string that says which.
pub(super) fn snapshot(typed: &OsStr) -> Result<SnapshotName, UsageError> {
    let typed = typed.as_encoded_bytes();
    if !typed.starts_with(b"snapshot.") {
        return Ok(SnapshotName::IdOrName(typed.to_vec()));
    }
    let (mut id, mut name) = (None, None);
    for item in super::create_options::items(typed) {
        let at = item.iter().position(|&byte| byte == b'=').unwrap_or(item.len());
        let value = item.get(at + 1..).unwrap_or(b"on").to_vec();
        match &item[..at] {
            b"snapshot.id" => id = Some(value),
            b"snapshot.name" => name = Some(value),
            key => {
                let (key, typed) = (shown(key), shown(typed));
                let text = format!("Invalid parameter '{key}'\nFailed in parsing snapshot param '{typed}'");
                return Err(UsageError::alone(text));
            }
        }
    }
    match (id, name) {
        (Some(id), None) => Ok(SnapshotName::Id(id)),
        (None, Some(name)) => Ok(SnapshotName::Name(name)),
        _ => Err(UsageError::NotYet { what: "snapshot.id and snapshot.name at once".to_owned() }),
    }
}

/// `-r`: 0 is no limit.
fn rate(typed: &OsStr) -> Result<Option<NonZeroU64>, UsageError> {
    let typed = typed.as_encoded_bytes();
    let invalid = || UsageError::alone(format!("Invalid rate limit specified: '{}'.", shown(typed)));
    size::parse(typed).map(NonZeroU64::new).ok_or_else(invalid)
}

fn sparse_len(typed: &OsStr) -> Result<u32, UsageError> {
    let typed = typed.as_encoded_bytes();
    let Some(len) = size::parse(typed) else {
        let words = format!("Invalid buffer size for sparse output specified: '{}'.", shown(typed));
        return Err(UsageError::alone(words));
    };
    let fits = u32::try_from(len).ok().filter(|len| len.is_multiple_of(512) && *len <= SPARSE_LEN_MAX);
    fits.ok_or_else(|| {
        UsageError::alone(format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to \
             {SPARSE_LEN_MAX}. Select 0 to disable sparse detection (fully allocates output)."
        ))
    })
}

fn parallel(typed: &OsStr) -> Result<u8, UsageError> {
    let text = typed.to_string_lossy();
    match text.parse::<i64>() {
        Ok(count @ 1..=16) => Ok(u8::try_from(count).map_or(1, |count| count.min(MOST_LANES))),
        Ok(_) => Err(UsageError::alone("Invalid number of coroutines specified. Must be between 1 and 16.")),
        Err(_) => {
            let words = format!("Invalid number of coroutines specified: '{}'.", shown(text.as_bytes()));
            Err(UsageError::alone(words))
        }
    }
}

/// A new image of a format, as it comes without options.
pub(super) fn new_format(typed: Option<&OsStr>) -> Result<TargetFormat, UsageError> {
    Ok(match target_format(typed)? {
        Format::Qcow2 => TargetFormat::Qcow2(Qcow2Options::default()),
        _ => TargetFormat::Raw,
    })
}
