//! Images whose metadata alone is large: memory stays bounded, and the answers are qemu-img's.

use super::super::Programs;
use crate::common::{has, make, scratch};
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Most MiB that all processes of a check may come to.
const PEAK_MIB: u64 = 96;

fn read_word(file: &fs::File, at: u64) -> u64 {
    let mut word = [0; 8];
    file.read_exact_at(&mut word, at).expect("within the file");
    u64::from_be_bytes(word)
}

/// Peak of the memory of a check, of all its processes, in MiB. GNU time tells that of the largest; the parent beside it
/// holds no part of the image.
fn peak_mib(programs: &Programs, directory: &Path, file: &str) -> u64 {
    const PARENT_MIB: u64 = 8;
    let instar = programs.instar();
    let script = format!("/usr/bin/time -f %M -o peak {} check -q {file} >/dev/null 2>&1 || true", instar.display());
    make(directory, &script);
    let text = fs::read_to_string(directory.join("peak")).expect("GNU time's figure");
    // Of a check that finds something, the exit code stands in a line before.
    let kib: u64 = text.lines().last().expect("a line").trim().parse().expect("a figure");
    kib.div_ceil(1024) + PARENT_MIB
}

/// A cluster's refcount of 16 bits, where the blocks are one behind the other.
fn refcount_place(file: &fs::File, cluster_size: u64, cluster: u64) -> u64 {
    let per_block = cluster_size / 2;
    let table = read_word(file, 48);
    read_word(file, table + cluster / per_block * 8) + cluster % per_block * 2
}

/// The last data cluster of an image without snapshots whose clusters are all allocated.
fn last_cluster(file: &fs::File, cluster_size: u64) -> (u64, u64) {
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let size = read_word(file, 24);
    let last = size / cluster_size - 1;
    let (l1, per_table) = (read_word(file, 40), cluster_size / 8);
    let table = read_word(file, l1 + last / per_table * 8) & OFFSET;
    let entry = table + last % per_table * 8;
    (entry, (read_word(file, entry) & OFFSET) / cluster_size)
}

/// Judges an image, sound and then damaged at its very end.
fn judge(programs: &Programs, directory: &Path, cluster_size: u64) {
    let command = "check large.qcow2";
    programs.compare(directory, command).unwrap_or_else(|difference| panic!("{difference}"));
    let path = directory.join("large.qcow2");
    let file = fs::File::options().read(true).write(true).open(path).expect("it was made");
    let (entry, cluster) = last_cluster(&file, cluster_size);
    let place = refcount_place(&file, cluster_size, cluster);
    file.write_all_at(&[0, 2], place).expect("writable");
    programs.compare(directory, command).unwrap_or_else(|difference| panic!("{difference}"));
    file.write_all_at(&[0, 1], place).expect("writable");
    // The first cluster of the disk a second time, and the last one leaked.
    file.write_all_at(&((1u64 << 63) | (5 * cluster_size)).to_be_bytes(), entry).expect("writable");
    programs.compare(directory, command).unwrap_or_else(|difference| panic!("{difference}"));
}

#[test]
fn a_file_of_several_windows_is_judged_as_by_qemu_img() {
    let Some(programs) = Programs::find() else { return };
    let directory = scratch();
    let directory = directory.path();
    // 39 Mi clusters; a window has 32 Mi.
    make(directory, "qemu-img create -q -f qcow2 -o preallocation=metadata,cluster_size=4k large.qcow2 156G");
    judge(&programs, directory, 4096);
    if has("/usr/bin/time") {
        let peak = peak_mib(&programs, directory, "large.qcow2");
        assert!(peak <= PEAK_MIB, "{peak} MiB");
    }
}

/// 2.5 GiB of tables, in memory: only with `INSTAR_FULL`.
#[test]
fn the_check_of_16_tib_needs_96_mib() {
    let Some(programs) = Programs::find() else { return };
    if std::env::var_os("INSTAR_FULL").is_none() {
        return;
    }
    if !has("/usr/bin/time") {
        return;
    }
    let directory = scratch();
    let directory = directory.path();
    make(directory, "qemu-img create -q -f qcow2 -o preallocation=metadata large.qcow2 16T");
    let peak = peak_mib(&programs, directory, "large.qcow2");
    println!("{peak} MiB");
    assert!(peak <= PEAK_MIB, "{peak} MiB");
    judge(&programs, directory, 65536);
}
