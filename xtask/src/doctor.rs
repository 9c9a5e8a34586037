//! What this machine lacks for building and testing instar.

use anyhow::{Result, bail};
use std::process::{Command, Stdio};

#[derive(clap::Args)]
pub struct Options {
    /// Something missing is an error
    #[arg(long)]
    strict: bool,
}

/// A program that tests use, what for, and the Debian package that has it.
struct Tool {
    program: &'static str,
    use_: &'static str,
    package: &'static str,
}

/// Everything that `xtask/setup-debian.sh` installs; tidy holds the two against each other.
const TOOLS: &[Tool] = &[
    Tool { program: "qemu-img", use_: "the judge of every comparison", package: "qemu-utils" },
    Tool { program: "qemu-system-x86_64", use_: "an engine, and its tests", package: "qemu-system-x86" },
    Tool { program: "qemu-io", use_: "makes images with clusters of every kind", package: "qemu-utils" },
    Tool { program: "strace", use_: "shows which files a run opens", package: "strace" },
    Tool { program: "mkfs.ext4", use_: "makes a real file system to convert", package: "e2fsprogs" },
    Tool { program: "sfdisk", use_: "makes partition tables", package: "fdisk" },
    Tool { program: "/usr/bin/time", use_: "tells the benchmark's peak memory", package: "time" },
    // Its module needs the package; the interpreter comes with it.
    Tool {
        program: "/usr/bin/python3",
        use_: "reads qcow2 by libyal's reader, not qemu's",
        package: "python3-libqcow",
    },
    Tool { program: "/usr/bin/python3", use_: "reads VHD and VHDX by libyal's reader", package: "python3-libvhdi" },
    Tool { program: "/usr/bin/python3", use_: "reads VMDK by libyal's reader", package: "python3-libvmdk" },
    Tool {
        program: "/usr/bin/python3",
        use_: "reads our answers by OpenStack's parser",
        package: "python3-oslo.utils",
    },
    Tool { program: "g++", use_: "builds the fuzzing engine", package: "g++" },
];

/// Debian packages that the tests need.
pub fn packages() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().map(|tool| tool.package)
}

pub fn doctor(options: &Options) -> Result<()> {
    let mut missing = 0;
    let mut say = |ok: bool, what: &str, mend: &str| {
        missing += usize::from(!ok);
        println!(
            "{} {what}{}",
            if ok { "ok     " } else { "missing" },
            if ok { String::new() } else { format!("\n        mend: {mend}") }
        );
    };
    let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    say(
        kvm.is_ok(),
        "/dev/kvm: guests run on it; without it every test in a VM fails",
        "load kvm_intel or kvm_amd, and join the group that owns /dev/kvm",
    );
    for tool in TOOLS {
        let found = Command::new(tool.program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok();
        let mend = format!("sudo xtask/setup-debian.sh, or apt-get install {}", tool.package);
        say(found, &format!("{}: {}", tool.program, tool.use_), &mend);
    }
    if options.strict && missing > 0 {
        bail!("{missing} things are missing");
    }
    Ok(())
}
