//! The targets: each decodes its input, drives one room, and checks what comes out.

mod bitmap_parse;
mod chain_resolve;
mod chs_rounded_size;
mod convert_stream;
mod create_emitters;
mod dd_window;
mod format_detect;
mod lookup;
mod map_iter;
mod measure_calc;
mod measure_scan;
mod options_parse;
mod parent;
mod partition_table;
mod pieces;
mod qcow2_decompress;
mod qcow2_header;
mod qcow2_l1l2;
mod qcow2_refcount;
mod qcow2_struct;
mod raw_partition;
mod result_stream;
mod ro_formats;
mod snapshot_parse;
mod vhd;
mod vhdx;
mod virtio_queue;
mod vmdk;
mod walk;
mod window_read;

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod shared_tables_tests;

pub use bitmap_parse::bitmap_parse;
pub use chain_resolve::chain_resolve;
pub use chs_rounded_size::chs_rounded_size;
pub use convert_stream::convert_stream;
pub use create_emitters::create_emitters;
pub use dd_window::dd_window;
pub use format_detect::format_detect;
pub use map_iter::map_iter;
pub use measure_calc::measure_calc;
pub use measure_scan::measure_scan;
pub use options_parse::options_parse;
pub use partition_table::partition_table;
pub use qcow2_decompress::qcow2_decompress;
pub use qcow2_header::qcow2_header;
pub use qcow2_l1l2::qcow2_l1l2;
pub use qcow2_refcount::qcow2_refcount;
pub use qcow2_struct::qcow2_struct;
pub use raw_partition::raw_partition;
pub use result_stream::result_stream;
pub use ro_formats::ro_formats;
pub use snapshot_parse::snapshot_parse;
pub use vhd::{vhd_bat, vhd_footer, vhd_parent};
pub use vhdx::{vhdx_header, vhdx_metadata, vhdx_parent};
pub use virtio_queue::virtio_queue;
pub use vmdk::{vmdk_grain, vmdk_header};
pub use window_read::window_read;

use instar_abi::error::{Error, ReadError};
use instar_abi::reply::{End, Frame};
use instar_abi::request::{DiskId, LayerId};

const DISK: DiskId = DiskId(0);
const LAYER: LayerId = LayerId(0);

/// An error is fine, but for those that only a wrong program gets from sound disks.
fn check_error(error: &Error) {
    let impossible = matches!(error, Error::Read(ReadError::OutOfRange { .. } | ReadError::Device { .. }));
    assert!(!impossible, "asked for what is not there: {error:?}");
}

/// What an operation told that only reads; `None`: it failed, as it may, or wants a layer below.
fn frames_of(result: Result<End, Error>, frames: Vec<Frame>) -> Option<Vec<Frame>> {
    match result {
        Ok(End::Done { lengths }) if lengths.is_empty() => Some(frames),
        Ok(End::NeedsMore) => None,
        Ok(end) => panic!("{end:?}"),
        Err(Error::Compare { error, .. }) => {
            check_error(&error);
            None
        }
        Err(error) => {
            check_error(&error);
            None
        }
    }
}
