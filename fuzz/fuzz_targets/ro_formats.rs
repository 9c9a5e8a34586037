//! See [`instar_fuzz::targets::ro_formats`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::ro_formats(data));
