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
