//! See [`instar_fuzz::targets::map_iter`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::map_iter(data));
