//! Fuzz targets without an engine.
//!
//! A target is a function from bytes to nothing that panics when what it drives is wrong. Bytes become
//! images behind the parsers' own traits ([`image`], [`blocks`]) or scripts ([`layout`]); what comes out is
//! held against a second, simpler reader ([`model`]). The engine (`fuzz_targets/`), the replay of starters and
//! regressions (`cargo test`), and the planted-bug check all call the same functions.
//!
//! A typed error is always a fine answer to hostile bytes. A panic, a hang, an answer that the second
//! reader does not give, or reading on after the budget is gone never is.
#![forbid(unsafe_code)]

pub mod blocks;
pub mod image;
pub mod layout;
pub mod machine;
pub mod model;
pub mod sparse;
pub mod starters;
pub mod targets;
pub mod turns;

/// Takes one input; panics on a finding.
pub type Target = fn(&[u8]);

/// Every target by its name in `targets.toml`.
pub const TARGETS: &[(&str, Target)] = &[
    ("format_detect", targets::format_detect),
    ("qcow2_header", targets::qcow2_header),
    ("qcow2_l1l2", targets::qcow2_l1l2),
    ("qcow2_refcount", targets::qcow2_refcount),
    ("qcow2_decompress", targets::qcow2_decompress),
    ("qcow2_struct", targets::qcow2_struct),
    ("raw_partition", targets::raw_partition),
    ("partition_table", targets::partition_table),
    ("ro_formats", targets::ro_formats),
    ("vmdk_header", targets::vmdk_header),
    ("bitmap_parse", targets::bitmap_parse),
    ("snapshot_parse", targets::snapshot_parse),
    ("measure_scan", targets::measure_scan),
    ("chs_rounded_size", targets::chs_rounded_size),
    ("vhdx_metadata", targets::vhdx_metadata),
    ("vhd_bat", targets::vhd_bat),
    ("vhd_footer", targets::vhd_footer),
    ("vmdk_grain", targets::vmdk_grain),
    ("vhd_parent", targets::vhd_parent),
    ("vhdx_header", targets::vhdx_header),
    ("vhdx_parent", targets::vhdx_parent),
    ("map_iter", targets::map_iter),
    ("measure_calc", targets::measure_calc),
    ("dd_window", targets::dd_window),
    ("options_parse", targets::options_parse),
    ("virtio_queue", targets::virtio_queue),
    ("result_stream", targets::result_stream),
    ("convert_stream", targets::convert_stream),
    ("window_read", targets::window_read),
    ("chain_resolve", targets::chain_resolve),
    ("create_emitters", targets::create_emitters),
];
