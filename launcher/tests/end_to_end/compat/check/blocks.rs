//! Formats whose disk is in blocks: the lines of each finding, and which of them only instar tells.

use super::super::Programs;
use crate::common::{make, scratch};
use std::fs;

/// Where a word is: at a place, or `index` words of a table that the header names at a place, in units of bytes.
enum At {
    Place(usize),
    Table {
        named_at: usize,
        unit: usize,
        index: usize,
    },
    /// A word of the first table that a directory names, both in sectors.
    LowerTable {
        named_at: usize,
        index: usize,
    },
    /// A word of a VHDX's block allocation table.
    Bat {
        index: usize,
    },
}

/// A format's image, the file of it that is bent, and its words.
struct Bent {
    script: &'static str,
    top: &'static str,
    file: &'static str,
    places: &'static [At],
    words: &'static [u32],
}

/// A far place, within no file.
const FAR: u32 = 0x7fff_0000;

const IMAGES: &[Bent] = &[
    Bent {
        script: "qemu-img create -q -f vdi a 6M; qemu-io -f vdi -c 'write 0 2M' -c 'write 4M 64k' a >/dev/null",
        top: "a",
        file: "a",
        places: &[At::Place(0x184), At::Place(0x200), At::Place(0x208)],
        words: &[0, 1, 77, u32::MAX],
    },
    Bent {
        script: "qemu-img create -q -f qed a 6M; qemu-io -f qed -c 'write 0 2M' -c 'write 4M 64k' a >/dev/null",
        top: "a",
        file: "a",
        places: &[At::Table { named_at: 40, unit: 1, index: 0 }, At::Place(0x5_0000), At::Place(0x5_0008)],
        words: &[0, 0x1_0000, 0x9_0000, 0x1234, FAR],
    },
    Bent {
        script: "qemu-img create -q -f parallels a 6M; qemu-io -f parallels -c 'write 0 2M' -c 'write 4M 64k' a >/dev/null",
        top: "a",
        file: "a",
        places: &[At::Place(44)],
        words: &[0, 1, 0x746f_6e59],
    },
    Bent {
        script: "qemu-img convert -f raw -O vmdk raw a.vmdk",
        top: "a.vmdk",
        file: "a.vmdk",
        places: &[
            At::Table { named_at: 56, unit: 512, index: 0 },
            At::LowerTable { named_at: 56, index: 0 },
            At::LowerTable { named_at: 56, index: 20 },
        ],
        words: &[0, 1, 300, FAR],
    },
    Bent {
        script: "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized raw a.vmdk",
        top: "a.vmdk",
        file: "a.vmdk",
        places: &[At::LowerTable { named_at: 56, index: 0 }, At::LowerTable { named_at: 56, index: 20 }],
        words: &[0, 1, FAR],
    },
    Bent {
        script: "qemu-img convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse raw a.vmdk",
        top: "a.vmdk",
        file: "a-s001.vmdk",
        places: &[At::Table { named_at: 56, unit: 512, index: 0 }, At::LowerTable { named_at: 56, index: 20 }],
        words: &[0, 1, FAR],
    },
    Bent {
        script: "qemu-img convert -f raw -O vhdx -o block_size=1M raw a.vhdx",
        top: "a.vhdx",
        file: "a.vhdx",
        places: &[At::Bat { index: 0 }, At::Bat { index: 3 }],
        words: &[0, 6, 7, 0x10_0006, 0x20_0006, 0x30_0006, 0x40_0006, 0x7ff0_0006],
    },
];

fn le32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

impl At {
    fn of(&self, bytes: &[u8]) -> usize {
        match *self {
            Self::Place(at) => at,
            Self::Table { named_at, unit, index } => le32(bytes, named_at) * unit + 4 * index,
            Self::LowerTable { named_at, index } => le32(bytes, le32(bytes, named_at) * 512) * 512 + 4 * index,
            Self::Bat { index } => {
                // The region whose identifier begins so.
                let entry = [0x3_0010, 0x3_0030].into_iter().find(|at| le32(bytes, *at) == 0x2dc2_7766);
                le32(bytes, entry.expect("a table") + 16) + 8 * index
            }
        }
    }
}

const RAW: &str = "truncate -s 6M raw; qemu-io -f raw -c 'write 0 700k' -c 'write 3M 200k' raw >/dev/null";

#[test]
fn damaged_images_in_blocks_are_judged_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let (mut differences, mut count) = (Vec::new(), 0);
    for image in IMAGES {
        let directory = scratch();
        let directory = directory.path();
        make(directory, RAW);
        make(directory, image.script);
        let sound = fs::read(directory.join(image.file)).expect("it was made");
        let mut judge = |bytes: &[u8]| {
            fs::write(directory.join(image.file), bytes).expect("writable");
            count += 1;
            let command = if count % 3 == 0 { "check --output=json " } else { "check " };
            if let Err(difference) = programs.compare(directory, &format!("{command}{}", image.top)) {
                differences.push(format!("{}: {difference}", image.script));
            }
        };
        for (place, word) in image.places.iter().flat_map(|place| image.words.iter().map(move |word| (place, word))) {
            let mut bytes = sound.clone();
            let at = place.of(&sound);
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
            judge(&bytes);
        }
        if !["streamOptimized", "parallels"].iter().any(|kind| image.script.contains(kind)) {
            judge(&sound[..sound.len() - 512]);
            judge(&sound[..sound.len() - 150_000]);
        }
    }
    println!("{count} damaged images");
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.concat());
}

/// Extents of forms that qemu-img does not make, by a text in front of them.
#[test]
fn flat_files_that_are_too_short_are_judged_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, RAW);
    make(directory, "head -c 100k raw >b; head -c 50k raw >c");
    for lines in [
        "RW 200 FLAT \"b\" 0\nRW 90 FLAT \"c\" 100",
        "RW 200 FLAT \"b\" 200",
        "RW 900 FLAT \"b\" 10",
        "RW 900 VMFS \"c\"",
    ] {
        let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n";
        fs::write(directory.join("a.vmdk"), format!("{text}{}\n", lines.replace("\\n", "\n"))).expect("writable");
        programs.compare(directory, "check a.vmdk").unwrap_or_else(|difference| panic!("{lines}: {difference}"));
    }
}

/// An extent of ESX without grains, whose directory has `tables` entries; the first leads to a table.
fn cowd(sectors: u32, tables: u32) -> Vec<u8> {
    let words = [1, 3, sectors, 128, 4, tables].map(u32::to_le_bytes).concat();
    let mut bytes = vec![0; (5 + 32) * 512];
    bytes[..4].copy_from_slice(b"COWD");
    bytes[4..28].copy_from_slice(&words);
    bytes[4 * 512..4 * 512 + 4].copy_from_slice(&5u32.to_le_bytes());
    bytes
}

/// A directory that is too short, entries that lead nowhere, and a grain that reaches into the next extent, which QEMU's
/// walk along the disk steps over.
#[test]
fn damaged_extents_of_esx_are_judged_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    let far = |mut bytes: Vec<u8>, entry: usize| {
        bytes[5 * 512 + 4 * entry..5 * 512 + 4 * entry + 4].copy_from_slice(&0x7fff_0000u32.to_le_bytes());
        bytes
    };
    for (first, second) in [
        (cowd(1000, 1), cowd(1000, 1)),
        (cowd(128 * 4096 * 2, 1), cowd(1000, 1)),
        (far(cowd(1000, 1), 3), cowd(1000, 1)),
        (cowd(100, 1), far(cowd(1000, 1), 0)),
        (cowd(100, 1), far(cowd(1000, 1), 2)),
        (cowd(100, 1), far(cowd(1000, 1), 7)),
        (cowd(128, 1), cowd(128 * 4096 + 5, 1)),
    ] {
        fs::write(directory.join("b"), &first).expect("writable");
        fs::write(directory.join("c"), &second).expect("writable");
        let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfsSparse\"\n\
                    RW 1 VMFSSPARSE \"b\"\nRW 1 VMFSSPARSE \"c\"\n";
        fs::write(directory.join("a.vmdk"), text).expect("writable");
        programs.compare(directory, "check a.vmdk").unwrap_or_else(|difference| panic!("{difference}"));
    }
}

/// What instar looks at beyond qemu-img.
#[test]
fn instar_looks_further_than_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, RAW);
    make(
        directory,
        "qemu-img convert -f raw -O vmdk raw a.vmdk; printf '\\001' | dd of=a.vmdk bs=1 seek=72 conv=notrunc status=none; \
         qemu-img convert -f raw -O vpc raw a.vpc; cp a.vpc b.vpc; truncate -s -512 b.vpc; \
         qemu-img create -q --object secret,id=s,data=a -f luks -o key-secret=s,iter-time=10 a.luks 1M",
    );
    let instar = |command: &str| Programs::ask(&programs.instar(), directory, command);
    for (file, line, code) in [
        ("a.vmdk", "ERROR: extent 0 was not closed correctly\n", 2),
        ("a.vpc", "", 0),
        ("b.vpc", "ERROR: the footer and its copy at the front differ\n", 2),
        ("a.luks", "", 0),
    ] {
        let found = instar(&format!("check {file}"));
        assert_eq!((found.code, found.err.as_str()), (Some(code), line), "{file}: {}", found.out);
        let counted =
            if code == 0 { "No errors were found on the image.\n" } else { "\n1 errors were found on the image.\n" };
        assert!(found.out.starts_with(counted), "{file}: {}", found.out);
        // Of a volume without its key qemu-img says nothing.
        if file != "a.luks" {
            programs.compare(directory, &format!("check {file}")).unwrap_or_else(|difference| panic!("{difference}"));
        }
    }
    let as_qemu_img = programs.ours(directory, "check a.luks");
    let words = "qemu-img: This image format does not support checks\n";
    assert_eq!((as_qemu_img.code, as_qemu_img.err.as_str()), (Some(63), words));
}
