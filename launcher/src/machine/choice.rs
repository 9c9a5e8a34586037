//! Which engine the user wants.
#![forbid(unsafe_code)]

use super::outside::{Accelerator, Program, QemuMachine};

/// `--engine` and `INSTAR_ENGINE`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// The built-in machine.
    #[default]
    Builtin,
    /// A program of others'.
    Outside(Program),
    /// The built-in machine where KVM can be opened, else QEMU where there is one.
    Auto,
}

impl Choice {
    /// The names that [`Choice::from_name`] knows.
    pub const NAMES: &str = "builtin, qemu, cloud-hypervisor, firecracker, auto";

    /// The choice of this name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"builtin" => Self::Builtin,
            b"qemu" => Self::Outside(QEMU),
            b"cloud-hypervisor" => Self::Outside(Program::CloudHypervisor),
            b"firecracker" => Self::Outside(Program::Firecracker),
            b"auto" => Self::Auto,
            _ => return None,
        })
    }

    /// The program to be used; `None`: the built-in machine.
    #[must_use]
    pub fn program(self) -> Option<Program> {
        match self {
            Self::Builtin => None,
            Self::Outside(program) => Some(program),
            // Without either, the built-in machine says what is missing.
            Self::Auto => (super::outside::kvm().is_err() && QEMU.check().is_ok()).then_some(QEMU),
        }
    }
}

/// QEMU as users get it.
const QEMU: Program = Program::Qemu(QemuMachine::Microvm, Accelerator::Best);
