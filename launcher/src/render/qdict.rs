//! QEMU's dictionary, for the sake of its order.
//!
//! qemu-img prints the members of an object in the order of its hash table: by bucket, and within
//! a bucket the newest first. That order is stable and scripts have come to know it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// A value of a reply or of a `json:` name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as qemu-img prints it: signed or unsigned, 64 bits.
    Number(i128),
    /// Bytes of a C string, unescaped; what follows a NUL is not shown.
    Text(Vec<u8>),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Object(QDict),
}

impl Value {
    /// A text.
    #[must_use]
    pub fn text(bytes: impl AsRef<[u8]>) -> Self {
        Self::Text(bytes.as_ref().to_vec())
    }

    /// Whether it has members or items of its own: printed on lines below its key.
    #[must_use]
    pub const fn is_composite(&self) -> bool {
        matches!(self, Self::List(_) | Self::Object(_))
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number.into())
    }
}

/// An object whose members come out in QEMU's order.
///
/// # Source
/// QEMU's `qobject/qdict.c`: 512 buckets, the hash of Samba's tdb, new entries at a bucket's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QDict {
    buckets: BTreeMap<u16, Vec<(Vec<u8>, Value)>>, // oldest first within a bucket, none empty
}

impl QDict {
    /// An object without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member; a member of the same key is replaced in its place.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: Value) {
        let key = key.as_ref();
        let entries = self.buckets.entry(bucket(key)).or_default();
        match entries.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => entries.push((key.to_vec(), value)),
        }
    }

    /// The members in QEMU's order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Value)> {
        self.buckets.values().flat_map(|entries| entries.iter().rev()).map(|(key, value)| (key.as_slice(), value))
    }

    /// Members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.values().map(Vec::len).sum()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

impl<K: AsRef<[u8]>> FromIterator<(K, Value)> for QDict {
    fn from_iter<I: IntoIterator<Item = (K, Value)>>(members: I) -> Self {
        let mut dict = Self::new();
        members.into_iter().for_each(|(key, value)| dict.put(key, value));
        dict
    }
}

/// The bucket of a key: 0 to 511.
fn bucket(key: &[u8]) -> u16 {
    let len = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let sum = (0_u32..)
        .zip(key)
        .fold(0x238F_13AF_u32.wrapping_mul(len), |sum, (i, &byte)| sum.wrapping_add(u32::from(byte) << (i * 5 % 24)));
    let hash = sum.wrapping_mul(1_103_515_243).wrapping_add(12345);
    u16::try_from(hash % 512).expect("a remainder of 512 is below 512")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(keys: &[&str]) -> Vec<String> {
        let dict: QDict = keys.iter().map(|key| (key, Value::Null)).collect();
        dict.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[test]
    fn members_come_in_the_order_qemu_img_prints() {
        let qcow2 = ["compat", "data-file", "data-file-raw", "extended-l2", "lazy-refcounts", "corrupt"];
        let more = ["refcount-bits", "encrypt", "bitmaps", "compression-type"];
        assert_eq!(
            order(&[qcow2.as_slice(), &more].concat()),
            [
                "compat",
                "compression-type",
                "lazy-refcounts",
                "bitmaps",
                "refcount-bits",
                "data-file",
                "encrypt",
                "data-file-raw",
                "corrupt",
                "extended-l2"
            ]
        );
        assert_eq!(order(&["driver", "file", "offset", "size"]), ["offset", "driver", "size", "file"]);
    }

    #[test]
    fn within_a_bucket_the_newest_comes_first() {
        let keys: Vec<String> = (0..4000).map(|i| format!("k{i}")).collect();
        let (a, b) = keys
            .iter()
            .enumerate()
            .find_map(|(i, a)| keys[..i].iter().find(|b| bucket(b.as_bytes()) == bucket(a.as_bytes())).map(|b| (a, b)))
            .expect("4000 keys in 512 buckets collide");
        assert_eq!(order(&[a, b]), [b.clone(), a.clone()]);
        assert_eq!(order(&[b, a]), [a.clone(), b.clone()]);
    }

    #[test]
    fn a_repeated_key_keeps_its_place_and_takes_the_last_value() {
        let dict: QDict = [("a", Value::Number(1)), ("a", Value::Number(2))].into_iter().collect();
        assert_eq!(dict.iter().collect::<Vec<_>>(), [(b"a".as_slice(), &Value::Number(2))]);
    }
}
