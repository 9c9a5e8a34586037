//! A map of a few entries: what is in flight, what is waited for. A tree would be faster from some dozens on, and several times the code.

use alloc::vec::Vec;

/// Values by key, in no order.
#[derive(Clone, Debug)]
pub struct SmallMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq, V> SmallMap<K, V> {
    /// Adds an entry; one with this key must not be there.
    pub fn insert(&mut self, key: K, value: V) {
        self.0.push((key, value));
    }

    /// The value of an entry.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.iter_mut().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out_once() {
        let mut map = SmallMap::default();
        (0..5).for_each(|key| map.insert(key, key * 10));
        for key in [3, 0, 4, 1, 2] {
            assert_eq!((map.remove(&key), map.remove(&key)), (Some(key * 10), None));
        }
    }
}
