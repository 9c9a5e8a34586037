//! Computes the ABI's build id: SHA-256 over the names and bytes of this crate's sources.

use sha2::{Digest, Sha256};
use std::{env, fs, path::PathBuf};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let mut pending = vec![root.join("src")];
    let mut files = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                pending.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for path in &files {
        let name = path.strip_prefix(&root).expect("found below the root");
        hash.update(name.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update(fs::read(path).expect("src is readable"));
    }
    let id: Vec<String> = hash.finalize().iter().map(u8::to_string).collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("build_id.rs");
    fs::write(out, format!("[{}]", id.join(", "))).expect("OUT_DIR is writable");
    println!("cargo::rerun-if-changed=src");
}
