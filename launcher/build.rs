//! Embeds the op images found in the directory `INSTAR_IMAGES`, which `cargo xtask build` sets. A plain
//! `cargo build` has none: the launcher then says so when it is asked to run one.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=INSTAR_IMAGES");
    let mut images = Vec::new();
    if let Some(directory) = env::var_os("INSTAR_IMAGES").map(PathBuf::from) {
        println!("cargo::rerun-if-changed={}", directory.display());
        for entry in fs::read_dir(&directory).expect("INSTAR_IMAGES is a readable directory") {
            images.push(entry.expect("INSTAR_IMAGES is readable").path());
        }
    }
    images.sort();
    let mut table = String::from("/// Name and ELF of each op.\nstatic EMBEDDED: &[(&str, &[u8])] = &[\n");
    for image in images {
        println!("cargo::rerun-if-changed={}", image.display());
        let name = image.file_name().and_then(|name| name.to_str()).expect("op names are ASCII");
        writeln!(table, "    ({name:?}, include_bytes!({image:?})),").expect("strings take all");
    }
    table.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("images.rs");
    fs::write(out, table).expect("OUT_DIR is writable");
}
