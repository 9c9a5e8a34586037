//! See [`instar_fuzz::targets::dd_window`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::dd_window(data));
