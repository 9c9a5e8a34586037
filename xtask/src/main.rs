//! The project's workbench: `cargo xtask VERB`, one file a verb.

mod bench;
mod build;
mod cargo;
mod ci;
mod doctor;
mod elf;
mod fuzz;
mod image;
mod run;
mod test;
mod tidy;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The workbench of instar", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build dist/bin/instar in the target directory, with all op images embedded
    Build,
    /// Build what is needed, then run instar with everything that follows, untouched
    #[command(disable_help_flag = true)]
    Run {
        /// instar's own arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Run every test: host, real VMs, comparisons with qemu-img
    Test(test::Options),
    /// Hold every reading command beside the installed qemu-img: exit code, both streams, content
    Compat {
        /// Only parts whose names contain one of these
        filter: Vec<String>,
    },
    /// What CI runs: fmt, clippy (host and guest), tidy, docs, `test --strict`
    Ci,
    /// Time instar beside qemu-img in interleaved pairs
    Bench(bench::Options),
    /// Check the rules that a tool can see: doors, image sizes, unsafe rooms, forbidden words
    Tidy,
    /// Build the op images to dist/images in the target directory, or show their sizes
    Image(image::Options),
    /// Fuzz parsers, devices and options on the host
    #[command(subcommand)]
    Fuzz(fuzz::Verb),
    /// Say what this machine lacks for building and testing, and the command that mends it
    Doctor(doctor::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Build => build::build().map(drop),
        Verb::Run { arguments } => return run::run(&arguments),
        Verb::Test(options) => test::test(&options),
        Verb::Compat { filter } => test::compat(&filter),
        Verb::Ci => ci::ci(),
        Verb::Bench(options) => bench::bench(&options),
        Verb::Tidy => tidy::tidy(),
        Verb::Image(options) => image::image(&options),
        Verb::Fuzz(verb) => fuzz::fuzz(&verb),
        Verb::Doctor(options) => doctor::doctor(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
