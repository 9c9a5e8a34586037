//! See [`instar_fuzz::targets::window_read`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::window_read(data));
