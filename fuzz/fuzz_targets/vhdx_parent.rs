//! See [`instar_fuzz::targets::vhdx_parent`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::vhdx_parent(data));
