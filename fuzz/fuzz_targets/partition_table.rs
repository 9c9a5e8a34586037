//! See [`instar_fuzz::targets::partition_table`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::partition_table(data));
