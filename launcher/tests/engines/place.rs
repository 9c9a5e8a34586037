//! Where a test runs: the built-in machine's buses, and the programs that are here.

use instar::job::Machine as _;
use instar::machine::{Accelerator, Choice, Engine, MachineError, Program, QemuMachine, Transport};

/// What makes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Builtin(Transport),
    Outside(Program),
}

const KVM: Program = Program::Qemu(QemuMachine::Microvm, Accelerator::Kvm);
pub const TCG: Program = Program::Qemu(QemuMachine::Microvm, Accelerator::Tcg);
pub const Q35: Program = Program::Qemu(QemuMachine::Q35, Accelerator::Tcg);

const PLACES: [(&str, Place); 9] = [
    ("table", Place::Builtin(Transport::Table)),
    ("strict-mmio", Place::Builtin(Transport::StrictMmio)),
    ("pci", Place::Builtin(Transport::Pci)),
    ("pci-by-ports", Place::Builtin(Transport::PciByPorts)),
    ("qemu-kvm", Place::Outside(KVM)),
    ("qemu-tcg", Place::Outside(TCG)),
    ("qemu-q35", Place::Outside(Q35)),
    ("cloud-hypervisor", Place::Outside(Program::CloudHypervisor)),
    ("firecracker", Place::Outside(Program::Firecracker)),
];

fn place(name: &str) -> Place {
    PLACES.iter().find(|(known, _)| *known == name).expect("a place").1
}

/// Whether a place is one of the built-in machine's buses.
pub fn is_builtin(name: &str) -> bool {
    matches!(place(name), Place::Builtin(_))
}

/// The engine of a place, for a child.
pub fn engine(name: &str, words: fn(&MachineError) -> String) -> Engine {
    let engine = Engine::new(words);
    match place(name) {
        Place::Builtin(transport) => engine.on(transport),
        Place::Outside(program) => {
            let mut engine = engine;
            engine.choose(Choice::Outside(program));
            engine
        }
    }
}

/// Whether a program is here; if not, the test says so and does without it. One that the environment names must be.
pub fn is_here(program: Program, name: &str) -> bool {
    match program.check() {
        Ok(_) => true,
        Err(error) if std::env::var_os(program.variable()).is_some() => {
            panic!("{} names no {name}: {error:?}", program.variable())
        }
        Err(_) => {
            println!("skipped: no {name}");
            false
        }
    }
}

/// Places to try; those that lack their program are named.
pub fn places() -> impl Iterator<Item = &'static str> {
    PLACES
        .iter()
        .filter(|&&(name, place)| match place {
            Place::Builtin(_) => true,
            Place::Outside(program) => is_here(program, name),
        })
        .map(|&(name, _)| name)
}

/// Those of them that are programs.
pub fn programs() -> impl Iterator<Item = &'static str> {
    places().filter(|name| !is_builtin(name))
}
