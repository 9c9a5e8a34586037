//! See [`instar_fuzz::targets::chs_rounded_size`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::chs_rounded_size(data));
