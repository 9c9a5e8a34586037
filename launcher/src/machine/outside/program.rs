//! Which program, and how it is told.

use super::directory::Directory;
use super::{cloud_hypervisor, firecracker, qemu};
use instar_abi::layout;
use std::ffi::OsString;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A program that makes machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// QEMU.
    Qemu(QemuMachine, Accelerator),
    /// cloud-hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
}

/// A machine of QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QemuMachine {
    /// virtio-mmio, next to no firmware.
    Microvm,
    /// PCI.
    Q35,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM where it can be opened, else translation.
    Best,
    /// The processor.
    Kvm,
    /// Translation: slow, but everywhere.
    Tcg,
}

/// Why a program can't be used.
#[derive(Debug)]
pub enum ProgramError {
    /// It is not there.
    Missing {
        /// Its name.
        name: &'static str,
        /// What was looked for.
        path: OsString,
        /// The environment variable that names another.
        variable: &'static str,
    },
    /// It could not be started.
    Start {
        /// What was tried.
        path: OsString,
        /// Why.
        error: io::Error,
    },
    /// Another version, or another program, than can be used.
    Version {
        /// Its name.
        name: &'static str,
        /// The first line of its `--version`.
        found: String,
        /// The oldest that can be used.
        oldest: (u32, u32),
        /// The environment variable that names another.
        variable: &'static str,
    },
    /// Its machine has fewer places for devices than the run needs.
    Devices {
        /// Its name.
        name: &'static str,
        /// Devices of the run, the control device among them.
        needed: usize,
        /// Most that it can have.
        most: usize,
    },
    /// It needs /dev/kvm, which can't be opened.
    Kvm {
        /// Its name.
        name: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// What a program is told of a run.
pub struct Plan<'a> {
    /// For files of its own.
    pub directory: &'a Directory,
    /// The op image.
    pub kernel: &'a Path,
    /// The sockets of the devices, in order.
    pub sockets: &'a [PathBuf],
    /// Guest memory.
    pub memory_mib: u64,
    /// The descriptor of a file that holds it, open in the program as well; not all can use one.
    pub memory: RawFd,
    /// Lanes: cores, and queues of every device but the control device.
    pub lanes: usize,
    /// The kernel's command line.
    pub line: String,
}

impl Plan<'_> {
    /// Queues of a device: the control device is lane 0's alone.
    pub const fn queues(&self, device: usize) -> usize {
        if device == 0 { 1 } else { self.lanes }
    }
}

impl Program {
    /// Its name, which `--engine` takes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qemu(..) => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
        }
    }

    /// The environment variable that names its binary.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Qemu(..) => "INSTAR_QEMU",
            Self::CloudHypervisor => "INSTAR_CLOUD_HYPERVISOR",
            Self::Firecracker => "INSTAR_FIRECRACKER",
        }
    }

    /// What its binary is called.
    const fn binary(self) -> &'static str {
        match self {
            Self::Qemu(..) => "qemu-system-x86_64",
            other => other.name(),
        }
    }

    /// The oldest version that this is tested with.
    const fn oldest(self) -> (u32, u32) {
        match self {
            Self::Qemu(..) => (10, 0),
            Self::CloudHypervisor => (53, 0),
            Self::Firecracker => (1, 16),
        }
    }

    /// The words of the kernel's command line that tell of its machine: where devices are, how it is switched off.
    /// QEMU's microvm and Firecracker add the devices themselves.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Qemu(QemuMachine::Microvm, _) => qemu::WORDS,
            Self::Qemu(QemuMachine::Q35, _) => qemu::Q35_WORDS,
            Self::CloudHypervisor => cloud_hypervisor::WORDS,
            Self::Firecracker => firecracker::WORDS,
        }
    }

    /// Most lanes of its machine.
    #[must_use]
    pub const fn lanes_max(self) -> usize {
        match self {
            // Its devices have one queue.
            Self::Firecracker => 1,
            Self::Qemu(..) | Self::CloudHypervisor => layout::LANES_MAX,
        }
    }

    /// Most devices of its machine, the control device among them.
    #[must_use]
    pub const fn devices_max(self) -> usize {
        match self {
            Self::Qemu(QemuMachine::Microvm, _) => qemu::MICROVM_DEVICES_MAX,
            Self::Qemu(QemuMachine::Q35, _) => qemu::Q35_DEVICES_MAX,
            Self::CloudHypervisor => cloud_hypervisor::DEVICES_MAX,
            Self::Firecracker => firecracker::DEVICES_MAX,
        }
    }

    /// Whether it takes a file of ours for guest memory.
    #[must_use]
    pub const fn takes_memory(self) -> bool {
        matches!(self, Self::Qemu(..))
    }

    /// The path of its binary: the user's, or a name to be looked for. A path starts at the root, as the program is
    /// started elsewhere.
    fn path(self) -> OsString {
        let path = std::env::var_os(self.variable()).filter(|path| !path.is_empty());
        let path = path.unwrap_or_else(|| self.binary().into());
        if path.as_encoded_bytes().contains(&b'/') {
            return std::path::absolute(&path).map_or(path, PathBuf::into_os_string);
        }
        path
    }

    /// Whether there is such a program, of a version that can be used.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub fn check(self) -> Result<String, ProgramError> {
        self.ask()?.answer()
    }

    /// Asks for the version; the answer takes QEMU as long as half of its start.
    ///
    /// # Errors
    /// [`ProgramError`]: there is no such program.
    pub(super) fn ask(self) -> Result<Asked, ProgramError> {
        let mut command = Command::new(self.path());
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| self.could_not_start(error))?;
        Ok(Asked { program: self, child })
    }

    /// The command for a run.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub(super) fn command(self, plan: &Plan<'_>) -> Result<Command, ProgramError> {
        let mut command = Command::new(self.path());
        let kvm = || kvm().map_err(|error| ProgramError::Kvm { name: self.name(), error });
        match self {
            Self::Qemu(machine, accelerator) => {
                let accelerator = match accelerator {
                    Accelerator::Kvm => kvm().map(|()| "kvm")?,
                    Accelerator::Tcg => "tcg",
                    Accelerator::Best => kvm().map_or("tcg", |()| "kvm"),
                };
                qemu::arguments(&mut command, machine, accelerator, plan);
            }
            Self::CloudHypervisor => {
                kvm()?;
                cloud_hypervisor::arguments(&mut command, plan);
            }
            Self::Firecracker => {
                kvm()?;
                firecracker::arguments(&mut command, plan)
                    .map_err(|error| ProgramError::Start { path: self.path(), error })?;
            }
        }
        // Where binaries are is all it needs to know of this process's surroundings.
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.current_dir(plan.directory.path());
        Ok(command)
    }

    /// What it means that it could not be started.
    pub(super) fn could_not_start(self, error: io::Error) -> ProgramError {
        let path = self.path();
        match error.kind() {
            io::ErrorKind::NotFound => ProgramError::Missing { name: self.name(), path, variable: self.variable() },
            _ => ProgramError::Start { path, error },
        }
    }
}

/// A program that has been asked for its version.
pub(super) struct Asked {
    program: Program,
    child: Child,
}

impl Asked {
    /// The first line of what it says, if it is of a version that can be used.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub fn answer(self) -> Result<String, ProgramError> {
        let Self { program, child } = self;
        let output = child.wait_with_output().map_err(|error| program.could_not_start(error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default().to_owned();
        match version(&text) {
            Some(found) if found >= program.oldest() => Ok(first),
            _ => Err(ProgramError::Version {
                name: program.name(),
                found: first,
                oldest: program.oldest(),
                variable: program.variable(),
            }),
        }
    }
}

/// Whether KVM can be used by this user.
///
/// # Errors
/// The host's.
pub fn kvm() -> io::Result<()> {
    std::fs::File::options().read(true).write(true).open("/dev/kvm").map(drop)
}

/// The first two numbers that stand behind one another in a text: `… version 10.0.2`, `v1.16.0`.
fn version(text: &str) -> Option<(u32, u32)> {
    let word = |word: &str| {
        let mut numbers = word.trim_start_matches('v').split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor: String = numbers.next()?.chars().take_while(char::is_ascii_digit).collect();
        Some((major, minor.parse().ok()?))
    };
    text.lines().next()?.split_whitespace().find_map(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_three_programs() {
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n"), Some((10, 0)));
        assert_eq!(version("cloud-hypervisor v53.0\n"), Some((53, 0)));
        assert_eq!(version("cloud-hypervisor v54.0-12-gabc\n"), Some((54, 0)));
        assert_eq!(version("Firecracker v1.17.0-dev\n\nmore 9.9"), Some((1, 17)));
        assert_eq!(version("BusyBox\n9.9"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn another_program_is_refused_by_what_it_says() {
        let program = Program::CloudHypervisor;
        let error = program.could_not_start(io::ErrorKind::NotFound.into());
        assert!(matches!(error, ProgramError::Missing { variable: "INSTAR_CLOUD_HYPERVISOR", .. }));
        let error = program.could_not_start(io::ErrorKind::PermissionDenied.into());
        assert!(matches!(error, ProgramError::Start { .. }));
    }
}
