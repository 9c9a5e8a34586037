//! See [`instar_fuzz::targets::measure_scan`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::measure_scan(data));
