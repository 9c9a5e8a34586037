//! Damaged images: the same lines, the same result, the same exit code.

mod blocks;
mod large;

use super::Programs;
use crate::common::{make, scratch};
use std::fs;
use std::path::Path;

/// Images that are bent, and how often each is.
const BENT: &[(&str, usize, &str)] = &[
    ("plain.qcow2", 40, "qemu-img create -q -f qcow2 plain.qcow2 6M; WRITE plain.qcow2; SNAP plain.qcow2"),
    ("v2.qcow2", 20, "qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 6M; WRITE v2.qcow2; SNAP v2.qcow2"),
    (
        "small.qcow2",
        40,
        "qemu-img create -q -f qcow2 -o cluster_size=512 small.qcow2 6M; WRITE small.qcow2; SNAP small.qcow2",
    ),
    ("one.qcow2", 20, "qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=1 one.qcow2 6M; WRITE one.qcow2"),
    ("two.qcow2", 20, "qemu-img create -q -f qcow2 -o refcount_bits=2 two.qcow2 6M; WRITE two.qcow2; SNAP two.qcow2"),
    (
        "wide.qcow2",
        20,
        "qemu-img create -q -f qcow2 -o refcount_bits=64 wide.qcow2 6M; WRITE wide.qcow2; SNAP wide.qcow2",
    ),
    ("large.qcow2", 10, "qemu-img create -q -f qcow2 -o cluster_size=2M large.qcow2 60M; WRITE large.qcow2"),
    ("ext.qcow2", 40, "qemu-img create -q -f qcow2 -o extended_l2=on ext.qcow2 6M; WRITE ext.qcow2; SNAP ext.qcow2"),
    (
        "bitmaps.qcow2",
        20,
        "qemu-img create -q -f qcow2 bitmaps.qcow2 6M; qemu-img bitmap --add bitmaps.qcow2 b0; WRITE bitmaps.qcow2",
    ),
    (
        "outside.qcow2",
        20,
        "qemu-img create -q -f qcow2 -o data_file=outside.raw outside.qcow2 6M; \
         qemu-io -c 'write 0 700k' -c 'write -z 1M 128k' outside.qcow2 >/dev/null",
    ),
];

const WRITE: &str = "qemu-io -c 'write -P 1 0 700k' -c 'write -P 2 4M 200k' -c 'write -z 1M 128k' -c 'write -c -P 9 5M 64k' \
                     FILE >/dev/null 2>&1 || true";
const SNAP: &str = "qemu-img snapshot -c one FILE; qemu-io -c 'write -P 4 100k 300k' FILE >/dev/null";

/// The commands of a script, their shorthands written out.
fn script(text: &str) -> String {
    let commands = text.split("; ").map(|command| match command.split_once(' ') {
        Some(("WRITE", file)) => WRITE.replace("FILE", file),
        Some(("SNAP", file)) => SNAP.replace("FILE", file),
        _ => command.to_owned(),
    });
    commands.collect::<Vec<_>>().join("; ")
}

/// The same choices in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Words of a qcow2 image's metadata: entries of tables, refcounts, an entry of the snapshot table.
fn qcow2_places(bytes: &[u8]) -> Vec<usize> {
    let place = |at: usize| usize::try_from(word(bytes, at) & 0x00ff_ffff_ffff_fe00).expect("small");
    let (l1, table, snapshots) = (place(40), place(48), place(64));
    let mut places = vec![table, table + 8];
    places.extend((0..8).map(|index| place(table) + 4 * index));
    for entry in [l1, l1 + 8] {
        places.push(entry);
        places.extend((0..20).map(|index| place(entry) + 8 * index).filter(|_| place(entry) > 0));
    }
    if snapshots > 0 {
        places.extend([snapshots, snapshots + 8, snapshots + 32]);
    }
    places
}

/// Changes a word or a few, mostly to something that makes half sense.
fn bend(bytes: &mut [u8], places: &[usize], dice: &mut Dice) {
    for _ in 0..=dice.roll(2) {
        let at = places[dice.roll(places.len())];
        let before = word(bytes, at);
        let after = match dice.roll(8) {
            0 => 0,
            1 => before ^ 1 << 63,
            2 => before ^ 1 << 62,
            3 => before ^ 1 << dice.roll(64),
            4 => before ^ 0x200 << dice.roll(8),
            5 => before.wrapping_add(bytes.len() as u64 & !511),
            6 => word(bytes, places[0]),
            _ => 0x8000_0000_0001_0000,
        };
        bytes[at..at + 8].copy_from_slice(&after.to_be_bytes());
    }
}

#[test]
fn damaged_qcow2_images_are_judged_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    let (mut differences, mut dice) = (Vec::new(), Dice(11));
    for (file, count, text) in BENT {
        make(directory, &script(text));
        let sound = fs::read(directory.join(file)).expect("it was made");
        let places = qcow2_places(&sound);
        for number in 0..*count {
            let mut bytes = sound.clone();
            bend(&mut bytes, &places, &mut dice);
            fs::write(directory.join("bent"), &bytes).expect("writable");
            let command = if number % 4 == 0 { "check --output=json bent" } else { "check bent" };
            if let Err(difference) = programs.compare(directory, command) {
                differences.push(format!("{file} {number}: {difference}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.concat());
}

/// Every part of a snapshot table that opening an image does not look at, when it is to be checked.
#[test]
fn broken_snapshot_tables_are_judged_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, &script("qemu-img create -q -f qcow2 a 6M; WRITE a; SNAP a; SNAP a"));
    let sound = fs::read(directory.join("a")).expect("it was made");
    let table = usize::try_from(word(&sound, 64)).expect("small");
    let edits: &[(usize, &[u8])] = &[
        (60, &70_000u32.to_be_bytes()),
        (60, &50u32.to_be_bytes()),
        (64, &1234u64.to_be_bytes()),
        (64, &u64::MAX.to_be_bytes()),
        (table, &1234u64.to_be_bytes()),
        (table, &(1u64 << 60).to_be_bytes()),
        (table, &(1u64 << 63).to_be_bytes()),
        (table + 8, &u32::MAX.to_be_bytes()),
        (table + 8, &0u32.to_be_bytes()),
        (table + 36, &0u32.to_be_bytes()),
        (table + 36, &8u32.to_be_bytes()),
        (table + 36, &1025u32.to_be_bytes()),
    ];
    for (at, bytes) in edits {
        let mut bent = sound.clone();
        bent[*at..*at + bytes.len()].copy_from_slice(bytes);
        fs::write(directory.join("bent"), &bent).expect("writable");
        for command in ["check bent", "check -q bent", "check --output json bent"] {
            programs.compare(directory, command).unwrap_or_else(|difference| panic!("{at} {bytes:?}: {difference}"));
        }
    }
}

/// What the image names is not looked at: see docs/differences.md.
#[test]
fn only_the_image_itself_is_checked() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(
        directory,
        "qemu-img create -q -u -f qcow2 -b none -F raw over 1M; \
         qemu-img create -q -f qcow2 -o data_file=data outside 1M; rm data; \
         qemu-img create -q -f qcow2 --object secret,id=s,data=a -o encrypt.format=luks,encrypt.key-secret=s secret 1M",
    );
    let sound = |file: &str, end| {
        let check = programs.ours(directory, &format!("check {file}"));
        let text = format!("No errors were found on the image.\nImage end offset: {end}\n");
        assert_eq!((check.code, check.out, check.err), (Some(0), text, String::new()), "{file}");
    };
    sound("over", 262_144);
    sound("outside", 262_144);
    let with_key =
        "check --object secret,id=s,data=a --image-opts driver=qcow2,file.filename=secret,encrypt.key-secret=s";
    let theirs = Programs::theirs(directory, with_key);
    let check = programs.ours(directory, "check secret");
    assert_eq!((check.code, check.out), (theirs.code, theirs.out));
}

#[test]
fn an_image_of_another_mind_is_left_alone() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    make(directory, "qemu-img create -q -f qcow2 a 1M; qemu-img create -q -f qcow b 1M; truncate -s 1M c");
    let before = fs::read(Path::new(directory).join("a")).expect("it was made");
    for command in [
        "check",
        "check a b",
        "check none",
        "check -f foo a",
        "check --output=xml a",
        "check -r foo a",
        "check -r all -U a",
        "check -T foo a",
        "check -T none a",
        "check -T directsync a",
        "check -T foo",
        "check --image-opts -f qcow2 a",
        "check --image-opts driver=qcow2,file.filename=a",
        "check -U a",
        "check -q a",
        "check -q --output=json a",
        "check b",
        "check c",
        "check -f raw a",
        "check -f qcow2 c",
    ] {
        programs.compare(directory, command).unwrap_or_else(|difference| panic!("{difference}"));
    }
    assert_eq!(before, fs::read(directory.join("a")).expect("it is still there"));
}
