//! `starters [--check]`: writes `fuzz/starters/`, or says how it differs from what would be written.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

fn main() -> std::io::Result<ExitCode> {
    let check = std::env::args().nth(1).is_some_and(|argument| argument == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("starters");
    let mut differences = 0;
    for (target, meant) in instar_fuzz::starters::all() {
        let folder = root.join(target);
        std::fs::create_dir_all(&folder)?;
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            found.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?);
        }
        for name in found.keys().filter(|name| !meant.contains_key(*name)) {
            differences += 1;
            println!("{target}/{name} is no starter");
            if !check {
                std::fs::remove_file(folder.join(name))?;
            }
        }
        for (name, bytes) in meant.iter().filter(|(name, bytes)| found.get(*name) != Some(bytes)) {
            differences += 1;
            println!("{target}/{name} differs");
            if !check {
                std::fs::write(folder.join(name), bytes)?;
            }
        }
    }
    Ok(if check && differences > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
