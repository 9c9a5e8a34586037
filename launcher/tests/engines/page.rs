//! The page about engines: its commands, as a reader would type them.

use crate::common::{binaries, has, make, scratch};
use crate::place::{Q35, TCG, is_here};
use instar::machine::Program;
use std::process::{Command, Stdio};

/// The blocks of commands on the page about engines.
fn blocks_of_the_page() -> Vec<&'static str> {
    let page = include_str!("../../../docs/engines.md");
    page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_page_s_own_commands_work() {
    let Some(here) = binaries() else { return };
    if !has("qemu-img") {
        return;
    }
    let blocks = blocks_of_the_page();
    let [images, machines @ ..] = &blocks[..] else { panic!("the page has commands") };
    let programs = [TCG, Q35, Program::CloudHypervisor, Program::Firecracker];
    assert_eq!(machines.len(), programs.len(), "each machine has its commands");
    let directory = scratch();
    make(directory.path(), images);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([here].into_iter().chain(std::env::split_paths(&path))).expect("no colon in it");
    for (block, program) in machines.iter().zip(programs) {
        if !is_here(program, program.name()) {
            continue;
        }
        let output = Command::new("timeout")
            .args(["-k", "1", "60", "sh", "-euc", block])
            .current_dir(directory.path())
            .env("PATH", &path)
            .env("XDG_CACHE_HOME", directory.path())
            .stdin(Stdio::null())
            .output()
            .expect("sh runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && out.contains("End(Done"), "{block}\n{out}{err}");
    }
}
