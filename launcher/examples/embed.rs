//! The launcher as a library: a job in, a result out. `cargo run -p instar --example embed IMAGE [ENGINE]`
//!
//! Embeds the op images as the launcher does: build with `INSTAR_IMAGES` naming the directory that `cargo xtask image`
//! fills, `target/dist/images`. The run is locked down in a child, so this process goes on as before.

use instar::disk::file::SourceFile;
use instar::job::{Machine as _, NoEnd, Then, limits};
use instar::{Choice, Engine, Job};
use instar_abi::reply::Frame;
use instar_abi::request::{Disk, DiskId, Layer, LayerId, Op, RawGate, Request};
use std::sync::Arc;

fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, rest @ ..] = &words[..] else { return Err("usage: embed IMAGE [ENGINE]".to_owned()) };
    let choice = match rest.first() {
        Some(name) => Choice::from_name(name.as_bytes()).ok_or(format!("one of {}", Choice::NAMES))?,
        None => Choice::Builtin,
    };

    let file = std::fs::File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let len = file.metadata().map_err(|error| format!("{path}: {error}"))?.len();
    let request = Request::new(
        Op::Info { image: LayerId(0), details: false },
        vec![Disk::read_only(len)],
        vec![Layer::new(DiskId(0), None, RawGate::Partitioned)],
        limits::INFO_BUDGET,
    );
    let job = Job { op: "info", disks: vec![Arc::new(SourceFile::new(file, len))], request, limits: limits::INFO };

    let mut engine = Engine::new(instar::words);
    engine.choose(choice);
    let mut size = None;
    let end = engine.run(&job, Then::GoOn, &mut |frame| {
        // A guest's numbers: believe them as far as you believe the image.
        if let Frame::Image(image) = frame {
            size = Some((image.format, image.virtual_size));
        }
    });
    let end = end.map_err(|error| match error {
        NoEnd::Told(words) => words,
        error => format!("the run came to no end: {error:?}"),
    })?;
    println!("{path}: {size:?}, {end:?}");
    Ok(())
}
