//! Findings on record: a file each in a folder, with all that reproduces it. The same finding again is noted in its file.
//!
//! What a target printed is hostile bytes of any length: what goes into a file is bounded and plain text.

use super::engine::{self, Finding};
use super::registry::Target;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A longer input lies beside the file, in one of its own.
const INPUT_INSIDE_MAX: usize = 32 << 10;
/// Lines before and after the panic.
const LINES: (usize, usize) = (5, 25);
/// Bytes of a line, and of all of them.
const EXCERPT_MAX: (usize, usize) = (200, 4000);

/// The folder of them.
pub struct Issues {
    folder: PathBuf,
}

/// What is known of a finding besides itself.
pub struct Facts<'a> {
    /// The target.
    pub target: &'a Target,
    /// The tree that ran.
    pub commit: &'a str,
    /// The engine's seed.
    pub seed: u64,
    /// Of so many runs of the input alone, how many failed.
    pub proven: (u32, u32),
    /// All that the target printed.
    pub log: &'a [u8],
}

/// What became of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filed {
    /// It has a file now.
    New(PathBuf),
    /// It had one.
    Again(PathBuf),
}

impl Issues {
    /// A folder that can be written to.
    ///
    /// # Errors
    /// It can't: nobody would hear of a finding.
    pub fn at(folder: PathBuf) -> Result<Self> {
        let probe = folder.join(".writable");
        let written =
            fs::create_dir_all(&folder).and_then(|()| fs::write(&probe, b"")).and_then(|()| fs::remove_file(&probe));
        written.with_context(|| format!("findings can't be put into {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Puts a finding on record.
    ///
    /// # Errors
    /// The host's.
    pub fn file(&self, finding: &Finding, facts: &Facts<'_>) -> Result<Filed> {
        let name = &facts.target.name;
        let key = engine::key(&finding.signature);
        let path = self.folder.join(format!("{name}-{:016x}.json", hash(key.as_bytes())));
        let seen = json!({ "commit": facts.commit, "seed": facts.seed });
        if let Ok(text) = fs::read_to_string(&path)
            && let Ok(mut issue) = serde_json::from_str::<Value>(&text)
            && let Some(list) = issue["seen"].as_array_mut()
        {
            list.push(seen);
            write(&path, &issue)?;
            return Ok(Filed::Again(path));
        }
        let input = match &finding.artifact {
            Some(artifact) => Some(fs::read(artifact).with_context(|| artifact.display().to_string())?),
            None => None,
        };
        let beside = path.with_extension("input");
        let (inside, beside) = match &input {
            Some(input) if input.len() > INPUT_INSIDE_MAX => {
                fs::write(&beside, input)?;
                (None, beside.file_name().map(|name| name.to_string_lossy().into_owned()))
            }
            Some(input) => (Some(base64(input)), None),
            None => (None, None),
        };
        let issue = json!({
            "title": format!("Coverage fuzz crash: {name} - {}", cut(&plain(finding.signature.as_bytes()), EXCERPT_MAX.0)),
            "target": name,
            "key": cut(&plain(key.as_bytes()), EXCERPT_MAX.1),
            "input_len": input.as_ref().map(Vec::len),
            "input_base64": inside,
            "input_file": beside,
            "reproduce": format!("cargo xtask fuzz tmin {name} INPUT"),
            "failed_alone": format!("{} of {}", facts.proven.0, facts.proven.1),
            "log": excerpt(facts.log),
            "seen": [seen],
        });
        write(&path, &issue)?;
        Ok(Filed::New(path))
    }
}

fn write(path: &Path, issue: &Value) -> Result<()> {
    fs::write(path, format!("{issue:#}\n")).with_context(|| path.display().to_string())
}

/// FNV-1a, 64 bits: names of files, which nobody attacks.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The lines around the first panic, or else the last ones.
fn excerpt(log: &[u8]) -> String {
    let lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').collect();
    let says = |line: &[u8], word: &[u8]| line.windows(word.len()).any(|part| part == word);
    let at = lines.iter().position(|line| says(line, b"panicked at ") || says(line, b"ERROR: libFuzzer"));
    let at = at.unwrap_or(lines.len().saturating_sub(LINES.1));
    let (from, to) = (at.saturating_sub(LINES.0), at.saturating_add(LINES.1).min(lines.len()));
    let lines = lines.get(from..to).unwrap_or_default().iter();
    let text: Vec<String> =
        lines.map(|line| cut(&plain(&line[..line.len().min(EXCERPT_MAX.0)]), EXCERPT_MAX.0)).collect();
    cut(&text.join("\n"), EXCERPT_MAX.1)
}

/// Bytes as text without control characters.
fn plain(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// The first bytes of a text, whole characters of them.
fn cut(text: &str, len: usize) -> String {
    text[..text.floor_char_boundary(len)].to_owned()
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().chain(&[0; 2]).take(3).fold(0, |word: usize, byte| word << 8 | usize::from(*byte));
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = if index <= chunk.len() { DIGITS[word >> shift & 63] } else { b'=' };
            text.push(char::from(digit));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::target as target_folder;

    /// An empty folder for a test's files, which ends with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = target_folder().join("fuzz/test").join(name);
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).expect("writable");
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn target() -> Target {
        Target { name: "a".into(), tier: "fast".into(), set: "N".into(), rooms: vec![], max_len: 64 }
    }

    fn file(issues: &Issues, signature: &str, artifact: Option<PathBuf>, log: &[u8]) -> Filed {
        let finding = Finding { signature: signature.to_owned(), artifact };
        let facts = Facts { target: &target(), commit: "c1", seed: 7, proven: (3, 3), log };
        issues.file(&finding, &facts).expect("writable")
    }

    fn read(path: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(path).expect("filed")).expect("JSON")
    }

    #[test]
    fn the_same_crash_is_filed_once() {
        let folder = Folder::new("once");
        let issues = Issues::at(folder.0.join("issues")).expect("writable");
        let Filed::New(first) = file(&issues, "panicked at a.rs:5:9: cluster 7", None, b"") else {
            panic!("nothing was on record")
        };
        assert_eq!(file(&issues, "panicked at a.rs:5:9: cluster 99", None, b""), Filed::Again(first.clone()));
        assert_eq!(read(&first)["seen"].as_array().map(Vec::len), Some(2));
        assert!(
            matches!(file(&issues, "panicked at b.rs:5:9: cluster 7", None, b""), Filed::New(other) if other != first)
        );
    }

    #[test]
    fn an_input_is_in_the_file_or_beside_it() {
        let folder = Folder::new("inputs");
        let issues = Issues::at(folder.0.join("issues")).expect("writable");
        let input = folder.0.join("crash-0");
        for (len, signature) in [(0, "x"), (5, "y"), (INPUT_INSIDE_MAX, "z"), (INPUT_INSIDE_MAX + 1, "w")] {
            fs::write(&input, vec![0xff; len]).expect("writable");
            let Filed::New(path) = file(&issues, signature, Some(input.clone()), b"") else { panic!("{signature}") };
            let issue = read(&path);
            assert_eq!(issue["input_len"], len);
            match issue["input_file"].as_str() {
                None => assert_eq!(issue["input_base64"].as_str().map(str::len), Some(len.div_ceil(3) * 4)),
                Some(name) => {
                    assert_eq!(fs::read(issues.folder.join(name)).expect("beside it"), vec![0xff; len]);
                    assert!(len > INPUT_INSIDE_MAX && issue["input_base64"].is_null());
                }
            }
        }
    }

    #[test]
    fn a_line_of_370_kb_is_bounded() {
        let mut log = vec![b'x'; 370 << 10];
        log.extend_from_slice(b"\nbefore\nthread 'x' panicked at a.rs:5:9:\n\xff\x00\x1b[31mraw bytes\n");
        log.extend(std::iter::repeat_n("after\n".bytes(), 40).flatten());
        let text = excerpt(&log);
        assert!(text.len() <= EXCERPT_MAX.1 && text.lines().all(|line| line.len() <= EXCERPT_MAX.0), "{}", text.len());
        assert!(text.contains("before\nthread 'x' panicked at a.rs:5:9:\n") && text.contains("raw bytes\nafter"));
        assert!(!text.contains(['\0', '\x1b']));
        assert_eq!(text.matches("after").count(), LINES.1 - 2);
        assert_eq!(excerpt(b""), "");
        // Wide characters are not cut in the middle.
        let wide = excerpt(format!("panicked at {}", "ü".repeat(300)).as_bytes());
        assert!(wide.len() <= EXCERPT_MAX.0 && wide.starts_with("panicked at üü"), "{wide}");
    }

    #[test]
    fn a_folder_that_cant_be_written_to_is_told_before_anything_runs() {
        let folder = Folder::new("refused");
        let path = folder.0.join("file");
        fs::write(&path, b"").expect("writable");
        assert!(Issues::at(path.join("issues")).is_err());
    }

    /// RFC 4648, section 10.
    #[test]
    fn base64_is_the_standards() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
