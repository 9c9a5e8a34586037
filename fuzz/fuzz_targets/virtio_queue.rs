//! See [`instar_fuzz::targets::virtio_queue`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| instar_fuzz::targets::virtio_queue(data));
