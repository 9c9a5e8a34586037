//! Where a test runs: the built-in machine's buses, and the programs that are here.

use instar::job::Machine as _;
use instar::machine::{Accelerator, Choice, Engine, MachineError, Program, QemuMachine, Transport};

const KVM: Program = Program::Qemu(QemuMachine::Microvm, Accelerator::Kvm);
pub const TCG: Program = Program::Qemu(QemuMachine::Microvm, Accelerator::Tcg);
pub const Q35: Program = Program::Qemu(QemuMachine::Q35, Accelerator::Tcg);

/// The built-in machine's buses.
const BUSES: [(&str, Transport); 4] = [
    ("table", Transport::Table),
    ("strict-mmio", Transport::StrictMmio),
    ("pci", Transport::Pci),
    ("pci-by-ports", Transport::PciByPorts),
];

/// The programs of others.
pub const PROGRAMS: [(&str, Program); 5] = [
    ("qemu-kvm", KVM),
    ("qemu-tcg", TCG),
    ("qemu-q35", Q35),
    ("cloud-hypervisor", Program::CloudHypervisor),
    ("firecracker", Program::Firecracker),
];

/// Whether a place is one of the built-in machine's buses.
pub fn is_builtin(name: &str) -> bool {
    BUSES.iter().any(|(known, _)| *known == name)
}

/// The engine of a place, for a child.
pub fn engine(name: &str, words: fn(&MachineError) -> String) -> Engine {
    let mut engine = Engine::new(words);
    if let Some((_, transport)) = BUSES.iter().find(|(known, _)| *known == name) {
        return engine.on(*transport);
    }
    let (_, program) = PROGRAMS.iter().find(|(known, _)| *known == name).expect("a place");
    engine.choose(Choice::Outside(*program));
    engine
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
    BUSES.iter().map(|(name, _)| *name).chain(programs())
}

/// Those of them that are programs.
pub fn programs() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().filter(|(name, program)| is_here(*program, name)).map(|(name, _)| *name)
}
