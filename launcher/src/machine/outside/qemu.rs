//! QEMU: microvm, whose devices it appends to the command line, and q35, whose devices are on PCI.

use super::program::{Plan, QemuMachine};
use crate::vmm::queue::QUEUE_SIZE_MAX;
use std::process::Command;

/// Byte 0 to port 0x501, where `isa-debug-exit` is. The exit status is none of anybody's business.
pub const WORDS: &str = "poff=501,0";
/// The same; configuration space in memory lies below the windows that the guest maps.
pub const Q35_WORDS: &str = "poff=501,0 pci=cf8";

/// The arguments of a run.
pub fn arguments(command: &mut Command, machine: QemuMachine, accelerator: &str, plan: &Plan<'_>) {
    let (machine, device) = match machine {
        // Two interrupt controllers: 24 places for devices instead of 8.
        QemuMachine::Microvm => {
            ("microvm,pit=off,pic=off,rtc=off,isa-serial=on,x-option-roms=off,acpi=off,ioapic2=on", "vhost-user-blk")
        }
        QemuMachine::Q35 => ("q35", "vhost-user-blk-pci,disable-legacy=on"),
    };
    let memory = plan.memory_mib;
    command.args(["-M", &format!("{machine},memory-backend=m"), "-accel", accelerator, "-cpu", "max"]);
    command.args([
        "-m",
        &format!("{memory}M"),
        "-object",
        &format!("memory-backend-memfd,id=m,size={memory}M,share=on"),
    ]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    command.args(["-global", "virtio-mmio.force-legacy=false", "-device", "isa-debug-exit,iobase=0x501,iosize=1"]);
    command.args(["-smp", &plan.lanes.to_string()]);
    for (index, socket) in plan.sockets.iter().enumerate() {
        let queues = plan.queues(index);
        // Paths are ours: they hold no comma.
        command.args(["-chardev", &format!("socket,id=c{index},path={}", socket.display())]);
        // q35's firmware takes all that a queue may hold, and tries each disk.
        command
            .args(["-device", &format!("{device},chardev=c{index},num-queues={queues},queue-size={QUEUE_SIZE_MAX}")]);
    }
    command.arg("-kernel").arg(plan.kernel).args(["-append", &plan.line]);
}
