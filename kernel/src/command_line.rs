//! The kernel command line: how the launcher and the machine describe devices.
//!
//! ```text
//! apic=1                   local APICs are at the usual place, and each lane has a core; only as the first word
//! nonce=HEX32              the run's nonce, repeated in the control header
//! lanes=N                  vCPUs that may be started (default 1)
//! poff=PORT,VALUE          how to switch off, both in hexadecimal (default: the built-in machine's port)
//! serial=1                 somebody reads the serial line
//! chains=long              devices take requests of several data descriptors
//! table=N                  N devices on the table transport
//! control=ADDRESS,BYTES    control header and request also lie in memory, in hexadecimal
//! virtio_mmio.device=SIZE@ADDRESS:IRQ      one virtio-mmio device, in order (Linux's own syntax)
//! ecam=ADDRESS             devices are on PCI bus 0, whose configuration space lies there, in hexadecimal
//! pci=cf8                  the same, and its configuration space is behind the ports 0xcf8 and 0xcfc
//! ```
//! Words that are not known are passed over: machines append their own.

use alloc::vec::Vec;

/// The command line, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The nonce; zeros when none was given, which no launcher sends.
    pub nonce: [u8; 16],
    /// Local APICs are there: the boot code has started the other cores, and cores can sleep.
    pub apic: bool,
    /// Lanes that may be started.
    pub lanes: usize,
    /// Port and value that switch the machine off.
    pub power_off: Option<(u16, u8)>,
    /// Somebody reads the serial line.
    pub serial: bool,
    /// Devices take requests of several data descriptors, indirect or not.
    pub long_chains: bool,
    /// Devices on the table transport.
    pub table: u64,
    /// Control header and request in memory: address and bytes.
    pub control: Option<(u64, u64)>,
    /// virtio-mmio devices: address and bytes, in order.
    pub mmio: Vec<(u64, u64)>,
    /// Devices are on PCI bus 0.
    pub pci: Option<PciAccess>,
}

/// How configuration space of PCI bus 0 is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciAccess {
    /// By the ports 0xcf8 and 0xcfc: two exits a word.
    Ports,
    /// It lies in memory at this address.
    Ecam(u64),
}

impl CommandLine {
    /// Parses the known words.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        // The boot code looks at the first word only.
        let mut line = Self { lanes: 1, apic: text.starts_with("apic=1 "), ..Self::default() };
        for (key, value) in text.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
            match key {
                "nonce" => line.nonce = nonce(value).unwrap_or_default(),
                "lanes" => line.lanes = value.parse().unwrap_or(1),
                "poff" => {
                    line.power_off =
                        pair(value).and_then(|(port, byte)| Some((u16::try_from(port).ok()?, u8::try_from(byte).ok()?)))
                }
                "serial" => line.serial = value == "1",
                "chains" => line.long_chains = value == "long",
                "table" => line.table = value.parse().unwrap_or(0),
                "control" => line.control = pair(value),
                // Other words than this one are other programs': Firecracker appends `pci=off`.
                "pci" if value == "cf8" => line.pci = line.pci.or(Some(PciAccess::Ports)),
                "ecam" => line.pci = hex(value).map(PciAccess::Ecam).or(line.pci),
                "virtio_mmio.device" => line.mmio.extend(mmio_device(value)),
                _ => {}
            }
        }
        line.lanes = line.lanes.clamp(1, instar_abi::layout::LANES_MAX);
        line.table = line.table.min(instar_abi::layout::TABLE_DEVICES_MAX);
        line
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let (first, second) = text.split_once(',')?;
    Some((hex(first)?, hex(second)?))
}

fn nonce(text: &str) -> Option<[u8; 16]> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes))?
}

/// `SIZE@ADDRESS:IRQ`, where SIZE may end in K or M.
fn mmio_device(text: &str) -> Option<(u64, u64)> {
    let (size, rest) = text.split_once('@')?;
    let (address, _) = rest.split_once(':').unwrap_or((rest, ""));
    let (digits, shift) = match size.as_bytes().last()? {
        b'k' | b'K' => (&size[..size.len() - 1], 10),
        b'm' | b'M' => (&size[..size.len() - 1], 20),
        _ => (size, 0),
    };
    let len = digits.parse::<u64>().ok().or_else(|| hex(digits))?;
    Some((hex(address)?, len.checked_shl(shift)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_built_in_machine() {
        let line = CommandLine::parse("nonce=000102030405060708090a0b0c0d0e0f lanes=2 table=3 control=0x120000,1080");
        assert_eq!(line.nonce, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!((line.lanes, line.table, line.control), (2, 3, Some((0x12_0000, 0x1080))));
    }

    #[test]
    fn device_words_of_qemu_and_firecracker() {
        let line =
            CommandLine::parse("pci=off virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=4K@0xc0001000:5");
        assert_eq!(line.mmio, [(0xfeb0_0e00, 512), (0xc000_1000, 4096)]);
        assert_eq!(line.pci, None);
    }

    #[test]
    fn pci_is_reached_by_memory_where_its_address_is_told() {
        assert_eq!(CommandLine::parse("pci=cf8").pci, Some(PciAccess::Ports));
        assert_eq!(CommandLine::parse("pci=cf8 ecam=0xe8000000").pci, Some(PciAccess::Ecam(0xe800_0000)));
        assert_eq!(CommandLine::parse("ecam=e8000000 pci=cf8").pci, Some(PciAccess::Ecam(0xe800_0000)));
        assert_eq!(CommandLine::parse("ecam=here").pci, None);
    }

    #[test]
    fn an_apic_is_promised_by_the_first_word_only() {
        assert!(CommandLine::parse("chains=long").long_chains && !CommandLine::parse("chains=1 lanes=2").long_chains);
        assert!(CommandLine::parse("apic=1 lanes=2").apic);
        assert!(!CommandLine::parse("lanes=2 apic=1").apic);
        assert!(!CommandLine::parse("apic=10").apic);
    }

    #[test]
    fn nonsense_is_passed_over_and_bounded() {
        let line = CommandLine::parse("lanes=99 table=100000 nonce=xyz poff=1 = a=b virtio_mmio.device=@ control=,");
        assert_eq!(line.lanes, instar_abi::layout::LANES_MAX);
        assert_eq!(line.table, instar_abi::layout::TABLE_DEVICES_MAX);
        assert_eq!((line.nonce, line.power_off, line.control), ([0; 16], None, None));
        assert!(line.mmio.is_empty());
    }
}
