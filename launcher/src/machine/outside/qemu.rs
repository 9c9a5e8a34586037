//! QEMU: microvm, whose devices it appends to the command line, and q35, whose devices are on PCI.

use super::program::{Plan, QemuMachine};
use crate::vmm::queue::QUEUE_SIZE_MAX;
use std::process::Command;

/// Byte 0 to port 0x501, where `isa-debug-exit` is. The exit status is none of anybody's business.
pub const WORDS: &str = "poff=501,0";
/// The same; configuration space in memory lies below the windows that the guest maps.
pub const Q35_WORDS: &str = "poff=501,0 pci=cf8";

/// Places of microvm's virtio-mmio devices. There is a second interrupt controller for them with ACPI only.
pub const MICROVM_DEVICES_MAX: usize = 24;
/// The same without ACPI, whose tables cost the firmware 10 ms.
const MICROVM_DEVICES_MAX_PLAIN: usize = 8;
/// Places of q35's root bus: the first and the last are the chipset's own.
pub const Q35_DEVICES_MAX: usize = 30;
/// Where the first of microvm's places is, and how far apart they are (QEMU, include/hw/i386/microvm.h and hw/i386/microvm.c).
const VIRTIO_MMIO_BASE: usize = 0xfeb0_0000;
const VIRTIO_MMIO_LEN: usize = 512;

/// The words that tell where `count` devices of microvm are. Without ACPI QEMU says so itself.
fn microvm_devices(count: usize) -> String {
    let place =
        |index| format!(" virtio_mmio.device={VIRTIO_MMIO_LEN}@{:#x}", VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_LEN);
    (0..count).map(place).collect()
}

/// The arguments of a run.
pub fn arguments(command: &mut Command, machine: QemuMachine, accelerator: &str, plan: &Plan<'_>) {
    let many = machine == QemuMachine::Microvm && plan.sockets.len() > MICROVM_DEVICES_MAX_PLAIN;
    let (model, device) = match machine {
        QemuMachine::Q35 => ("q35", "vhost-user-blk-pci,disable-legacy=on"),
        QemuMachine::Microvm if !many => {
            ("microvm,pit=off,pic=off,rtc=off,isa-serial=on,x-option-roms=off,acpi=off", "vhost-user-blk")
        }
        QemuMachine::Microvm => {
            // ACPI brings another firmware, which does not know PVH.
            command.args(["-bios", "qboot.rom"]);
            ("microvm,pit=off,pic=off,rtc=off,isa-serial=on,x-option-roms=off,acpi=on,ioapic2=on", "vhost-user-blk")
        }
    };
    let memory = plan.memory_mib;
    command.args(["-M", &format!("{model},memory-backend=m"), "-accel", accelerator, "-cpu", "max"]);
    // Large pages of the file are none of the mapping's unless it is aligned to them.
    let file = format!("mem-path=/proc/self/fd/{},align=2M", plan.memory);
    let backend = format!("memory-backend-file,id=m,size={memory}M,{file},share=on");
    command.args(["-m", &format!("{memory}M"), "-object", &backend]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    command.args(["-global", "virtio-mmio.force-legacy=false", "-device", "isa-debug-exit,iobase=0x501,iosize=1"]);
    command.args(["-smp", &plan.lanes.to_string()]);
    for (index, socket) in plan.sockets.iter().enumerate() {
        let queues = plan.queues(index);
        // Paths are ours: they hold no comma.
        command.args(["-chardev", &format!("socket,id=c{index},path={}", socket.display())]);
        let bus = if many { format!("bus=virtio-mmio-bus.{index},") } else { String::new() };
        // q35's firmware takes all that a queue may hold, and tries each disk.
        let queues = format!("num-queues={queues},queue-size={QUEUE_SIZE_MAX}");
        command.args(["-device", &format!("{device},{bus}chardev=c{index},{queues}")]);
    }
    let devices = if many { microvm_devices(plan.sockets.len()) } else { String::new() };
    command.arg("-kernel").arg(plan.kernel).args(["-append", &format!("{}{devices}", plan.line)]);
}
