//! See [`instar_fuzz::targets::vmdk_header`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::vmdk_header(data));
