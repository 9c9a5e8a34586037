//! Words for what the guest says went wrong.
#![forbid(unsafe_code)]

use super::{Message, below, block, could_not_open, errno_text, qcow2};
use crate::job::failure::Names;
use crate::render::escape::shown;
use instar_abi::error::{
    ChainError, DetectError, Error, ExistingError, RawError, ReadError, Resource, TargetError, WriteError,
};
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId, NeedKind};
use nix::errno::Errno;

/// The words for a guest's error; its numbers are the guest's and may be any. `errno`: what the host said of it.
pub(super) fn error(names: &Names, error: &Error, errno: Option<i32>) -> Message {
    let errno = errno.unwrap_or(Errno::EIO as i32);
    match error {
        Error::Read(error) => read(names, error, errno),
        Error::Write(error) => write(names, error, errno),
        Error::OutOfBudget(resource) => out_of_budget(names, *resource),
        Error::Detect { layer, error } => open(names, *layer, detect(error)),
        Error::UnsupportedFormat { layer, format } => {
            let text = format!("format '{}' is not supported yet by this version", format.name());
            open(names, *layer, Message::new(text))
        }
        Error::Raw { layer, error } => open(names, *layer, raw(error)),
        Error::Qcow2 { layer, error } => open(names, *layer, qcow2::error(error)),
        Error::Block { layer, format, error } => open(names, *layer, block::error(*format, *error)),
        Error::Luks { layer, error } => open(names, *layer, Message::new(qcow2::luks(error))),
        Error::Encrypted { layer } => {
            let text = "Parameter 'encrypt.key-secret' is required for cipher";
            let hint = "encrypted content is not supported yet by this version; `info` works without a key";
            open(names, *layer, Message::new(text).with_hint(hint))
        }
        Error::Chain(ChainError::NameChanged { layer, kind, found }) => {
            let what = match kind {
                NeedKind::Backing => "backing file",
                NeedKind::DataFile => "data file",
                NeedKind::Extent => "extent",
            };
            let text = format!("its {what} changed to '{}' while it was read", shown(found));
            open(names, *layer, Message::new(text))
        }
        Error::Snapshot { format } => Message::new(match format {
            Format::Qcow2 => "Failed to load snapshot: Can't find snapshot".to_owned(),
            format => format!(
                "Failed to load snapshot: Block format '{}' used by device '' does not support temporarily loading \
                 internal snapshots",
                format.name()
            ),
        }),
        Error::NoCheck { .. } => Message::new("This image format does not support checks"),
        Error::Compare { image, offset, is_content, error: why } => {
            let image = usize::try_from(image.0).ok().and_then(|index| names.tops.get(index)).unwrap_or(&names.top);
            let text = match is_content {
                true => format!("Error while reading offset {offset} of {}: {}", shown(image), errno_text(errno)),
                false => format!("Sector allocation test failed for {}", shown(image)),
            };
            // A guest may have put as many into each other as a reply holds.
            let hint = match &**why {
                Error::Compare { .. } => None,
                why => Some(self::error(names, why, Some(errno)).text),
            };
            Message { hint, ..Message::new(text) }
        }
        Error::Target(TargetError::Unsupported) if !names.asked.is_empty() => {
            Message::new(format!("not supported yet by this version: convert with {}", names.asked.join(", ")))
        }
        Error::Target(TargetError::Unsupported) | Error::WrongOp => {
            Message::new("the op image can't do what it was asked")
                .with_hint("launcher and op images don't belong together: cargo xtask build")
        }
        Error::Target(error) => target(names, error),
    }
}

/// A target that can't be made, in qemu-img's words.
fn target(names: &Names, error: &TargetError) -> Message {
    const VERSION_3: &str = "(use version=v3 or greater)";
    let format = names.target_format.unwrap_or("raw");
    let why = match error {
        TargetError::TooLarge { .. } if names.target_format.is_none() => {
            "The image size is too large (try using a larger cluster size)".to_owned()
        }
        TargetError::TooLarge { virtual_size, max } => {
            format!("The image size of {virtual_size} bytes is too large for file format '{format}' (at most {max})")
        }
        TargetError::Version { found } => format!("Invalid version {found} (2 or 3)"),
        TargetError::ClusterBits { found, min, max } => {
            format!("Cluster size must be a power of two between 2^{min} and 2^{max} bytes, not 2^{found}")
        }
        TargetError::RefcountOrder { found, max } => {
            format!("Refcount width must be a power of two and may not exceed 2^{max} bits; 2^{found} was given")
        }
        TargetError::RefcountOrderBeforeVersion3 { .. } => {
            format!("Different refcount widths than 16 bits require compatibility level 1.1 or above {VERSION_3}")
        }
        TargetError::LazyRefcountsBeforeVersion3 => {
            format!("Lazy refcounts only supported with compatibility level 1.1 and above {VERSION_3}")
        }
        TargetError::ExtendedL2BeforeVersion3 => {
            format!("Extended L2 entries are only supported with compatibility level 1.1 and above {VERSION_3}")
        }
        TargetError::CompressionBeforeVersion3 => {
            format!("Non-zlib compression type is only supported with compatibility level 1.1 and above {VERSION_3}")
        }
        TargetError::ExtendedL2ClusterBits { min, .. } => {
            let size = 1u64.checked_shl(*min).unwrap_or(0);
            format!("Extended L2 entries are only supported with cluster sizes of at least {size} bytes")
        }
        TargetError::BackingNameLen { .. } => "Could not assign backing file: Invalid argument".to_owned(),
        TargetError::HeaderLen { found, max } => {
            let hint = format!("the header with its names has {found} bytes, and a cluster only {max}");
            return about(names, "Could not assign backing file: No space left on device").with_hint(hint);
        }
        TargetError::DataFileBeforeVersion3 => {
            format!("External data files are only supported with compatibility level 1.1 and above {VERSION_3}")
        }
        TargetError::RawDataFileWithBacking => {
            "Backing file and data-file-raw cannot be used at the same time".to_owned()
        }
        TargetError::PreallocationWithBacking => {
            "Backing file and preallocation can only be used at the same time if extended_l2 is on".to_owned()
        }
        TargetError::CompressionWithPreallocation => {
            return Message::new("Compression and preallocation not supported at the same time");
        }
        TargetError::CompressionWithDataFile => {
            return Message::new("error while writing: Operation not supported")
                .with_hint("an external data file has no compressed clusters");
        }
        TargetError::Existing(error) => return existing(names, *error),
        TargetError::TooSmall { len, needed } => {
            return Message::new("output file is smaller than input file")
                .with_hint(format!("it has {len} bytes, and {needed} are needed"));
        }
        TargetError::Unsupported => "the op image can't make it".to_owned(),
    };
    about(names, &why)
}

/// What qemu-img says before a reason why a target can't be made.
fn about(names: &Names, why: &str) -> Message {
    // A target that is only measured has no name.
    let Some(format) = names.target_format else { return Message::new(why) };
    let target = names.disks.get(1).map(|name| shown(name)).unwrap_or_default();
    Message::new(format!("{target}: error while converting {format}: {why}"))
}

/// An image that exists and can't be written over.
fn existing(names: &Names, error: ExistingError) -> Message {
    let (why, hint) = match error {
        ExistingError::Snapshots { count } => {
            let why = format!("it has internal snapshots ({count}), and its content can't be replaced below them");
            (why, "qemu-img snapshot -d NAME removes one")
        }
        ExistingError::Bitmaps => {
            ("it has persistent bitmaps, which would not tell of the change".to_owned(), "qemu-img bitmap --remove")
        }
        ExistingError::Encrypted => {
            ("its content is encrypted".to_owned(), "encrypted content is not supported yet by this version")
        }
        ExistingError::DataFile => {
            let why = "its content is in an external data file".to_owned();
            (why, "an existing image with a data file is not supported yet by this version; leave out -n")
        }
        ExistingError::Corrupt => ("it is marked corrupt".to_owned(), "qemu-img check -r all repairs it"),
        ExistingError::Dirty => ("its refcounts are out of date".to_owned(), "qemu-img check -r all repairs it"),
    };
    let target = names.disks.get(1).map(|name| shown(name)).unwrap_or_default();
    Message::new(format!("Could not write to '{target}': {why}")).with_hint(hint)
}

/// A reason why a layer does not open, in qemu-img's nesting.
fn open(names: &Names, layer: LayerId, why: Message) -> Message {
    let depth = usize::try_from(layer.0).ok().and_then(|index| names.depths.get(index));
    let top = usize::try_from(layer.0).ok().and_then(|index| names.tops.get(index)).unwrap_or(&names.top);
    could_not_open(top, below(depth.copied().unwrap_or(0), why))
}

fn disk(names: &Names, disk: DiskId) -> String {
    let name = usize::try_from(disk.0).ok().and_then(|index| names.disks.get(index));
    name.map_or_else(|| format!("disk {}", disk.0), |name| shown(name))
}

fn read(names: &Names, error: &ReadError, errno: i32) -> Message {
    match error {
        ReadError::Io { disk: id, offset } => {
            let (name, why) = (disk(names, *id), errno_text(errno));
            Message::new(format!("error while reading at byte {offset} of '{name}': {why}"))
        }
        ReadError::OutOfRange { disk: id, offset, len, disk_len } => Message::new(format!(
            "error while reading {len} bytes at byte {offset} of '{}': the file has {disk_len} bytes",
            disk(names, *id)
        ))
        .with_hint("the image is truncated, or made to mislead its reader"),
        ReadError::Device { disk: id, offset } => device(names, "reading", *id, *offset),
    }
}

fn write(names: &Names, error: &WriteError, errno: i32) -> Message {
    match error {
        // qemu-img's line to the letter: clients look for a full disk in it.
        WriteError::Io { disk: id, offset } => {
            let message = Message::new(format!("error while writing at byte {offset}: {}", errno_text(errno)));
            if errno == Errno::ENOSPC as i32 {
                message.with_hint(format!("what is full: df '{}'", disk(names, *id)))
            } else {
                message
            }
        }
        WriteError::Device { disk: id, offset } => device(names, "writing", *id, *offset),
        WriteError::Capacity { disk: id, end } => {
            Message::new(format!("error while writing up to byte {end} of '{}': File too large", disk(names, *id)))
        }
    }
}

fn device(names: &Names, doing: &str, id: DiskId, offset: u64) -> Message {
    let text = format!("error while {doing} at byte {offset} of '{}': the device refused", disk(names, id));
    Message::new(text).with_hint("this is a bug in instar or in the engine")
}

fn out_of_budget(names: &Names, resource: Resource) -> Message {
    let what = match resource {
        Resource::Heap => "more memory",
        Resource::ReadBytes => "more metadata to be read",
        Resource::Steps => "more work",
        Resource::Depth => "more layers",
        Resource::Reply => "a longer answer",
    };
    let hint = match resource {
        // A check knows the tables that it has met.
        Resource::Steps => {
            "its tables lead to the same places again and again: damaged, or made to exhaust its reader; \
             `instar check` tells what is wrong with them"
        }
        Resource::Heap | Resource::ReadBytes | Resource::Depth | Resource::Reply => {
            "the image is damaged, or made to exhaust its reader"
        }
    };
    let text = format!("it asks for {what} than any honest image of its size needs");
    could_not_open(&names.top, Message::new(text)).with_hint(hint)
}

fn detect(error: &DetectError) -> Message {
    match error {
        DetectError::RawGate => Message::new("unknown format")
            .with_hint("no known header and no partition table; -f raw takes its content as it is"),
        DetectError::Mismatch { given, found } => {
            let message = Message::new(match given {
                Format::Luks => "Volume is not in LUKS format".to_owned(),
                // qemu-img's words for most formats.
                given => format!("Image is not in {} format", given.name()),
            });
            match found {
                Some(found) => message.with_hint(format!("it looks like {0}: -f {0}", found.name())),
                None => message,
            }
        }
    }
}

fn raw(error: &RawError) -> Message {
    let RawError::Window { offset, len, disk_len } = error;
    Message::new(match len {
        None => format!("Offset ({offset}) cannot be greater than size of the containing file ({disk_len})"),
        Some(len) => format!(
            "The sum of offset ({offset}) and size ({len}) has to be smaller or equal to the  \
             actual size of the containing file ({disk_len})"
        ),
    })
}
