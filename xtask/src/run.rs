//! `cargo xtask run …`: instar as a user has it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

/// Builds, then becomes instar: its exit code and signals are this command's.
pub fn run(arguments: &[OsString]) -> ExitCode {
    match crate::build::build() {
        Ok(instar) => {
            let error = Command::new(&instar).args(arguments).exec();
            eprintln!("xtask: could not start {}: {error}", instar.display());
        }
        Err(error) => eprintln!("xtask: {error:#}"),
    }
    ExitCode::FAILURE
}
