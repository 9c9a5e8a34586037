//! See [`instar_fuzz::targets::vmdk_grain`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::vmdk_grain(data));
