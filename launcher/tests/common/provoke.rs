//! The guest that misbehaves on purpose, and what it is given.

use instar::disk::Disk;
use instar::disk::file::SourceFile;
use instar_abi::request::{Budget, Disk as RequestDisk, DiskId, Layer, LayerId, Op, RawGate, Request};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

/// Its image; `None`: the test says so and is skipped.
pub fn image() -> Option<&'static [u8]> {
    let Some(images) = std::env::var_os("INSTAR_TEST_IMAGES") else {
        println!("skipped: needs test images; `cargo xtask test` builds them");
        return None;
    };
    Some(std::fs::read(Path::new(&images).join("provoke")).expect("provoke is built").leak())
}

/// A disk of one sector, full of `byte`.
pub fn disk_of(byte: u8) -> Arc<dyn Disk> {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&[byte; 512]).expect("written");
    Arc::new(SourceFile::new(file, 512))
}

/// A request with such a disk. Its clock says how to misbehave.
pub fn request(how: u64, lanes: u8) -> Request {
    let request = Request::new(
        Op::Info { image: LayerId(0), details: false },
        vec![RequestDisk::read_only(512)],
        vec![Layer::new(DiskId(0), None, RawGate::Open)],
        Budget { heap_bytes: 1 << 20, read_bytes: 1 << 20, steps: 1000, depth: 1 },
    );
    Request { now: how, lanes, ..request }
}
