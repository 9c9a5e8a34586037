//! See [`instar_fuzz::targets::chain_resolve`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::chain_resolve(data));
