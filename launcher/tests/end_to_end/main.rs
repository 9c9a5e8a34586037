//! The built binaries in real VMs, as a user has them; judged by programs that we did not write.

mod check_chain;
#[path = "../common/mod.rs"]
mod common;
mod compat;
mod config;
mod convert;
mod convert_faults;
mod convert_kills;
mod convert_matrix;
mod convert_offload;
mod convert_options;
mod convert_targets;
mod details;
mod formats;
mod hostile;
mod info_parity;
mod info_safety;
mod judge;
mod overlays;
mod readers;
