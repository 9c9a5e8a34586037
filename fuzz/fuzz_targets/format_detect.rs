//! See [`instar_fuzz::targets::format_detect`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::format_detect(data));
