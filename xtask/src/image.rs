//! The op images: small static ELFs in `dist/images` of the target directory.

use crate::cargo::{cargo, dist, metadata, root, succeed, target};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// Show each image's size and memory extent beside its limits
    #[arg(long)]
    sizes: bool,
}

/// Which images to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The ops, for users.
    Ops,
    /// Guests that misbehave on purpose, for tests.
    Tests,
}

impl Kind {
    const fn feature(self) -> &'static str {
        match self {
            Self::Ops => "guest",
            Self::Tests => "test-images",
        }
    }

    /// Where the images of this kind go.
    pub fn directory(self) -> PathBuf {
        match self {
            Self::Ops => dist().join("images"),
            Self::Tests => target().join("test-images"),
        }
    }
}

pub fn image(options: &Options) -> Result<()> {
    let images = build(Kind::Ops)?;
    if options.sizes {
        for path in images {
            let file = fs::read(&path)?;
            let extent = crate::elf::memory_extent(&file)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            println!("{name:<12} file {:>7} bytes   memory {:>8} bytes", file.len(), extent.end - extent.start);
        }
    }
    Ok(())
}

/// Builds the images of a kind and returns their paths, in alphabetical order.
pub fn build(kind: Kind) -> Result<Vec<PathBuf>> {
    let names = names(kind)?;
    let mut arguments = vec!["build", "--quiet", "--package=instar-images", "--profile=guest", "--features"];
    arguments.push(kind.feature());
    for name in &names {
        arguments.extend(["--bin", name]);
    }
    // Panics carry file names: they must not carry this machine's.
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let flags = format!(
        "--remap-path-prefix={}= --remap-path-prefix={}=cargo",
        root().join("").display(),
        home.unwrap_or_default()
    );
    // With an explicit target the flags do not reach build scripts.
    const TRIPLE: &str = "x86_64-unknown-linux-gnu";
    succeed(cargo(&arguments).args(["--target", TRIPLE]).env("RUSTFLAGS", flags))?;
    let directory = kind.directory();
    fs::create_dir_all(&directory)?;
    let mut paths = Vec::new();
    for name in names {
        let from = target().join(TRIPLE).join("guest").join(&name);
        let to = directory.join(&name);
        let new = fs::read(&from).with_context(|| format!("cargo left no {}", from.display()))?;
        // An image that stays the same keeps its time, and the launcher need not be built again.
        if fs::read(&to).ok().as_ref() != Some(&new) {
            fs::write(&to, new)?;
        }
        paths.push(to);
    }
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if !paths.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(paths)
}

/// Names of the images of a kind, from the manifest.
fn names(kind: Kind) -> Result<Vec<String>> {
    let metadata = metadata(&["--no-deps"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let images = packages.iter().find(|package| package["name"] == "instar-images").context("instar-images exists")?;
    let mut names: Vec<String> = images["targets"]
        .as_array()
        .context("cargo metadata lists targets")?
        .iter()
        .filter(|target| target["kind"][0] == "bin" && target["required-features"][0] == kind.feature())
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}
