//! Valid images with bytes changed: a typed error or a bounded answer, and qemu-img's verdict on what opens.

use super::super::Refcounts;
use super::{info, qcow2_error};
use crate::qcow2::Qcow2;
use crate::testing::{INFO, MemoryDisk, map_all, qemu_img, qemu_io, request, scratch, with_store};
use instar_abi::error::Error;
use instar_abi::format::Format;
use instar_abi::request::{DiskId, LayerId};
use std::path::Path;

/// A small generator: the same bytes every time.
struct Seed(u64);

impl Seed {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Images with every feature, small.
fn images(dir: &Path) -> Vec<Vec<u8>> {
    let secret = "--object secret,id=s,data=abc";
    let mut images = Vec::new();
    for options in [
        "-o cluster_size=512",
        "-o compat=0.10,cluster_size=512",
        "-o cluster_size=16k,extended_l2=on",
        "-o cluster_size=4k,compression_type=zstd,refcount_bits=1",
        "-o cluster_size=512,data_file=data.raw",
        "-o cluster_size=4k -u -b below -F raw",
        &format!("{secret} -o cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
    ] {
        qemu_img(dir, &format!("create -q -f qcow2 {options} a.qcow2 1M")).unwrap();
        if !options.contains("secret") && !options.contains("below") {
            qemu_io(dir, "a.qcow2", "write -P 1 0 20k; write -z 32k 8k; write -P 2 100k 3k").unwrap();
            let _ = qemu_io(dir, "a.qcow2", "write -c -P 3 64k 16k");
            let _ = qemu_img(dir, "snapshot -c one a.qcow2");
            let _ = qemu_img(dir, "bitmap --add a.qcow2 b0");
        }
        images.push(std::fs::read(dir.join("a.qcow2")).unwrap());
    }
    images
}

/// Everything that reads an image, on these bytes; an error is an answer.
fn read_everything(bytes: Vec<u8>) {
    let _ = info(bytes.clone());
    let disks = [MemoryDisk::new(bytes)];
    let mut request = request(INFO, &disks);
    request.layers[0].format = Some(Format::Qcow2);
    request.budget.steps = 100_000;
    if !matches!(opened(&request, &disks), Ok(true)) {
        return;
    }
    let _ = map_all(&request, &disks);
}

/// Opens, reads some refcounts; whether no other file is needed.
fn opened(request: &instar_abi::request::Request, disks: &[MemoryDisk]) -> Result<bool, Error> {
    with_store(request, disks, |io| {
        let image = Qcow2::open(io, LayerId(0), DiskId(0))?;
        let refcounts = Refcounts::new(image.header(), DiskId(0));
        for offset in [0, 512, 1 << 16, 1 << 40, u64::MAX] {
            let count = refcounts.of(io, offset)?;
            let bits = image.header().refcount_bits();
            assert!(bits == 64 || count < 1 << bits, "{count} of {bits} bits");
        }
        Ok(image.backing().is_none() && !image.header().has_data_file())
    })
}

#[test]
fn no_change_of_a_few_bytes_breaks_a_reader() {
    let Some(dir) = scratch() else { return };
    let mut seed = Seed(1);
    for image in images(dir.path()) {
        let metadata = (image.len() as u64).min(32 << 10);
        for _ in 0..400 {
            let mut bent = image.clone();
            for _ in 0..=seed.next(3) {
                let range = if seed.next(2) == 0 { 200 } else { metadata };
                let at = seed.next(range) as usize;
                bent[at] = match seed.next(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bent[at] ^ 1 << seed.next(8),
                    _ => seed.next(256) as u8,
                };
            }
            if seed.next(8) == 0 {
                bent.truncate(seed.next(bent.len() as u64) as usize);
            }
            read_everything(bent);
        }
    }
}

/// What opens here opens there, and the other way round.
#[test]
fn a_bent_header_opens_where_it_opens_in_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let mut seed = Seed(2);
    for image in images(dir) {
        for _ in 0..60 {
            let mut bent = image.clone();
            // The header's fields, but for magic and size, and the extensions behind it.
            let area = if seed.next(3) == 0 { 200 } else { 108 };
            let at = 4 + seed.next(area) as usize;
            bent[at] = if seed.next(2) == 0 { seed.next(256) as u8 } else { bent[at] ^ 1 << seed.next(8) };
            std::fs::write(dir.join("bent"), &bent).unwrap();
            let theirs = qemu_img(dir, "info -U -f qcow2 bent");
            let ours = info(bent);
            // A file of another version or format is refused by detection here.
            let ours = match ours {
                Err(Error::Detect { .. } | Error::OutOfBudget(_)) => continue,
                ours => qcow2_error(ours),
            };
            assert_eq!(ours.is_none(), theirs.is_ok(), "byte {at}: {ours:?}, {theirs:?}");
        }
    }
}
