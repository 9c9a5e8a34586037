//! What CI runs, in the order in which mistakes are cheapest to find.

use crate::cargo::{cargo, succeed};
use crate::{test, tidy};
use anyhow::Result;
use std::time::Instant;

pub fn ci() -> Result<()> {
    step("fmt", || succeed(&mut cargo(&["fmt", "--all", "--check"])))?;
    step("clippy, host", || {
        succeed(&mut cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-Dwarnings"]))
    })?;
    step("clippy, guest", || {
        let arguments = ["clippy", "--quiet", "--package=instar-images", "--bins", "--features=test-images"];
        succeed(cargo(&arguments).args(["--profile=guest", "--", "-Dwarnings"]))
    })?;
    step("docs", || {
        let arguments = ["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
        succeed(cargo(&arguments).env("RUSTDOCFLAGS", "-Dwarnings"))
    })?;
    step("tidy", tidy::tidy)?;
    step("test --strict", || test::test(&test::Options { strict: true, full: false, filter: Vec::new() }))
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("==> {name}");
    let start = Instant::now();
    let result = work();
    println!("    {name}: {:.1} s", start.elapsed().as_secs_f64());
    result
}
