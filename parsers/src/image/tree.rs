//! What info tells of a format's own, as it grows.

use alloc::vec::Vec;
use instar_abi::facts::{Node, Value};

/// A tree in preorder.
#[derive(Default)]
pub struct Tree {
    nodes: Vec<Node>,
    depth: u8,
}

impl Tree {
    /// A value that holds no others.
    pub fn add(&mut self, key: &str, value: Value) {
        self.nodes.push(Node { depth: self.depth, key: key.as_bytes().to_vec(), value });
    }

    /// Text, the image's own bytes.
    pub fn text(&mut self, key: &str, text: impl AsRef<[u8]>) {
        self.add(key, Value::Text(text.as_ref().to_vec()));
    }

    /// A container, and its members.
    pub fn nest(&mut self, key: &str, container: Value, members: impl FnOnce(&mut Self)) {
        self.add(key, container);
        let depth = self.depth;
        self.depth = depth.saturating_add(1);
        members(self);
        self.depth = depth;
    }

    /// All of it.
    #[must_use]
    pub fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }
}
