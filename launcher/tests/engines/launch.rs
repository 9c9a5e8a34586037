//! The launcher as a process of its own: this test binary again, on the engine that it is told.

use crate::place::engine;
use instar::cli::{self, terminal::Terminal};
use instar::machine::Images;
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub const ENGINE: &str = "INSTAR_TEST_ENGINE";
const ARGUMENTS: &str = "INSTAR_TEST_ARGUMENTS";
const DIRECTORY: &str = "INSTAR_TEST_DIRECTORY";

/// Longest that anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// What a run left.
pub struct Ran {
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

/// The name by which the runner knows a test, which is its path in the crate.
pub fn name_of<T: Fn()>(_test: T) -> &'static str {
    std::any::type_name::<T>().split_once("::").expect("a function of this crate").1
}

/// This binary again, with one test to run; stopped by SIGTERM after `seconds`.
pub fn again(test: &str, seconds: Option<u32>) -> Command {
    let exe = std::env::current_exe().expect("a test binary knows itself");
    let mut command = match seconds {
        None => Command::new(exe),
        Some(seconds) => {
            let mut timeout = Command::new("timeout");
            timeout.args(["-k", "20", "--preserve-status", &seconds.to_string()]).arg(exe);
            timeout
        }
    };
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command
}

/// The launcher with `arguments` on an engine, in a directory, which its temporary files go to.
pub fn launcher(mut again: Command, place: &str, directory: &Path, arguments: &[&str]) -> Command {
    again
        .env(ENGINE, place)
        .env(ARGUMENTS, arguments.join("\x1f"))
        .env(DIRECTORY, directory)
        .env("TMPDIR", directory)
        .env_remove("XDG_RUNTIME_DIR")
        .current_dir(directory);
    again
}

/// Runs the launcher with `arguments` on an engine, in a directory.
pub fn launch(test: &str, place: &str, directory: &Path, arguments: &[&str]) -> Ran {
    launch_with(test, place, directory, arguments, &[])
}

/// The same with more in its environment.
pub fn launch_with(
    test: &str,
    place: &str,
    directory: &Path,
    arguments: &[&str],
    environment: &[(&str, &Path)],
) -> Ran {
    let started = Instant::now();
    let output = launcher(again(test, Some(100)), place, directory, arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("it runs");
    assert!(started.elapsed() < PATIENCE, "{place}: {arguments:?} did not end");
    let left = directory_of_run(directory);
    assert!(left.is_none(), "{place}: {left:?} is left behind");
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap_or_default();
    let err = [read("stderr"), output.stderr].concat();
    Ran { code: output.status.code(), out: read("stdout"), err: String::from_utf8_lossy(&err).into_owned() }
}

/// The directory of a run, as long as there is one.
pub fn directory_of_run(directory: &Path) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("there").filter_map(Result::ok);
    entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("instar-")))
}

/// In a child: is the launcher, and does not return.
pub fn be_launcher_if_told() {
    let Some(place) = std::env::var_os(ENGINE) else { return };
    let directory = std::env::var_os(DIRECTORY).expect("a child is told");
    let arguments = std::env::var(ARGUMENTS).expect("a child is told");
    let place = place.into_string().expect("ASCII");
    let stream = |name: &str| Box::new(File::create(Path::new(&directory).join(name)).expect("made"));
    let mut terminal = Terminal::new(cli::Mode::Instar, stream("stdout"), stream("stderr"));
    let words = ["instar"].into_iter().chain(arguments.split('\x1f')).map(OsString::from);
    let code = cli::main_on(words, &mut engine(&place, instar::words), &mut terminal);
    std::process::exit(i32::from(format!("{code:?}") != format!("{:?}", std::process::ExitCode::SUCCESS)));
}

/// Whether there are op images; if not, the test says so and is skipped.
pub fn has_images() -> bool {
    let has = Images::names().next().is_some();
    if !has {
        println!("skipped: needs the op images; `cargo xtask test` builds them");
    }
    has
}
