//! instar beside qemu-img, or one engine beside another, in interleaved pairs: machines are noisy, so only ratios within one run count.

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    /// Counted pairs of each case
    #[arg(long, default_value_t = 11)]
    pairs: usize,
    /// Directory for the images
    #[arg(long, default_value = "/dev/shm")]
    directory: PathBuf,
    /// Directory for the images of cases on a disk; cargo's target directory if not given
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Times instar on this engine beside instar on its built-in machine, instead of instar beside qemu-img
    #[arg(long)]
    engine: Option<String>,
    /// Only cases whose names contain one of these
    filter: Vec<String>,
}

/// One case: what both programs are given.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    /// What qemu-img is given besides, where it has options that make it faster.
    fast: &'static [&'static str],
    /// Removed before each run.
    output: Option<&'static str>,
    /// It reads and writes files of a disk, in page cache.
    on_disk: bool,
    /// Ratios of wall times and of processor times that must not be exceeded.
    gate: (f64, f64),
    /// Calls of the program that make one run.
    calls: usize,
}

const INFO: Case =
    Case { name: "", arguments: &[], fast: &[], output: None, on_disk: false, gate: (1.5, 1.5), calls: 1 };
/// Copies in page cache.
const COPY: Case = Case { output: Some("out"), gate: (1.0, 1.3), ..INFO };
/// The same between files of a disk, whose pages are there already.
const ON_DISK: Case = Case { on_disk: true, ..COPY };
/// Codecs: of processor time there is no gate but that two cores are no more than two.
const DECODE: Case = Case { gate: (1.0, 2.0), ..COPY };
const ENCODE: Case = Case { fast: &["-m", "16", "-W"], ..DECODE };

const CASES: &[Case] = &[
    Case { name: "info raw", arguments: &["info", "-f", "raw", "data.raw"], ..INFO },
    Case { name: "info qcow2", arguments: &["info", "data.qcow2"], ..INFO },
    Case { name: "info qcow2 json", arguments: &["info", "--output=json", "-f", "qcow2", "data.qcow2"], ..INFO },
    Case {
        name: "raw to qcow2, 1 GiB",
        arguments: &["convert", "-f", "raw", "-O", "qcow2", "data.raw", "out"],
        ..COPY
    },
    Case {
        name: "qcow2 to raw, 1 GiB",
        arguments: &["convert", "-f", "qcow2", "-O", "raw", "data.qcow2", "out"],
        ..COPY
    },
    Case {
        name: "qcow2 to qcow2, 1 GiB",
        arguments: &["convert", "-f", "qcow2", "-O", "qcow2", "data.qcow2", "out"],
        ..COPY
    },
    Case {
        name: "raw to qcow2, 1 GiB, disk",
        arguments: &["convert", "-f", "raw", "-O", "qcow2", "data.raw", "out"],
        ..ON_DISK
    },
    Case {
        name: "qcow2 to raw, 1 GiB, disk",
        arguments: &["convert", "-f", "qcow2", "-O", "raw", "data.qcow2", "out"],
        ..ON_DISK
    },
    Case {
        name: "qcow2 to qcow2, 1 GiB, disk",
        arguments: &["convert", "-f", "qcow2", "-O", "qcow2", "data.qcow2", "out"],
        ..ON_DISK
    },
    Case {
        name: "sparse, 100 GiB",
        arguments: &["convert", "-f", "raw", "-O", "qcow2", "sparse.raw", "out"],
        gate: (1.0, 2.0),
        ..COPY
    },
    Case {
        name: "zlib qcow2 to raw",
        arguments: &["convert", "-f", "qcow2", "-O", "raw", "zlib.qcow2", "out"],
        ..DECODE
    },
    Case {
        name: "zstd qcow2 to raw",
        arguments: &["convert", "-f", "qcow2", "-O", "raw", "zstd.qcow2", "out"],
        ..DECODE
    },
    Case {
        name: "raw to qcow2, -c zlib",
        arguments: &["convert", "-c", "-f", "raw", "-O", "qcow2", "mixed.raw", "out"],
        gate: (0.8, 2.0),
        ..ENCODE
    },
    Case {
        name: "raw to qcow2, -c zstd",
        arguments: &["convert", "-c", "-o", "compression_type=zstd", "-f", "raw", "-O", "qcow2", "mixed.raw", "out"],
        ..ENCODE
    },
    Case {
        name: "three layers flattened",
        arguments: &["convert", "-f", "qcow2", "-O", "qcow2", "top.qcow2", "out"],
        gate: (1.1, 2.0),
        ..COPY
    },
    Case {
        name: "streamOptimized to raw",
        arguments: &["convert", "-f", "vmdk", "-O", "raw", "stream.vmdk", "out"],
        gate: (0.8, 2.0),
        ..DECODE
    },
    Case { name: "vhdx to raw", arguments: &["convert", "-f", "vhdx", "-O", "raw", "mixed.vhdx", "out"], ..DECODE },
    Case {
        name: "compare, 1 GiB",
        arguments: &["compare", "-f", "raw", "-F", "qcow2", "data.raw", "data.qcow2"],
        gate: (1.1, 2.0),
        ..INFO
    },
    Case {
        name: "map, 29,000 extents",
        arguments: &["map", "--output=json", "-f", "qcow2", "fragments.qcow2"],
        gate: (1.0, 2.0),
        ..INFO
    },
    Case {
        name: "check, 256 GiB of metadata",
        arguments: &["check", "-f", "qcow2", "metadata.qcow2"],
        gate: (0.8, 0.8),
        ..INFO
    },
    Case { name: "check, small", arguments: &["check", "layer1.qcow2"], ..INFO },
    Case { name: "measure, small", arguments: &["measure", "-O", "qcow2", "layer1.qcow2"], ..INFO },
    Case {
        name: "info of 16 layers",
        arguments: &["info", "--backing-chain", "layer16.qcow2"],
        gate: (3.0, 3.0),
        ..INFO
    },
    Case { name: "map of 16 layers", arguments: &["map", "layer16.qcow2"], gate: (3.0, 3.0), ..INFO },
    Case { name: "measure", arguments: &["measure", "-f", "qcow2", "-O", "qcow2", "data.qcow2"], ..INFO },
    Case {
        name: "100 images of 8 MiB",
        arguments: &["convert", "-f", "raw", "-O", "qcow2", "small.raw", "out"],
        gate: (1.2, 2.0),
        calls: 100,
        ..COPY
    },
];

/// On another engine: what a copy of much data may cost of the built-in machine's time.
const ENGINE_GATE: f64 = 1.5;

/// One of the two that are timed.
struct Rival<'a> {
    name: &'a str,
    program: &'a Path,
    engine: &'a str,
}

impl Rival<'_> {
    fn arguments(&self, case: &Case) -> Vec<&'static str> {
        // The subcommand is the first word.
        let (subcommand, rest) = case.arguments.split_at(1);
        let fast = if self.name == "qemu-img" { case.fast } else { &[] };
        [subcommand, fast, rest].concat()
    }
}

/// What one run cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

pub fn bench(options: &Options) -> Result<()> {
    let instar = crate::build::build()?;
    let own = format!("instar-bench-{}", std::process::id());
    let directory = options.directory.join(&own);
    let disk = match &options.disk {
        Some(disk) => disk.join(&own),
        None => crate::cargo::target().join(&own),
    };
    fs::create_dir_all(&directory)?;
    let result = run(options, &instar, &directory, &disk);
    fs::remove_dir_all(&directory)?;
    if disk.exists() {
        fs::remove_dir_all(&disk)?;
    }
    result
}

fn run(options: &Options, instar: &Path, memory: &Path, disk: &Path) -> Result<()> {
    make_images(memory)?;
    let builtin = Rival { name: "instar", program: instar, engine: "builtin" };
    let (ours, theirs) = match &options.engine {
        Some(engine) => (Rival { name: engine, program: instar, engine }, builtin),
        None => (builtin, Rival { name: "qemu-img", program: Path::new("qemu-img"), engine: "" }),
    };
    let names = format!("{} ms | {} ms", ours.name, theirs.name);
    println!("| case | wall ratio (min, median) | CPU ratio | {names} | peak MiB | gates |");
    println!("|---|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    let wanted =
        |case: &&Case| options.filter.is_empty() || options.filter.iter().any(|word| case.name.contains(word.as_str()));
    if CASES.iter().filter(wanted).any(|case| case.on_disk) {
        copy_to_disk(memory, disk)?;
    }
    for case in CASES.iter().filter(wanted) {
        let directory = if case.on_disk { disk } else { memory };
        let mut pairs = Vec::new();
        for round in 0..=options.pairs {
            let pair = (time(&ours, case, directory)?, time(&theirs, case, directory)?);
            // The first pair warms caches up.
            if round > 0 {
                pairs.push(pair);
            }
        }
        let gate = match &options.engine {
            Some(_) if case.gate == COPY.gate => (ENGINE_GATE, f64::INFINITY),
            Some(_) => (f64::INFINITY, f64::INFINITY),
            None => case.gate,
        };
        let ratio = |cost: fn(&Cost) -> Duration| -> Vec<f64> {
            sorted(pairs.iter().map(|(ours, theirs)| cost(ours).as_secs_f64() / cost(theirs).as_secs_f64().max(1e-6)))
        };
        let (wall, cpu) = (ratio(|cost| cost.wall), ratio(|cost| cost.cpu));
        let ms = |costs: Vec<f64>| median(&costs) * 1e3;
        println!(
            "| {} | {:.2}, {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1}, {:.1} |",
            case.name,
            wall[0],
            median(&wall),
            median(&cpu),
            ms(sorted(pairs.iter().map(|(ours, _)| ours.wall.as_secs_f64()))),
            ms(sorted(pairs.iter().map(|(_, theirs)| theirs.wall.as_secs_f64()))),
            peak_mib(&ours, case, directory)?,
            gate.0,
            gate.1
        );
        if median(&wall) > gate.0 || median(&cpu) > gate.1 {
            missed.push(case.name);
        }
    }
    if !missed.is_empty() {
        bail!("over their gates: {}", missed.join(", "));
    }
    Ok(())
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Makes what the cases read, in page cache: 1 GiB that does not compress, 128 MiB of text, holes and noise that
/// does, a sparse disk and a chain.
fn make_images(directory: &Path) -> Result<()> {
    let mut file = File::create(directory.join("data.raw"))?;
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = vec![0u8; 1 << 20];
    for _ in 0..1024 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    drop(file);
    // 4 KiB of content, 4 KiB of nothing.
    let fragments = File::create(directory.join("fragments.raw"))?;
    for index in 0..29_000 {
        fragments.write_all_at(&block[..4096], index * 8192)?;
    }
    drop(fragments);
    const SCRIPT: &str = "
        qemu-img convert -f raw -O qcow2 data.raw data.qcow2
        head -c 8M data.raw >small.raw
        (seq 1 9000000; head -c 60M data.raw) | head -c 128M >mixed.raw
        qemu-img convert -c -f raw -O qcow2 mixed.raw zlib.qcow2
        qemu-img convert -c -f raw -O qcow2 -o compression_type=zstd mixed.raw zstd.qcow2
        qemu-img convert -f raw -O vmdk -o subformat=streamOptimized mixed.raw stream.vmdk
        qemu-img convert -f raw -O vhdx mixed.raw mixed.vhdx
        qemu-img convert -f raw -O qcow2 -o cluster_size=4k fragments.raw fragments.qcow2
        rm fragments.raw
        qemu-img create -q -f qcow2 -o preallocation=metadata metadata.qcow2 256G
        truncate -s 100G sparse.raw
        for at in 0 10 20 30 40 50 60 70 80 90; do
            dd if=data.raw of=sparse.raw bs=1M count=4 seek=$((at * 1024)) conv=notrunc status=none
        done
        qemu-img convert -f raw -O qcow2 mixed.raw base.qcow2
        qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 middle.qcow2
        qemu-io -c 'write -P 3 10M 30M' middle.qcow2 >/dev/null
        qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2
        qemu-io -c 'write -P 4 30M 30M' top.qcow2 >/dev/null
        qemu-img create -q -f qcow2 layer1.qcow2 64M
        for n in $(seq 2 16); do
            qemu-img create -q -f qcow2 -b layer$((n - 1)).qcow2 -F qcow2 layer$n.qcow2
            qemu-io -c \"write -P $n $((n * 2))M 1M\" layer$n.qcow2 >/dev/null
        done";
    let status = Command::new("sh").current_dir(directory).args(["-euc", SCRIPT]).status()?;
    if !status.success() {
        bail!("the images could not be made: xtask/setup-debian.sh installs qemu-img and qemu-io");
    }
    Ok(())
}

/// Puts what the cases on a disk read there, and waits until nothing of it is to be written any more.
fn copy_to_disk(memory: &Path, disk: &Path) -> Result<()> {
    fs::create_dir_all(disk)?;
    for name in ["data.raw", "data.qcow2"] {
        fs::copy(memory.join(name), disk.join(name))?;
        File::open(disk.join(name))?.sync_all()?;
    }
    Ok(())
}

/// A run that has not started; what the one before has left is gone.
fn command(program: &Path, rival: &Rival<'_>, case: &Case, directory: &Path) -> Command {
    if let Some(output) = case.output {
        let _ = fs::remove_file(directory.join(output));
    }
    let mut command = Command::new(program);
    command.current_dir(directory).stdout(Stdio::null()).stdin(Stdio::null());
    command.env("INSTAR_ENGINE", rival.engine);
    command
}

fn succeed(command: &mut Command, case: &Case) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{:?} {:?} ended with {status}", command.get_program(), case.arguments);
    }
    Ok(())
}

/// One run: wall clock, and processor time of the process and all it waited for.
fn time(rival: &Rival<'_>, case: &Case, directory: &Path) -> Result<Cost> {
    let mut commands: Vec<Command> = (0..case.calls).map(|_| command(rival.program, rival, case, directory)).collect();
    let before = children_cpu()?;
    let start = Instant::now();
    for command in &mut commands {
        succeed(command.args(rival.arguments(case)), case)?;
    }
    Ok(Cost { wall: start.elapsed(), cpu: children_cpu()?.saturating_sub(before) })
}

fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.unsigned_abs()))
}

/// Largest resident set of any process of one run, in MiB.
fn peak_mib(rival: &Rival<'_>, case: &Case, directory: &Path) -> Result<f64> {
    let report = directory.join("time");
    let mut command = command(Path::new("/usr/bin/time"), rival, case, directory);
    command.args(["-f", "%M", "-o"]).arg(&report).arg(rival.program).args(rival.arguments(case));
    succeed(&mut command, case)?;
    let kib: f64 = fs::read_to_string(report)?.trim().parse().context("GNU time printed no figure")?;
    Ok(kib / 1024.0)
}
