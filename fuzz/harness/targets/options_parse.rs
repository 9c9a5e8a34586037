use crate::layout::Script;
use instar::cli::Mode;
use instar::cli::grammar::{Grammar, Opt, Support};
use instar::config::Config;
use instar::gate::lexical;
use instar::gate::policy::PolicyError;
use instar::job::limits::{DEPTH_LIMIT, FILES_MAX};
use instar::job::name::{ImageName, Reading};
use instar::job::options::Options;
use instar::job::size;
use instar::render::escape::shown;
use instar::render::image_file::{full_backing_name, protocol_of};
use instar::render::json::{Layout, to_text};
use instar::render::qdict::Value;
use instar_abi::format::Format;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path};

/// What a user may write. Byte 0 says what the text is, byte 1 names a format, bytes 2 to 9 are the length of
/// the file; the text follows.
pub fn options_parse(data: &[u8]) {
    let mut script = Script::new(data);
    let (Some(kind), Some(format), Some(file_len)) = (script.u8(), script.u8(), script.u64()) else { return };
    let text = script.rest();
    // One more than there are formats: none given.
    let format = Format::ALL.get(usize::from(format) % (Format::ALL.len() + 1)).copied();
    match kind % 8 {
        0 => check_size(text),
        1 => check_list(text),
        2 => check_json(text),
        3 => check_name(text, Reading::Name, format, file_len),
        4 => check_name(text, Reading::Options, format, file_len),
        5 => check_policy(text),
        6 => check_path(text),
        _ => check_arguments(text, format.is_some()),
    }
}

/// The size, worked out in 128 bits and tenths of digits, is the one that was parsed.
fn check_size(text: &[u8]) {
    let parsed = size::parse(text);
    if let Some((expected, slack)) = size_of(text) {
        let distance = parsed.zip(expected).map(|(parsed, expected)| expected.abs_diff(parsed.into()));
        let agrees = if parsed.is_some() && expected.is_some() {
            distance <= Some(slack)
        } else {
            expected.is_none() && parsed.is_none()
        };
        assert!(agrees, "a size differs: {parsed:?} {expected:?} {:?}", shown(text));
    }
    if let Some(bytes) = parsed {
        assert_eq!(size::parse(bytes.to_string().as_bytes()), Some(bytes), "printed and parsed again");
        assert_eq!(size::parse(format!("{bytes:#x}").as_bytes()), Some(bytes));
        assert_eq!(size::parse(format!("{bytes}b").as_bytes()), Some(bytes));
    }
}

/// The size, if the text is one, and by how much a fraction, which is a double, may differ from it. `None`: not worked out here.
fn size_of(text: &[u8]) -> Option<(Option<u128>, u128)> {
    let space = text.iter().take_while(|byte| b" \t\n\x0b\x0c\r".contains(byte)).count();
    let text = &text[space..];
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    let value =
        |text: &[u8]| text.iter().try_fold(0u128, |n, digit| n.checked_mul(10)?.checked_add((digit - b'0').into()));
    let bounded = |bytes: Option<u128>| Some((bytes.filter(|bytes| *bytes <= u64::MAX.into()), 0));
    if let Some(hex) = text.strip_prefix(b"0x").or(text.strip_prefix(b"0X")) {
        let sound = !hex.is_empty() && hex.iter().all(u8::is_ascii_hexdigit);
        let fold = |n: u128, digit: &u8| n.checked_mul(16)?.checked_add(char::from(*digit).to_digit(16)?.into());
        return bounded(if sound { hex.iter().try_fold(0, fold) } else { None });
    }
    let Some((last, front)) = text.split_last() else { return Some((None, 0)) };
    let power = b"bkmgtpe".iter().position(|letter| letter.eq_ignore_ascii_case(last));
    let (number, unit) = match power {
        Some(power) => (front, 1u128 << (10 * power)),
        None => (text, 1),
    };
    let mut parts = number.splitn(2, |byte| *byte == b'.');
    let (whole, fraction) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Some((None, 0));
    }
    let has_part = fraction.iter().any(|digit| *digit != b'0');
    if fraction.len() > 12 && has_part {
        return None;
    }
    if unit == 1 && has_part {
        return Some((None, 0));
    }
    if !has_part {
        return bounded(value(whole).and_then(|whole| whole.checked_mul(unit)));
    }
    let (Some(whole), Some(part)) = (value(whole), value(fraction)) else { return Some((None, 0)) };
    let tenth = 10u128.pow(u32::try_from(fraction.len()).expect("at most 12"));
    // Rounded to the nearest byte, halves up; a double has 53 bits.
    let slack = (unit >> 52) + 1;
    let bytes = whole.checked_mul(unit).and_then(|whole| whole.checked_add((part * unit * 2 + tenth) / (tenth * 2)));
    let is_at_the_edge = bytes.is_some_and(|bytes| bytes.abs_diff(1 << 64) <= slack);
    if is_at_the_edge { None } else { bounded(bytes).map(|(bytes, _)| (bytes, slack)) }
}

/// Options printed and parsed again are the same options.
fn check_list(text: &[u8]) {
    let Ok(options) = Options::from_list(text) else { return };
    let mut list = Vec::new();
    let mut left = options.clone();
    while let Some(key) = left.any_key().map(str::to_owned) {
        let Some(Value::Text(value)) = left.take(&key) else { panic!("option {key:?} of a list is no text") };
        // Behind an empty value, a key's own comma would double the one before it.
        if key.starts_with(',') {
            return;
        }
        if !list.is_empty() {
            list.push(b',');
        }
        for byte in key.bytes().chain([b'=']).chain(value) {
            list.extend(if byte == b',' { b",,".as_slice() } else { std::slice::from_ref(&byte) });
        }
    }
    assert_eq!(Options::from_list(&list), Ok(options), "{:?}", shown(&list));
}

fn check_json(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    let Ok(options) = Options::from_json(text) else { return };
    let mut members = Vec::new();
    let mut left = options.clone();
    while let Some(key) = left.any_key().map(str::to_owned) {
        let value = match left.take(&key) {
            Some(Value::Null) => "null".to_owned(),
            Some(Value::Bool(truth)) => truth.to_string(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Text(text)) => json_string(str::from_utf8(&text).expect("JSON text is UTF-8")),
            other => panic!("option {key:?} is {other:?}"),
        };
        members.push(format!("{}:{value}", json_string(&key)));
    }
    assert_eq!(Options::from_json(&format!("{{{}}}", members.join(","))), Ok(options));
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn check_name(text: &[u8], reading: Reading, format: Option<Format>, file_len: u64) {
    let _ = protocol_of(text);
    let _ = full_backing_name(text, &text[text.len() / 2..]);
    let Ok(name) = ImageName::parse(text, reading, format) else { return };
    assert_eq!(name.typed, text);
    assert!(!name.path.is_empty(), "a name without a path");
    assert!(format.is_none() || name.format() == format, "-f goes before what the options say");
    let window = name.window(file_len);
    if let Ok(Some(window)) = window {
        assert!(name.is_window());
        let end = u128::from(window.offset) + u128::from(window.len.unwrap_or(0));
        assert!(end <= u128::from(file_len).next_multiple_of(512), "{window:?} of {file_len} bytes");
        assert!(window.len.is_none_or(|len| len.is_multiple_of(512)));
    }
    for node in name.windows(file_len) {
        assert!(node.len <= file_len.saturating_add(511) && node.name.starts_with(b"json:"));
    }
    let shown = name.shown(name.format().unwrap_or(Format::Raw));
    if name.is_window() && is_plain(&name.path) {
        let again = ImageName::parse(&shown, Reading::Name, None).expect("what is shown can be typed");
        assert_eq!((&again.path, again.window(file_len)), (&name.path, window), "{:?}", self::shown(&shown));
    }
}

/// A path that JSON can hold: what follows a NUL is not shown.
fn is_plain(path: &[u8]) -> bool {
    str::from_utf8(path).is_ok() && !path.contains(&0)
}

/// A configuration file changes nothing but what it may, or is refused. Allowed directories, the one thing that asks
/// the host, are left out.
fn check_policy(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    if text.contains("allow") || text.contains('\\') {
        return;
    }
    let mut config = Config::default();
    match config.take_file(Path::new("config.toml"), text) {
        Ok(()) => {
            let policy = config.policy(&[]).expect("nothing is asked of the host");
            let values = config.values();
            assert!((1..=DEPTH_LIMIT).contains(&policy.depth_max()) && (1..=FILES_MAX).contains(&policy.files_max()));
            assert!(policy.allowed().is_empty());
            let limits = &values.limits;
            assert!(limits.heap.is_none_or(|len| (1 << 20..=1 << 30).contains(&len)));
            assert!(limits.guest_memory.is_none_or(|len| (64 << 20..=1 << 30).contains(&len) && len % (2 << 20) == 0));
            assert!(values.sparse_len % 512 == 0 && values.workers != Some(0));
            let sections: toml::Table = text.parse().expect("what was understood is TOML");
            for (section, keys) in &sections {
                for (key, value) in keys.as_table().expect("sections only") {
                    let is = |number: u64| value.as_integer() == i64::try_from(number).ok();
                    let len = |set: Option<u64>| set.is_some_and(|len| is(len) || value.is_str());
                    let expected = match (section.as_str(), key.as_str()) {
                        ("output", "format") => value.as_str() == Some(if values.json { "json" } else { "human" }),
                        ("output", "details") => value.as_bool() == Some(values.details),
                        ("gate", "backing") => value.as_str() == Some(policy.ground().name()),
                        ("gate", "max-depth") => is(policy.depth_max().into()),
                        ("gate", "max-disks") => is(policy.files_max() as u64),
                        ("gate", "raw") => (value.as_str() == Some("any")) == values.raw_as_qemu_img,
                        ("limits", "heap") => len(limits.heap),
                        ("limits", "read") => len(limits.read),
                        ("limits", "time") => limits.time.is_some_and(|time| is(time.as_secs())),
                        ("limits", "guest-memory") => len(limits.guest_memory),
                        ("convert", "sparse") => len(Some(values.sparse_len.into())),
                        ("convert", "workers") => values.workers.is_some_and(|workers| is(workers.into())),
                        _ => false,
                    };
                    assert!(expected, "{section}.{key} = {value:?} makes {config:?}");
                }
            }
            // What is shown sets the same again.
            let mut again = Config::default();
            again.take_file(Path::new("config.toml"), &config.show()).expect("what is shown is a configuration");
            assert_eq!(again.values(), config.values());
        }
        Err(PolicyError::Unreadable { .. } | PolicyError::Directory { .. }) => panic!("the host was asked"),
        Err(PolicyError::Syntax { .. } | PolicyError::Key { .. } | PolicyError::Value { .. }) => {}
    }
}

/// A name that stays beneath its directory is beneath it once `.` and `..` are worked out.
fn check_path(text: &[u8]) {
    let name = Path::new(std::ffi::OsStr::from_bytes(text));
    let base = Path::new("/base/dir");
    let full = lexical::normalise(&base.join(name));
    assert!(full.is_absolute());
    assert!(full.components().skip(1).all(|part| matches!(part, Component::Normal(_))), "{}", full.display());
    assert_eq!(lexical::normalise(&full), full);
    let climbs = name.components().any(|part| part == Component::ParentDir);
    if lexical::stays_beneath(name) {
        assert!(lexical::beneath(base, &full).is_some(), "{} leaves its directory", name.display());
    } else {
        assert!(climbs || name.is_absolute() || full == base, "{} is refused", name.display());
    }
    let _ = lexical::is_kernels(&full);
}

const fn option(id: &'static str, short: char, long: &'static [&'static str], value: Option<&'static str>) -> Opt {
    Opt { id, short: Some(short), long, value, help: "", support: Support::Full }
}

/// A grammar like those of the subcommands: flags, values, names that begin alike.
const GRAMMAR: Grammar = Grammar {
    about: "",
    arguments: "",
    options: &[
        option("format", 'f', &["format"], Some("FMT")),
        option("force", 'U', &["force-share"], None),
        option("options", 'o', &["options", "opts"], Some("OPTS")),
        option("quiet", 'q', &["quiet"], None),
    ],
};

/// Words with NULs between them as a command line.
fn check_arguments(text: &[u8], is_ours: bool) {
    let words: Vec<OsString> =
        text.split(|byte| *byte == 0).take(64).map(|word| OsString::from_vec(word.to_vec())).collect();
    let mode = if is_ours { Mode::Instar } else { Mode::QemuImg };
    match GRAMMAR.parse(mode, &words) {
        Ok(parsed) => {
            assert!(parsed.names().len() <= words.len());
            let values = parsed.all("format").chain(parsed.all("options"));
            for value in values.chain(parsed.names()) {
                let ends_a_word = |word: &OsString| word.as_bytes().ends_with(value.as_bytes());
                assert!(words.iter().any(ends_a_word), "{value:?} was never typed");
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.chars().any(char::is_control), "{text:?}");
        }
    }
    let _ = to_text(&Value::text(text), Layout::Compact);
}
