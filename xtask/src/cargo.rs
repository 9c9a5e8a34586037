//! Calling cargo, and where things lie.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the checkout").to_owned()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    target_by(std::env::var_os("CARGO_TARGET_DIR"))
}

/// The same where the environment says `wanted`. Cargo runs in the checkout, so it takes a relative path from there.
fn target_by(wanted: Option<OsString>) -> PathBuf {
    root().join(wanted.filter(|path| !path.is_empty()).unwrap_or_else(|| "target".into()))
}

/// What a build leaves for users: `bin/instar`, `bin/qemu-img`, `images/OP`.
pub fn dist() -> PathBuf {
    target().join("dist")
}

/// A cargo command in the checkout.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// Runs a command to its end.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("output is not UTF-8")
}

/// `cargo metadata` of the workspace.
pub fn metadata(arguments: &[&str]) -> Result<serde_json::Value> {
    let text = output(cargo(&["metadata", "--format-version=1"]).args(arguments))?;
    serde_json::from_str(&text).context("cargo metadata is not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_directory_is_where_cargo_has_it() {
        assert_eq!(target_by(None), root().join("target"));
        assert_eq!(target_by(Some("".into())), root().join("target"));
        assert_eq!(target_by(Some("elsewhere".into())), root().join("elsewhere"));
        assert_eq!(target_by(Some("/elsewhere".into())), Path::new("/elsewhere"));
    }
}
