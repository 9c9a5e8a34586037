//! See [`instar_fuzz::targets::bitmap_parse`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::bitmap_parse(data));
