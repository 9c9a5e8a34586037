//! Firecracker: devices on virtio-mmio, which it appends to the command line in the order of its configuration.

use super::program::Plan;
use serde_json::json;
use std::io;
use std::process::Command;

/// The keyboard controller's reset line.
pub const WORDS: &str = "poff=64,fe";

/// Interrupt lines 5 to 23, a device each, but for two of its own (`GSI_LEGACY_START`, VMGenID, VMClock). On PCI it has room for
/// more, in windows that the guest does not map.
pub const DEVICES_MAX: usize = 17;

/// The arguments of a run, and the configuration they name.
///
/// # Errors
/// The configuration can't be written.
pub fn arguments(command: &mut Command, plan: &Plan<'_>) -> io::Result<()> {
    let drives = plan.sockets.iter().enumerate();
    let drives: Vec<_> = drives
        .map(|(index, socket)| json!({"drive_id": format!("d{index}"), "socket": socket, "is_root_device": false}))
        .collect();
    let configuration = json!({
        "boot-source": {"kernel_image_path": plan.kernel, "boot_args": plan.line},
        "drives": drives,
        "machine-config": {"vcpu_count": 1, "mem_size_mib": plan.memory_mib},
    });
    let path = plan.directory.write("configuration", configuration.to_string().as_bytes())?;
    command.args(["--no-api", "--level", "Error", "--config-file"]).arg(path);
    Ok(())
}
