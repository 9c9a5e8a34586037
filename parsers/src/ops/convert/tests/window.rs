//! Images within a part of a file, as the raw driver's `offset` and `size` give it.

use super::{job, read, run};
use crate::testing::{Embedded, embed, qemu_img, qemu_io, scratch};
use instar_abi::error::{Error, RawError};
use instar_abi::format::Format;
use instar_abi::request::{HostExtent, LayerId, TargetFormat, Window};

/// The story: detection and qcow2 once ignored the window and read the bytes before it.
#[test]
fn a_qcow2_within_a_window_is_converted_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 5M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 100k 1M; write -z 2M 64k; write -P 3 4M 1k").unwrap();
    qemu_img(dir, "convert -c -O qcow2 a.qcow2 c.qcow2").unwrap();
    for (file, offset) in [("a.qcow2", 1 << 20), ("a.qcow2", 512), ("a.qcow2", 777), ("c.qcow2", 65536), ("c.qcow2", 3)]
    {
        let image = read(dir, file);
        let Embedded { bytes, size, name } = embed(dir, &image, offset);
        qemu_img(dir, &format!("convert -O raw {name} expected.raw")).unwrap();
        for (format, data) in
            [(None, None), (Some(Format::Qcow2), Some(vec![HostExtent { start: 0, len: bytes.len() as u64 }]))]
        {
            let (mut job, disks) = job(vec![bytes.clone()], TargetFormat::Raw);
            job.layers[0].window = Some(Window { offset: offset as u64, len: Some(size as u64) });
            job.layers[0].format = format;
            job.disks[0].data = data;
            assert!(run(&job, &disks) == Ok(read(dir, "expected.raw")), "{file} at {offset}, {format:?}");
        }
    }
}

/// What follows the window in the file is not the image's, though its last cluster would reach into it.
#[test]
fn a_cluster_that_runs_past_the_window_reads_zeros_there() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 1M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 7 0 64k").unwrap();
    let mut image = read(dir, "a.qcow2");
    let data = image.windows(512).rposition(|sector| sector == [7; 512]).unwrap() + 512 - 65536;
    image.truncate(data + 1024);
    let len = image.len() as u64;
    image.resize(data + 65536, 9);
    let (mut job, disks) = job(vec![image], TargetFormat::Raw);
    job.layers[0].window = Some(Window { offset: 0, len: Some(len) });
    let mut expected = vec![7; 1024];
    expected.resize(1 << 20, 0);
    assert!(run(&job, &disks) == Ok(expected));
}

#[test]
fn a_window_past_its_disk_is_refused_before_anything_is_read() {
    let (mut job, disks) = job(vec![vec![0; 4096]], TargetFormat::Raw);
    job.layers[0].window = Some(Window { offset: 4096, len: Some(512) });
    let error = RawError::Window { offset: 4096, len: Some(512), disk_len: 4096 };
    assert_eq!(run(&job, &disks), Err(Error::Raw { layer: LayerId(0), error }));
}

/// The story: such a stream once lost its tail, which reads as zeros in QEMU.
#[test]
fn a_stream_that_is_cut_by_the_end_of_the_window_is_decoded_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let mut content: Vec<u8> = (0..16_384u32).map(|index| (index.wrapping_mul(index) >> 9) as u8).collect();
    content[12_000..].fill(0);
    std::fs::write(dir.join("a.raw"), &content).unwrap();
    let (mut decoded, mut refused) = (0, 0);
    for options in ["zlib,cluster_size=16k", "zlib,cluster_size=4k", "zstd,cluster_size=16k", "zstd,cluster_size=4k"] {
        qemu_img(dir, &format!("convert -f raw -O qcow2 -c -o compression_type={options} a.raw a.qcow2")).unwrap();
        let sound = read(dir, "a.qcow2");
        let last = sound.len() / 512 * 512;
        for cut in (last - 8192..last).step_by(512).filter(|&cut| cut > 4 * 4096) {
            let Embedded { bytes, size, name } = embed(dir, &sound[..cut], 1024);
            let theirs = qemu_img(dir, &format!("convert -O raw {name} expected.raw"));
            let (mut job, disks) = job(vec![bytes], TargetFormat::Raw);
            job.layers[0].window = Some(Window { offset: 1024, len: Some(size as u64) });
            let ours = run(&job, &disks);
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{options} cut at {cut}: {:?} {theirs:?}", ours.as_ref().err());
            if let Ok(ours) = ours {
                assert!(ours == read(dir, "expected.raw"), "{options} cut at {cut}");
            }
            *(if theirs.is_ok() { &mut decoded } else { &mut refused }) += 1;
        }
    }
    assert!(decoded > 0 && refused > 0, "{decoded} decoded, {refused} refused");
}
