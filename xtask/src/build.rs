//! The distribution: one self-contained binary, and `qemu-img` beside it.

use crate::cargo::{cargo, dist, succeed, target};
use crate::image::{self, Kind};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;

/// Builds images and launcher; returns the path of `instar`.
pub fn build() -> Result<PathBuf> {
    image::build(Kind::Ops)?;
    let images = Kind::Ops.directory();
    succeed(
        cargo(&["build", "--quiet", "--release", "--package=instar", "--bin=instar"]).env("INSTAR_IMAGES", images),
    )?;
    let bin = dist().join("bin");
    fs::create_dir_all(&bin)?;
    let instar = bin.join("instar");
    let built = target().join("release/instar");
    let new = fs::read(&built).with_context(|| format!("cargo left no {}", built.display()))?;
    if fs::read(&instar).ok().as_ref() != Some(&new) {
        // A running binary can't be written to, but it can be replaced.
        let next = bin.join("instar.new");
        fs::copy(&built, &next)?;
        fs::rename(next, &instar)?;
    }
    let link = bin.join("qemu-img");
    if fs::read_link(&link).is_err() {
        std::os::unix::fs::symlink("instar", &link)?;
    }
    Ok(instar)
}
