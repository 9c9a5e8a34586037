//! See [`instar_fuzz::targets::qcow2_struct`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::qcow2_struct(data));
