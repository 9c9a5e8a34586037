//! cloud-hypervisor: devices on PCI, in the order of the options.

use super::program::Plan;
use std::process::Command;

/// Its configuration space, and ACPI's sleep port: byte 0x34 is S5.
pub const WORDS: &str = "ecam=0xe8000000 poff=600,34";

/// Places of its PCI bus: the first is the bridge's, one is its own source of randomness.
pub const DEVICES_MAX: usize = 30;

/// The arguments of a run.
pub fn arguments(command: &mut Command, plan: &Plan<'_>) {
    command.args([
        "--cpus",
        &format!("boot={}", plan.lanes),
        "--memory",
        &format!("size={}M,shared=on", plan.memory_mib),
    ]);
    command.args(["--serial", "tty", "--console", "off", "--disk"]);
    for (index, socket) in plan.sockets.iter().enumerate() {
        let queues = plan.queues(index);
        // Paths are ours: they hold no comma.
        command.arg(format!("vhost_user=on,socket={},num_queues={queues},queue_size=128", socket.display()));
    }
    command.arg("--kernel").arg(plan.kernel).args(["--cmdline", &plan.line]);
}
