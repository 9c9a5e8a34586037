//! What an info run said, checked.
//!
//! Frames arrive one by one from a guest that may lie. The collector takes them in their order,
//! counts, and builds the tree of format-specific facts; a [`Report`] is what remains to be printed.
#![forbid(unsafe_code)]

use super::image_file::full_backing_name;
use super::qdict::{QDict, Value};
use instar_abi::facts;
use instar_abi::reply::Frame;

/// Most snapshots of a report: QEMU's limit for qcow2, 65,536.
pub const SNAPSHOTS_MAX: usize = 65_536;
/// Most nodes of a report: 65,535 bitmaps of five nodes each, and room for the rest.
pub const NODES_MAX: usize = 400_000;
/// Most members of one object; qemu-img's largest has about twenty. Keys of one bucket are looked through one by
/// one, so a guest that picks them could keep us busy for minutes.
pub const MEMBERS_MAX: usize = 256;
/// Longest key in bytes; qemu-img's longest is below 32.
pub const KEY_LEN_MAX: usize = 64;

/// The facts of one image.
///
/// Proves: the tree is at most [`facts::DEPTH_MAX`] levels deep, its keys are short printable ASCII.
/// Strings are still an image's own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The facts every format has.
    pub image: facts::Image,
    /// Its snapshots, in table order.
    pub snapshots: Vec<facts::Snapshot>,
    /// The members of its format-specific facts.
    pub specific: QDict,
    /// What only we tell of it, as far as that was asked for.
    pub details: QDict,
}

/// How a guest contradicted the protocol: it is broken or was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A second [`Frame::Image`].
    SecondImage,
    /// Facts before the image they belong to, or a frame that info never sends.
    OutOfPlace,
    /// More snapshots or nodes than any image has.
    TooMany,
    /// A node deeper than its place allows.
    Depth {
        /// What it says.
        found: u8,
        /// The deepest allowed there.
        max: u8,
    },
    /// A key where none belongs, none where one belongs, or one that is not plain text.
    Key,
    /// The run ended well without an image.
    NoImage,
}

/// Takes the frames of one info run.
#[derive(Debug)]
pub struct Collector {
    image: Option<facts::Image>,
    snapshots: Vec<facts::Snapshot>,
    specific: Tree,
    details: Tree,
}

impl Collector {
    /// A collector that has seen nothing of the image in `file_name`.
    #[must_use]
    pub fn new(file_name: Vec<u8>) -> Self {
        let details = Tree::new(file_name.clone());
        Self { image: None, snapshots: Vec::new(), specific: Tree::new(file_name), details }
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// What is wrong with it; the run is to be ended.
    pub fn take(&mut self, frame: Frame) -> Result<(), Lie> {
        match frame {
            Frame::Image(image) => match self.image.replace(image) {
                None => Ok(()),
                Some(_) => Err(Lie::SecondImage),
            },
            Frame::Snapshots(more) => {
                self.image.as_ref().ok_or(Lie::OutOfPlace)?;
                if more.len() > SNAPSHOTS_MAX - self.snapshots.len() {
                    return Err(Lie::TooMany);
                }
                self.snapshots.extend(more);
                Ok(())
            }
            Frame::Specific(nodes) => {
                let image = self.image.as_ref().ok_or(Lie::OutOfPlace)?;
                image.specific.as_ref().ok_or(Lie::OutOfPlace)?;
                nodes.into_iter().try_for_each(|node| self.specific.add(node))
            }
            Frame::Details(nodes) => {
                self.image.as_ref().ok_or(Lie::OutOfPlace)?;
                nodes.into_iter().try_for_each(|node| self.details.add(node))
            }
            Frame::Progress { .. } => Ok(()),
            _ => Err(Lie::OutOfPlace),
        }
    }

    /// The report of a run that ended well.
    ///
    /// # Errors
    /// [`Lie::NoImage`].
    pub fn finish(self) -> Result<Report, Lie> {
        let image = self.image.ok_or(Lie::NoImage)?;
        let (specific, details) = (self.specific.finish(), self.details.finish());
        Ok(Report { image, snapshots: self.snapshots, specific, details })
    }
}

/// Builds a tree from preorder without recursion: the containers still open, root first.
#[derive(Debug)]
struct Tree {
    open: Vec<Open>, // invariant: never empty; the first is the root object
    count: usize,
    file_name: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    key: Vec<u8>, // within the container before
    members: Members,
}

#[derive(Debug)]
enum Members {
    Object(QDict),
    List(Vec<Value>),
}

impl Tree {
    fn new(file_name: Vec<u8>) -> Self {
        Self { open: vec![Open { key: Vec::new(), members: Members::Object(QDict::new()) }], count: 0, file_name }
    }

    fn add(&mut self, node: facts::Node) -> Result<(), Lie> {
        self.count += 1;
        if self.count > NODES_MAX {
            return Err(Lie::TooMany);
        }
        let max = u8::try_from(self.open.len() - 1).unwrap_or(u8::MAX).min(facts::DEPTH_MAX);
        if node.depth > max {
            return Err(Lie::Depth { found: node.depth, max });
        }
        while self.open.len() > usize::from(node.depth) + 1 {
            self.close();
        }
        let in_list = matches!(self.innermost().members, Members::List(_));
        let plain = node.key.len() <= KEY_LEN_MAX && node.key.iter().all(u8::is_ascii_graphic);
        if node.key.is_empty() != in_list || !plain {
            return Err(Lie::Key);
        }
        if matches!(&self.innermost().members, Members::Object(dict) if dict.len() >= MEMBERS_MAX) {
            return Err(Lie::TooMany);
        }
        let value = match node.value {
            facts::Value::Object => {
                self.open.push(Open { key: node.key, members: Members::Object(QDict::new()) });
                return Ok(());
            }
            facts::Value::List => {
                self.open.push(Open { key: node.key, members: Members::List(Vec::new()) });
                return Ok(());
            }
            facts::Value::Bool(truth) => Value::Bool(truth),
            facts::Value::Number(number) => number.into(),
            facts::Value::Text(text) => Value::Text(text),
            facts::Value::FileName => Value::Text(self.file_name.clone()),
            facts::Value::NamedFile(name) => Value::Text(full_backing_name(&self.file_name, &name).unwrap_or_default()),
        };
        self.innermost().members.put(node.key, value);
        Ok(())
    }

    fn innermost(&mut self) -> &mut Open {
        self.open.last_mut().expect("the root is always open")
    }

    /// Puts the innermost container into the one before; not for the root.
    fn close(&mut self) {
        if let Some(Open { key, members }) = self.open.pop() {
            self.innermost().members.put(key, members.into_value());
        }
    }

    fn finish(mut self) -> QDict {
        while self.open.len() > 1 {
            self.close();
        }
        match self.open.pop() {
            Some(Open { members: Members::Object(root), .. }) => root,
            _ => unreachable!("the root is an object"),
        }
    }
}

impl Members {
    fn put(&mut self, key: Vec<u8>, value: Value) {
        match self {
            Self::Object(dict) => dict.put(key, value),
            Self::List(items) => items.push(value),
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Object(dict) => Value::Object(dict),
            Self::List(items) => Value::List(items),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::{Layout, to_text};
    use super::*;
    use instar_abi::format::Format;
    use instar_abi::reply::End;

    fn image() -> facts::Image {
        facts::Image {
            format: Format::Qcow2,
            virtual_size: 0,
            cluster_size: None,
            encrypted: false,
            compressed: false,
            dirty: Some(false),
            backing: None,
            child_len: None,
            specific: Some(b"qcow2".to_vec()),
        }
    }

    fn node(depth: u8, key: &str, value: facts::Value) -> facts::Node {
        facts::Node { depth, key: key.into(), value }
    }

    fn snapshot() -> facts::Snapshot {
        facts::Snapshot {
            id: vec![],
            name: vec![],
            vm_state_size: 0,
            date_seconds: 0,
            date_nanoseconds: 0,
            vm_clock_nanoseconds: 0,
            icount: None,
        }
    }

    fn specific(nodes: Vec<facts::Node>) -> Result<String, Lie> {
        let mut collector = Collector::new(b"x".to_vec());
        collector.take(Frame::Image(image()))?;
        for node in nodes {
            collector.take(Frame::Specific(vec![node]))?;
        }
        Ok(to_text(&Value::Object(collector.finish()?.specific), Layout::Compact))
    }

    #[test]
    fn a_tree_in_preorder_is_rebuilt() {
        use facts::Value::{Bool, List, Number, Object, Text};
        assert_eq!(
            specific(vec![
                node(0, "bitmaps", List),
                node(1, "", Object),
                node(2, "flags", List),
                node(3, "", Text(b"auto".to_vec())),
                node(2, "name", Text(b"b0".to_vec())),
                node(1, "", Object),
                node(0, "corrupt", Bool(true)),
                node(0, "empty", Object),
                node(0, "n", Number(u64::MAX)),
            ])
            .as_deref(),
            Ok(
                r#"{"n": 18446744073709551615, "bitmaps": [{"flags": ["auto"], "name": "b0"}, {}], "empty": {}, "corrupt": true}"#
            )
        );
    }

    #[test]
    fn a_guest_that_lies_is_caught() {
        use facts::Value::{Bool, List, Object};
        let lie = |depth, max| Err(Lie::Depth { found: depth, max });
        assert_eq!(specific(vec![node(1, "a", Bool(true))]), lie(1, 0));
        assert_eq!(specific(vec![node(0, "a", Bool(true)), node(1, "b", Bool(true))]), lie(1, 0));
        assert_eq!(specific(vec![node(0, "a", Object), node(2, "b", Bool(true))]), lie(2, 1));
        let deep = (0..9).map(|depth| node(depth, "a", Object)).collect();
        assert_eq!(specific(deep), lie(8, 7));
        assert_eq!(specific(vec![node(0, "", Bool(true))]), Err(Lie::Key));
        assert_eq!(specific(vec![node(0, "a", List), node(1, "b", Bool(true))]), Err(Lie::Key));
        assert_eq!(specific(vec![node(0, "a\x1b", Bool(true))]), Err(Lie::Key));
        assert_eq!(specific(vec![node(0, &"a".repeat(65), Bool(true))]), Err(Lie::Key));
    }

    #[test]
    fn frames_out_of_place_are_lies() {
        assert_eq!(Collector::new(b"x".to_vec()).take(Frame::Specific(vec![])), Err(Lie::OutOfPlace));
        assert_eq!(Collector::new(b"x".to_vec()).take(Frame::Details(vec![])), Err(Lie::OutOfPlace));
        assert_eq!(Collector::new(b"x".to_vec()).take(Frame::Snapshots(vec![])), Err(Lie::OutOfPlace));
        assert_eq!(Collector::new(b"x".to_vec()).take(Frame::End(End::NeedsMore)), Err(Lie::OutOfPlace));
        assert_eq!(Collector::new(b"x".to_vec()).finish(), Err(Lie::NoImage));
        let mut collector = Collector::new(b"x".to_vec());
        collector.take(Frame::Image(facts::Image { specific: None, ..image() })).expect("the first");
        assert_eq!(collector.take(Frame::Specific(vec![])), Err(Lie::OutOfPlace));
        assert_eq!(collector.take(Frame::Image(image())), Err(Lie::SecondImage));
    }

    #[test]
    fn counts_are_bounded_over_all_frames() {
        let mut collector = Collector::new(b"x".to_vec());
        collector.take(Frame::Image(image())).expect("the first");
        collector.take(Frame::Snapshots(vec![snapshot(); SNAPSHOTS_MAX])).expect("as many as allowed");
        assert_eq!(collector.take(Frame::Snapshots(vec![snapshot()])), Err(Lie::TooMany));
        let flag = || node(0, "a", facts::Value::Bool(true));
        collector.take(Frame::Specific(vec![flag(); NODES_MAX])).expect("as many as allowed");
        assert_eq!(collector.take(Frame::Specific(vec![flag()])), Err(Lie::TooMany));
    }

    /// Found beside the fuzz target `result_stream`: 400,000 keys of one bucket took minutes to tell apart.
    #[test]
    fn an_object_of_hundreds_of_members_is_a_lie() {
        let members = |count: usize| (0..count).map(|i| node(0, &format!("k{i}"), facts::Value::Bool(true))).collect();
        assert!(specific(members(MEMBERS_MAX)).is_ok());
        assert_eq!(specific(members(MEMBERS_MAX + 1)), Err(Lie::TooMany));
    }
}
