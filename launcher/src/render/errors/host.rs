//! Words for what goes wrong on the host's side: names, files, locks, the gate.
#![forbid(unsafe_code)]

use super::Message;
use crate::config::nearest;
use crate::disk::lock::LockError;
use crate::gate::Refusal;
use crate::gate::policy::PolicyError;
use crate::job::name::NameError;
use crate::job::open::OpenError;
use crate::render::escape::shown;
use nix::errno::Errno;

/// `No such file or directory`: C's words for an errno.
#[must_use]
pub fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    // Rust adds the number to C's words.
    text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text).to_owned()
}

/// Why the user's words name no image.
pub(super) fn name(error: &NameError) -> Message {
    Message::new(match error {
        NameError::Empty => "The 'file' block driver requires a file name".to_owned(),
        NameError::Json { column } => {
            format!("Could not parse the JSON options: JSON parse error at character {column}")
        }
        NameError::JsonNoObject => "Invalid JSON object given".to_owned(),
        NameError::TooManyOptions => "Too many options given".to_owned(),
        NameError::Protocol { name } => format!("Unknown protocol '{}'", shown(name)),
        NameError::Driver { name } => format!("Unknown driver '{}'", shown(name)),
        NameError::UnsupportedDriver { name } => {
            format!("not supported yet by this version: driver '{}' for an image", shown(name))
        }
        NameError::DriverPlace { name: "" } => {
            "not supported yet by this version: a node without a driver below another one".to_owned()
        }
        NameError::DriverPlace { name } => {
            format!("not supported yet by this version: driver '{name}' below another one")
        }
        NameError::NoDriverNorFile => "Must specify either driver or file".to_owned(),
        NameError::NoFile => "A block device must be specified for \"file\"".to_owned(),
        NameError::NoFileName => "The 'file' block driver requires a file name".to_owned(),
        NameError::NodeReference { name } => {
            let name = shown(name);
            format!("Cannot find device='{name}' nor node-name='{name}'")
        }
        NameError::UnknownOption { driver: "file", key } => {
            format!("Block protocol 'file' doesn't support the option '{}'", shown(key.as_bytes()))
        }
        NameError::UnknownOption { driver, key } => {
            format!("Block format '{driver}' does not support the option '{}'", shown(key.as_bytes()))
        }
        NameError::UnsupportedOption { key } => {
            format!("not supported yet by this version: option '{}'", shown(key.as_bytes()))
        }
        NameError::BadNumber { key } => {
            let key = shown(key.as_bytes());
            return Message {
                more: vec![
                    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-".to_owned(),
                    "and exabytes, respectively.".to_owned(),
                ],
                ..Message::new(format!("Parameter '{key}' expects a non-negative number below 2^64"))
            };
        }
        NameError::TooDeep => "Too many nodes upon each other".to_owned(),
        NameError::SizeAlignment => "Specified size is not multiple of 512".to_owned(),
        NameError::OffsetPastEnd { offset, below } => {
            format!("Offset ({offset}) cannot be greater than size of the containing file ({below})")
        }
        // The two spaces are qemu-img's.
        NameError::SizePastEnd { offset, size, below } => format!(
            "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  \
             actual size of the containing file ({below})"
        ),
    })
}

/// Why the user's file can't be opened.
pub(super) fn open(path: &[u8], error: &OpenError) -> Message {
    match error {
        OpenError::Host(errno) => {
            let message = Message::new(format!("Could not open '{}': {}", shown(path), errno_text(*errno)));
            if *errno == Errno::EACCES as i32 {
                message.with_hint(format!("see who may read it: ls -l '{}'", shown(path)))
            } else {
                message
            }
        }
        OpenError::Kind => Message::new(format!("'file' driver requires '{}' to be a regular file", shown(path))),
        OpenError::Lock(error) => lock(path, *error),
        OpenError::Pipe => Message::new(format!("'{}' is a pipe, and can only take a raw image", shown(path))),
        OpenError::NoDirect => {
            Message::new(format!("Could not open '{}': filesystem does not support O_DIRECT", shown(path)))
        }
        OpenError::SameFile => Message::new(format!("'{}' is source and target at once", shown(path))),
    }
}

/// Why the target can't be made.
pub(super) fn create(typed: &[u8], name: &[u8], making: &str, error: &OpenError) -> Message {
    let why = match error {
        OpenError::Host(errno) => Message::new(format!("Could not create '{}': {}", shown(name), errno_text(*errno))),
        OpenError::Kind => Message::new(format!("Could not create '{}': Not a regular file", shown(name))),
        OpenError::Lock(error) => lock(name, *error),
        OpenError::Pipe => Message::new(format!("'{}' is a pipe, and can only take a raw image", shown(name))),
        OpenError::NoDirect => Message::new("filesystem does not support O_DIRECT"),
        // What qemu-img finds when it tries to lock its own source for writing.
        OpenError::SameFile => Message {
            hint: Some("source and target are one file; name another target".to_owned()),
            ..lock(name, LockError::NotGranted(crate::disk::lock::Permission::Write))
        },
    };
    why.after(format_args!("{}: error while {making}: ", shown(typed)))
}

fn lock(path: &[u8], error: LockError) -> Message {
    let text = match error {
        LockError::NotGranted(permission) => format!("Failed to get \"{}\" lock", permission.name()),
        LockError::InUse(permission) => format!("Failed to get shared \"{}\" lock", permission.name()),
        LockError::Host(errno) => return Message::new(format!("Failed to lock bytes: {}", errno_text(errno))),
    };
    let message =
        Message { more: vec![format!("Is another process using the image [{}]?", shown(path))], ..Message::new(text) };
    match error {
        LockError::InUse(_) => message.with_hint("-U reads it all the same; what is read may be inconsistent"),
        _ => message,
    }
}

/// Why the gate did not open a name. It never depends on what exists outside.
pub(super) fn refusal(what: &str, name: &[u8], path: &[u8], refusal: Refusal) -> Message {
    let quoted = shown(name);
    let outside = format!("{what} '{quoted}' is outside the directories that this image may use");
    match refusal {
        Refusal::Closed => Message::new(format!("{what} '{quoted}' is refused: images may not name files here"))
            .with_hint("INSTAR_BACKING=dir allows files beside the image"),
        Refusal::Protocol => Message::new(format!("{what} '{quoted}' is refused: an image may not choose a protocol")),
        Refusal::Name => Message::new(format!("{what} '{quoted}' is refused: the name is empty, too long or broken")),
        Refusal::Outside => {
            Message::new(outside).with_hint("--allow-backing DIR allows a directory, if you trust the image with it")
        }
        Refusal::Kernel => Message::new(format!("{what} '{quoted}' is refused: it is the kernel's own")),
        Refusal::Kind => Message::new(format!("'file' driver requires '{}' to be a regular file", shown(path))),
        Refusal::Cycle => Message::new(format!("{what} '{quoted}' creates an infinite loop")),
        Refusal::Depth { max } => {
            Message::new(format!("{what} '{quoted}' is refused: the chain has more than {max} layers"))
                .with_hint("max-depth in [gate] of the configuration allows up to 64")
        }
        Refusal::Files { max } => {
            Message::new(format!("{what} '{quoted}' is refused: the job has {max} files already"))
                .with_hint("max-disks in [gate] of the configuration allows up to 256")
        }
        Refusal::Host(errno) => Message::new(format!("Could not open '{}': {}", shown(path), errno_text(errno))),
        Refusal::Lock(error) => lock(path, error),
    }
}

/// Why there is no policy.
#[must_use]
pub fn policy(error: &PolicyError) -> Message {
    let quoted = |path: &std::path::Path| shown(path.as_os_str().as_encoded_bytes());
    Message::new(match error {
        PolicyError::Unreadable { file, errno } => {
            format!("Could not read configuration '{}': {}", quoted(file), errno_text(*errno))
        }
        PolicyError::Syntax { file, message } => {
            format!("Configuration '{}' is no TOML: {}", quoted(file), shown(message.as_bytes()))
        }
        PolicyError::Key { file, key } => {
            let (file, nearest) = (quoted(file), nearest(key));
            let text =
                format!("Configuration '{file}': unknown key '{}'; the nearest is '{nearest}'", shown(key.as_bytes()));
            return Message::new(text).with_hint("instar config --help lists the keys");
        }
        PolicyError::Value { key, expected } => format!("{key} must be {expected}"),
        PolicyError::Directory { dir, errno } => {
            format!("Could not find allowed directory '{}': {}", quoted(dir), errno_text(*errno))
        }
    })
}
