//! See [`instar_fuzz::targets::create_emitters`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::create_emitters(data));
