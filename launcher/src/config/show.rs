//! A configuration as text: TOML that would set it again, each value with who says so.

use super::keys::KEYS;
use super::{Config, Origin};
use crate::render::escape::shown;
use std::path::Path;

impl Origin {
    fn text(&self) -> String {
        match self {
            Self::BuiltIn => "built in".to_owned(),
            Self::File(file) => shown(file.as_os_str().as_encoded_bytes()),
            Self::Variable(name) | Self::Option(name) => (*name).to_owned(),
        }
    }
}

impl Config {
    /// All keys, section by section. One that nobody has set and that each operation has its own value of is a comment.
    #[must_use]
    pub fn show(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in &KEYS {
            if section != key.section() {
                section = key.section();
                text += &format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" });
            }
            if key.set.is_none() {
                text += &self.show_directories();
                continue;
            }
            let origin = self.origins.get(key.name).unwrap_or(&Origin::BuiltIn).text();
            text += &match (key.get)(&self.values) {
                Some(value) => line(&format!("{} = {value}", key.short()), &origin),
                None => line(&format!("# {}", key.short()), "built in, by the operation"),
            };
        }
        text
    }

    fn show_directories(&self) -> String {
        if self.allow.is_empty() {
            return line("allow = []", &Origin::BuiltIn.text());
        }
        let quoted = |dir: &Path| dir.to_string_lossy().chars().map(escaped).collect::<String>();
        let lines = self.allow.iter().map(|(dir, origin)| line(&format!("  \"{}\",", quoted(dir)), &origin.text()));
        format!("allow = [\n{}]\n", lines.collect::<String>())
    }

    /// What keys there are.
    #[must_use]
    pub fn keys() -> String {
        let line =
            |key: &super::keys::Key| format!("  {:<20} {}\n{:23}{}\n", key.name, key.about, "", (key.expected)());
        KEYS.iter().map(line).collect()
    }
}

/// A letter of a TOML text; what acts on a terminal is its number.
fn escaped(letter: char) -> String {
    match letter {
        '"' | '\\' => format!("\\{letter}"),
        letter if letter.is_ascii_graphic() || letter.is_alphanumeric() || letter == ' ' => letter.to_string(),
        letter => format!("\\U{:08x}", u32::from(letter)),
    }
}

fn line(value: &str, origin: &str) -> String {
    format!("{value:<34}# {origin}\n")
}
