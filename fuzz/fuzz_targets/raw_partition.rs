//! See [`instar_fuzz::targets::raw_partition`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::raw_partition(data));
