//! See [`instar_fuzz::targets::convert_stream`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::convert_stream(data));
