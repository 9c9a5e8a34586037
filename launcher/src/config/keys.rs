//! The keys of a configuration file: what each may be, and what it is now.

use super::Values;
use crate::gate::policy::Ground;
use crate::job::limits::{DEPTH_LIMIT, FILES_MAX, SPARSE_LEN_MAX};
use crate::job::size;
use instar_abi::layout::LANES_MAX;
use std::time::Duration;

/// Least memory of a guest: what the largest op image, its stacks and buffers take.
const GUEST_MEMORY_MIN: u64 = 64 << 20;
/// Most: the heap reaches to 1 GiB.
const GUEST_MEMORY_MAX: u64 = 1 << 30;
/// A guest's pages.
const GUEST_MEMORY_UNIT: u64 = 2 << 20;
/// Longest run, in seconds: thirty days.
const TIME_MAX: u64 = 30 * 24 * 3600;

/// One key.
pub(super) struct Key {
    /// Section and key.
    pub name: &'static str,
    /// What may stand there.
    pub expected: fn() -> String,
    /// Sets it; `None`: not what may stand there. The list of allowed directories is set elsewhere.
    pub set: Option<fn(&mut Values, &toml::Value) -> Option<()>>,
    /// What it is, as TOML; `None`: each operation has its own.
    pub get: fn(&Values) -> Option<String>,
    /// What it means, in a few words.
    pub about: &'static str,
}

impl Key {
    pub fn section(&self) -> &'static str {
        self.name.split('.').next().unwrap_or_default()
    }

    pub fn short(&self) -> &'static str {
        self.name.split('.').next_back().unwrap_or_default()
    }
}

/// Bytes: a number, or a text as the command line has it.
fn bytes(value: &toml::Value) -> Option<u64> {
    match value {
        toml::Value::Integer(number) => u64::try_from(*number).ok(),
        toml::Value::String(text) => size::parse(text.as_bytes()),
        _ => None,
    }
}

fn number<T: TryFrom<i64> + PartialOrd>(value: &toml::Value, range: std::ops::RangeInclusive<T>) -> Option<T> {
    T::try_from(value.as_integer()?).ok().filter(|number| range.contains(number))
}

fn one_of(value: &toml::Value, names: [&str; 2]) -> Option<bool> {
    names.iter().position(|name| value.as_str() == Some(name)).map(|index| index == 1)
}

fn quoted(text: &str) -> Option<String> {
    Some(format!("\"{text}\""))
}

const FORMATS: [&str; 2] = ["human", "json"];
const RAW: [&str; 2] = ["partitioned", "any"];

/// All of them, section by section.
pub(super) const KEYS: [Key; 13] = [
    Key {
        name: "output.format",
        expected: || "\"human\" or \"json\"".to_owned(),
        set: Some(|values, value| one_of(value, FORMATS).map(|json| values.json = json)),
        get: |values| quoted(FORMATS[usize::from(values.json)]),
        about: "the form of results, as --output",
    },
    Key {
        name: "output.details",
        expected: || "true or false".to_owned(),
        set: Some(|values, value| value.as_bool().map(|details| values.details = details)),
        get: |values| Some(values.details.to_string()),
        about: "info tells more, as --details",
    },
    Key {
        name: "gate.backing",
        expected: || Ground::NAMES.to_owned(),
        set: Some(|values, value| Ground::from_name(value.as_str()?).map(|ground| values.ground = ground)),
        get: |values| quoted(values.ground.name()),
        about: "which files images may name",
    },
    Key {
        name: "gate.allow",
        expected: || "a list of directories".to_owned(),
        set: None,
        get: |_| None,
        about: "directories beneath which images may name files, too",
    },
    Key {
        name: "gate.max-depth",
        expected: || format!("a number from 1 to {DEPTH_LIMIT}"),
        set: Some(|values, value| number(value, 1..=DEPTH_LIMIT).map(|depth| values.depth_max = depth)),
        get: |values| Some(values.depth_max.to_string()),
        about: "layers of a chain",
    },
    Key {
        name: "gate.max-disks",
        expected: || format!("a number from 1 to {FILES_MAX}"),
        set: Some(|values, value| number(value, 1..=FILES_MAX).map(|files| values.files_max = files)),
        get: |values| Some(values.files_max.to_string()),
        about: "files of a job",
    },
    Key {
        name: "gate.raw",
        expected: || "\"partitioned\" or \"any\"".to_owned(),
        set: Some(|values, value| one_of(value, RAW).map(|any| values.raw_as_qemu_img = any)),
        get: |values| quoted(RAW[usize::from(values.raw_as_qemu_img)]),
        about: "which unknown content is raw; any: content is guessed as by qemu-img",
    },
    Key {
        name: "limits.heap",
        expected: || "bytes from 1M to 1G".to_owned(),
        set: Some(|values, value| {
            let heap = bytes(value).filter(|heap| (1 << 20..=GUEST_MEMORY_MAX).contains(heap))?;
            values.limits.heap = Some(heap);
            Some(())
        }),
        get: |values| values.limits.heap.map(|heap| heap.to_string()),
        about: "memory that images may make a guest take",
    },
    Key {
        name: "limits.read",
        expected: || "bytes from 1M".to_owned(),
        set: Some(|values, value| {
            values.limits.read = Some(bytes(value).filter(|read| *read >= 1 << 20)?);
            Some(())
        }),
        get: |values| values.limits.read.map(|read| read.to_string()),
        about: "bytes of metadata that images may make a guest read",
    },
    Key {
        name: "limits.time",
        expected: || format!("seconds from 1 to {TIME_MAX}"),
        set: Some(|values, value| {
            values.limits.time = Some(Duration::from_secs(number(value, 1..=TIME_MAX)?));
            Some(())
        }),
        get: |values| values.limits.time.map(|time| time.as_secs().to_string()),
        about: "seconds that a guest may run",
    },
    Key {
        name: "limits.guest-memory",
        expected: || "bytes from 64M to 1G, a multiple of 2M".to_owned(),
        set: Some(|values, value| {
            let fits = |len: &u64| {
                (GUEST_MEMORY_MIN..=GUEST_MEMORY_MAX).contains(len) && len.is_multiple_of(GUEST_MEMORY_UNIT)
            };
            values.limits.guest_memory = Some(bytes(value).filter(fits)?);
            Some(())
        }),
        get: |values| values.limits.guest_memory.map(|len| len.to_string()),
        about: "memory of a guest",
    },
    Key {
        name: "convert.sparse",
        expected: || format!("bytes up to {SPARSE_LEN_MAX}, a multiple of 512"),
        set: Some(|values, value| {
            let len = bytes(value).and_then(|len| u32::try_from(len).ok());
            values.sparse_len = len.filter(|len| *len <= SPARSE_LEN_MAX && len.is_multiple_of(512))?;
            Some(())
        }),
        get: |values| Some(values.sparse_len.to_string()),
        about: "bytes of zeros that become a hole, as convert -S",
    },
    Key {
        name: "convert.workers",
        expected: || format!("a number from 1 to {LANES_MAX}"),
        set: Some(|values, value| {
            values.workers = Some(number(value, 1..=u8::try_from(LANES_MAX).unwrap_or(u8::MAX))?);
            Some(())
        }),
        get: |values| values.workers.map(|workers| workers.to_string()),
        about: "lanes of a conversion, as convert -m; unset: one for each core",
    },
];

/// The key that is spelt most like `found`.
#[must_use]
pub fn nearest(found: &str) -> &'static str {
    // A section alone is like the keys in it, and a key without its section is what it would be there.
    let like = |key: &&Key| {
        [key.name, key.section(), key.short()].map(|name| strsim::levenshtein(found, name)).into_iter().min()
    };
    KEYS.iter().min_by_key(like).map_or("", |key| key.name)
}
