//! The door: see `instar::cli`.

use instar::cli;
use instar::machine::Engine;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os(), &mut Engine::new(instar::words))
}
