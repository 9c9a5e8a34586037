//! See [`instar_fuzz::targets::vhdx_header`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::vhdx_header(data));
