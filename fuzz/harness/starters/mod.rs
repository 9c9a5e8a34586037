//! The committed inputs that open each target, made here byte for byte.
//!
//! `cargo xtask fuzz starters` writes them to `fuzz/starters/`; with `--check` it only compares.

mod blocks;
mod directories;
mod disks;
mod formats;
mod jobs;
mod parents;
mod qcow2;
mod reading;
mod streams;
mod words;

use std::collections::BTreeMap;

/// Most starters of a target.
pub const FILES_MAX: usize = 64;
/// Most bytes of a target's starters.
pub const LEN_MAX: usize = 512 << 10;

/// The starters of every target: file name to content.
#[must_use]
pub fn all() -> BTreeMap<&'static str, BTreeMap<String, Vec<u8>>> {
    let images = qcow2::images();
    let truncated = |len: usize| -> Vec<(String, Vec<u8>)> {
        images.iter().map(|(name, bytes)| (name.clone(), bytes[..bytes.len().min(len)].to_vec())).collect()
    };
    let sets = [
        ("format_detect", disks::of_every_format()),
        ("raw_partition", disks::partitioned()),
        ("partition_table", disks::tables()),
        ("qcow2_header", truncated(8192)),
        ("qcow2_l1l2", images.clone()),
        ("qcow2_refcount", truncated(8192)),
        ("qcow2_decompress", qcow2::streams()),
        ("options_parse", words::all()),
        ("result_stream", streams::replies()),
        ("virtio_queue", streams::scripts()),
        ("convert_stream", jobs::conversions()),
        ("window_read", jobs::windows()),
        ("chain_resolve", jobs::chains()),
        ("ro_formats", blocks::images()),
        ("vmdk_header", parents::texts()),
        ("vmdk_grain", formats::grains()),
        ("vhd_footer", formats::footers()),
        ("vhd_bat", formats::tables()),
        ("vhdx_metadata", formats::metadata()),
        ("chs_rounded_size", reading::capacities()),
        ("snapshot_parse", directories::snapshots()),
        ("bitmap_parse", directories::bitmaps()),
        ("measure_scan", directories::measured()),
        ("vhd_parent", parents::vhds()),
        ("vhdx_header", formats::headers()),
        ("vhdx_parent", parents::vhdxs(true)),
        ("create_emitters", jobs::new_images()),
        ("map_iter", reading::maps()),
        ("measure_calc", reading::sizes()),
        ("dd_window", reading::parts()),
        ("qcow2_struct", reading::structures()),
    ];
    sets.into_iter().map(|(target, set)| (target, set.into_iter().collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starters_are_few_small_and_for_every_target() {
        let all = all();
        let names: Vec<&str> = all.keys().copied().collect();
        let mut targets: Vec<&str> = crate::TARGETS.iter().map(|(name, _)| *name).collect();
        targets.sort_unstable();
        assert_eq!(names, targets);
        for (target, set) in all {
            let len: usize = set.values().map(Vec::len).sum();
            assert!(
                (1..=FILES_MAX).contains(&set.len()) && len <= LEN_MAX,
                "{target}: {} files, {len} bytes",
                set.len()
            );
        }
    }

    #[test]
    fn most_qcow2_starters_open() {
        use crate::image::{FuzzImage, FuzzReader};
        use instar_abi::request::{DiskId, LayerId};
        for (name, bytes) in qcow2::images() {
            let mut reader = FuzzReader::new(vec![FuzzImage::new(&bytes)]);
            let opened = instar_parsers::qcow2::Qcow2::open(&mut reader, LayerId(0), DiskId(0));
            assert_eq!(opened.is_ok(), !name.starts_with("bad-"), "{name}: {:?}", opened.err());
        }
    }
}
