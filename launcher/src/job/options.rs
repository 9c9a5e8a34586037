//! `json:{…}` and `--image-opts` as one flat set of options with dotted keys, as QEMU sees them.
#![forbid(unsafe_code)]

use super::name_error::NameError;
use crate::render::qdict::Value;
use std::collections::BTreeMap;

/// Most options of one image; QEMU's own names have fewer than twenty.
const OPTIONS_MAX: usize = 256;

/// Options by dotted key. Values are scalars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, Value>);

impl Options {
    /// The options of what follows `json:`.
    ///
    /// # Errors
    /// No JSON, no object, or more options than anything needs.
    pub fn from_json(text: &str) -> Result<Self, NameError> {
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|error| NameError::Json { column: error.column() })?;
        let serde_json::Value::Object(members) = json else { return Err(NameError::JsonNoObject) };
        let mut options = Self::default();
        // serde_json bounds the depth; an explicit stack keeps it that way here.
        let mut open: Vec<(String, serde_json::Value)> = members.into_iter().collect();
        while let Some((key, value)) = open.pop() {
            let value = match value {
                serde_json::Value::Object(members) => {
                    open.extend(members.into_iter().map(|(inner, value)| (format!("{key}.{inner}"), value)));
                    continue;
                }
                serde_json::Value::Array(items) => {
                    open.extend(items.into_iter().enumerate().map(|(i, value)| (format!("{key}.{i}"), value)));
                    continue;
                }
                serde_json::Value::Null => Value::Null,
                serde_json::Value::Bool(truth) => Value::Bool(truth),
                serde_json::Value::String(text) => Value::text(text),
                serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                    (Some(number), _) => Value::Number(number.into()),
                    (None, Some(number)) => Value::Number(number.into()),
                    (None, None) => return Err(NameError::BadNumber { key }),
                },
            };
            options.put(key, value)?;
        }
        Ok(options)
    }

    /// The options of an option string: `key=value,…`, commas doubled within values; a first item
    /// without a key is `file`, any other `key=on`.
    ///
    /// # Errors
    /// More options than anything needs.
    pub fn from_list(text: &[u8]) -> Result<Self, NameError> {
        let mut options = Self::default();
        let mut rest = text;
        let mut first = true;
        while !rest.is_empty() {
            let item = take_item(&mut rest);
            match item.iter().position(|&byte| byte == b'=') {
                Some(at) => options.put(lossy(&item[..at]), Value::text(&item[at + 1..]))?,
                None if first => options.put("file".into(), Value::Text(item))?,
                None => options.put(lossy(&item), Value::text("on"))?,
            }
            first = false;
        }
        Ok(options)
    }

    fn put(&mut self, key: String, value: Value) -> Result<(), NameError> {
        self.0.insert(key, value);
        if self.0.len() > OPTIONS_MAX { Err(NameError::TooManyOptions) } else { Ok(()) }
    }

    /// The value of an option.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Takes an option out.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key)
    }

    /// Takes out everything below `key.`, with the beginning cut off.
    pub fn take_below(&mut self, key: &str) -> Self {
        let beginning = format!("{key}.");
        let (below, rest) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key.starts_with(&beginning));
        self.0 = rest;
        let below: BTreeMap<String, Value> = below;
        Self(below.into_iter().map(|(key, value)| (key[beginning.len()..].to_owned(), value)).collect())
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A key that is left.
    #[must_use]
    pub fn any_key(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }
}

/// Takes one item off an option string: up to a comma that is not doubled.
fn take_item(rest: &mut &[u8]) -> Vec<u8> {
    let mut item = Vec::new();
    loop {
        match rest {
            [b',', b',', more @ ..] => {
                item.push(b',');
                *rest = more;
            }
            [b',', more @ ..] => {
                *rest = more;
                return item;
            }
            [byte, more @ ..] => {
                item.push(*byte);
                *rest = more;
            }
            [] => return item,
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(options: &Options) -> Vec<(String, Value)> {
        options.0.clone().into_iter().collect()
    }

    #[test]
    fn nested_and_dotted_keys_are_the_same() {
        let nested = Options::from_json(r#"{"driver":"raw","file":{"driver":"file","filename":"x"}}"#);
        let dotted = Options::from_json(r#"{"driver":"raw","file.driver":"file","file.filename":"x"}"#);
        let list = Options::from_list(b"driver=raw,file.driver=file,file.filename=x");
        assert_eq!(nested, dotted);
        assert_eq!(nested, list);
    }

    #[test]
    fn option_strings_double_their_commas() {
        let options = Options::from_list(b"a=x,,y,flag,b==").expect("few");
        let expected = [("a", "x,y"), ("b", "="), ("flag", "on")];
        assert_eq!(flat(&options), expected.map(|(key, value)| (key.to_owned(), Value::text(value))));
        let options = Options::from_list(b"name,b").expect("few");
        let expected = [("b", "on"), ("file", "name")];
        assert_eq!(flat(&options), expected.map(|(key, value)| (key.to_owned(), Value::text(value))));
    }

    #[test]
    fn what_lies_below_a_key_is_taken_out() {
        let mut options = Options::from_list(b"file.filename=x,file.file.a=1,filename=y").expect("few");
        let below = options.take_below("file");
        assert_eq!(flat(&below), [("file.a", "1"), ("filename", "x")].map(|(k, v)| (k.to_owned(), Value::text(v))));
        assert_eq!(options.any_key(), Some("filename"));
    }

    #[test]
    fn broken_json_is_refused() {
        assert_eq!(Options::from_json("{"), Err(NameError::Json { column: 1 }));
        assert_eq!(Options::from_json("[]"), Err(NameError::JsonNoObject));
        assert_eq!(Options::from_json(r#"{"a":1.5}"#), Err(NameError::BadNumber { key: "a".into() }));
        let deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        assert!(matches!(Options::from_json(&deep), Err(NameError::Json { .. })));
        let many = format!("{{\"a\":[{}1]}}", "1,".repeat(300));
        assert_eq!(Options::from_json(&many), Err(NameError::TooManyOptions));
    }
}
