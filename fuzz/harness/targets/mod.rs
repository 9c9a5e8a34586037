//! The targets: each decodes its input, drives one room, and checks what comes out.

mod chain_resolve;
mod convert_stream;
mod create_emitters;
mod dd_window;
mod format_detect;
mod map_iter;
mod measure_calc;
mod options_parse;
mod partition_table;
mod qcow2_decompress;
mod qcow2_header;
mod qcow2_l1l2;
mod qcow2_refcount;
mod qcow2_struct;
mod raw_partition;
mod result_stream;
mod ro_formats;
mod virtio_queue;
mod window_read;

pub use chain_resolve::chain_resolve;
pub use convert_stream::convert_stream;
pub use create_emitters::create_emitters;
pub use dd_window::dd_window;
pub use format_detect::format_detect;
pub use map_iter::map_iter;
pub use measure_calc::measure_calc;
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
pub use virtio_queue::virtio_queue;
pub use window_read::window_read;

use instar_abi::error::{Error, ReadError};
use instar_abi::request::{DiskId, LayerId};

const DISK: DiskId = DiskId(0);
const LAYER: LayerId = LayerId(0);

/// An error is fine, but for those that only a wrong program gets from sound disks.
fn check_error(error: &Error) {
    let impossible = matches!(error, Error::Read(ReadError::OutOfRange { .. } | ReadError::Device { .. }));
    assert!(!impossible, "asked for what is not there: {error:?}");
}
