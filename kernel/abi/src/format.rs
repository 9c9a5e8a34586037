//! The names of disk-image formats.

use serde::{Deserialize, Serialize};

macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// A disk-image format that instar knows by name. Knowing a name is not being able to read it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Format { $($(#[$doc])* $variant),* }

        impl Format {
            /// Every format, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// qemu-img's name of the format.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The format of a name as typed after `-f`, in a `json:` name or in an image.
            #[must_use]
            pub fn from_name(name: &[u8]) -> Option<Self> {
                Self::ALL.iter().copied().find(|format| format.name().as_bytes() == name)
            }
        }
    };
}

formats! {
    /// Bytes as they are.
    Raw = "raw",
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2 = "qcow2",
    /// QEMU copy-on-write, version 1.
    Qcow = "qcow",
    /// VMware virtual disk.
    Vmdk = "vmdk",
    /// Microsoft Virtual Hard Disk.
    Vpc = "vpc",
    /// Microsoft Virtual Hard Disk, version 2.
    Vhdx = "vhdx",
    /// VirtualBox disk image.
    Vdi = "vdi",
    /// LUKS encrypted volume.
    Luks = "luks",
    /// Parallels disk image.
    Parallels = "parallels",
    /// QEMU enhanced disk.
    Qed = "qed",
    /// Apple disk image.
    Dmg = "dmg",
    /// Bochs growing disk.
    Bochs = "bochs",
    /// Compressed loop.
    Cloop = "cloop",
    /// ISO 9660 volume; qemu-img calls its content raw.
    Iso = "iso",
}
