//! Formats in blocks: their content, as qemu-img reads it.

use super::{check, check_clean, job, read, run};
use crate::testing::{qemu_img, qemu_io, scratch};
use instar_abi::format::Format;
use instar_abi::request::{Answer, Given, LayerId, NeedKind, Qcow2Options, TargetFormat};
use std::path::Path;

/// A disk of 5 MiB and some sectors: text, noise and holes.
fn disk(dir: &Path) {
    let mut bytes = vec![0; (5 << 20) + 1536];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = match index >> 16 {
            0 | 17 | 80 => (index % 97) as u8,
            3 | 40 | 41 | 42 => ((index as u32).wrapping_mul(2_654_435_761) >> 13) as u8,
            _ => 0,
        };
    }
    std::fs::write(dir.join("a.raw"), bytes).expect("writable");
}

#[test]
fn every_format_is_converted_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    disk(dir);
    for options in [
        "-O vdi",
        "-O vdi -o static=on",
        "-O vpc",
        "-O vpc -o force_size=on",
        "-O vmdk",
        "-O vmdk -o zeroed_grain=on",
        "-O vmdk -o subformat=streamOptimized",
        "-O vhdx",
        "-O vhdx -o block_size=1M",
        "-O vhdx -o subformat=fixed",
        "-O parallels",
        "-O parallels -o cluster_size=64k",
        "-O qed",
        "-O qed -o cluster_size=4k,table_size=2",
        "-O qed -o cluster_size=1M,table_size=4",
        "-O qcow",
    ] {
        qemu_img(dir, &format!("convert -f raw {options} a.raw b.img")).unwrap();
        check(dir, "b.img");
    }
}

/// A fixed VHD has nothing at its front that tells of it.
#[test]
fn a_fixed_vhd_ends_before_its_footer() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    disk(dir);
    for options in ["subformat=fixed", "subformat=fixed,force_size=on"] {
        qemu_img(dir, &format!("convert -f raw -O vpc -o {options} a.raw b.vhd")).unwrap();
        qemu_img(dir, "convert -f vpc -O raw b.vhd expected.raw").unwrap();
        let whole = read(dir, "b.vhd");
        // Older writers left its last byte out.
        for len in [whole.len(), whole.len() - 1] {
            let (mut job, disks) = job(vec![whole[..len].to_vec()], TargetFormat::Raw);
            job.layers[0].format = Some(Format::Vpc);
            assert!(run(&job, &disks).unwrap() == read(dir, "expected.raw"), "{options} {len}");
        }
    }
}

#[test]
fn compressed_clusters_of_qcow_are_decoded() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow b.img 3M").unwrap();
    qemu_io(dir, "b.img", "write -c -P 1 0 4k; write -c -P 2 64k 4k; write -P 3 1M 20k; write -c -P 4 2M 4k").unwrap();
    check(dir, "b.img");
}

/// Zero clusters, and a layer below that shows.
#[test]
fn layers_below_show_where_nothing_is() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    disk(dir);
    for (format, zero) in [("qed", "; write -z 2560k 128k"), ("qcow", "")] {
        qemu_img(dir, &format!("create -q -f {format} -b a.raw -F raw top.img 7M")).unwrap();
        qemu_io(dir, "top.img", &format!("write -P 9 100k 300k{zero}")).unwrap();
        qemu_img(dir, "convert -O raw top.img expected.raw").unwrap();
        let (mut job, disks) =
            job(vec![read(dir, "top.img"), read(dir, "a.raw")], TargetFormat::Qcow2(Qcow2Options::default()));
        job.answers = vec![Answer {
            layer: LayerId(0),
            kind: NeedKind::Backing,
            name: b"a.raw".to_vec(),
            given: Given::Layer(LayerId(1)),
        }];
        job.layers[1].format = Some(Format::Raw);
        let ours = run(&job, &disks).unwrap();
        check_clean(dir, &ours, &read(dir, "expected.raw"));
    }
}
