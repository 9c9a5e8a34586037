//! See [`instar_fuzz::targets::result_stream`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::result_stream(data));
