//! See [`instar_fuzz::targets::qcow2_l1l2`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::qcow2_l1l2(data));
