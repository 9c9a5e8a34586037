//! Where the clusters are: by hand, and against qemu-img.

use super::qcow2_error;
use crate::image::{Codec, Extent, Kind};
use crate::testing::{CLUSTER, INFO, L1, MemoryDisk, Qcow2Builder, map_all, qemu_img, qemu_io, request, scratch};
use instar_abi::error::{Error, Qcow2Error};
use instar_abi::format::Format;
use instar_abi::request::DiskId;
use serde_json::Value as Json;
use std::path::Path;

fn map(bytes: Vec<u8>) -> Result<Vec<Extent>, Error> {
    let disks = [MemoryDisk::new(bytes)];
    let mut request = request(INFO, &disks);
    request.layers[0].format = Some(Format::Qcow2);
    map_all(&request, &disks).map(|extents| extents.into_iter().map(|(extent, _)| extent).collect())
}

const DATA: u64 = 6 * CLUSTER;

/// C1.
#[test]
fn a_zero_flag_hides_any_host_offset() {
    let image = Qcow2Builder::v3().l2(&[1, DATA | 1 | 1 << 63, DATA]).with(DATA, [7; 512]);
    let extents = map(image.build()).unwrap();
    assert_eq!(extents[0], Extent { start: 0, len: 1024, kind: Kind::Zero });
    assert_eq!(extents[1].kind, Kind::Data { disk: DiskId(0), offset: DATA });
    assert_eq!(extents[2], Extent { start: 1536, len: (1 << 20) - 1536, kind: Kind::Hole });
    let image = Qcow2Builder::v2().l2(&[1]);
    let refused = Qcow2Error::ZeroFlagBeforeVersion3 { virtual_offset: 0 };
    assert_eq!(qcow2_error(map(image.build())), Some(refused));
}

#[test]
fn runs_are_merged_and_end_where_the_file_jumps() {
    let at = |cluster: u64| DATA + cluster * CLUSTER;
    let image = Qcow2Builder::v3().l2(&[at(0), at(1), at(2), at(1), at(2)]).with(DATA, [7; 3 * 512]);
    let extents = map(image.build()).unwrap();
    let data = |start, len, offset| Extent { start, len, kind: Kind::Data { disk: DiskId(0), offset } };
    assert_eq!(extents[..2], [data(0, 1536, at(0)), data(1536, 1024, at(1))]);
    assert_eq!(extents.len(), 3);
}

#[test]
fn offsets_are_aligned_and_inside_the_file() {
    let file_len = 5 * CLUSTER;
    let map = |l2: u64| qcow2_error(map(Qcow2Builder::v3().l2(&[l2]).build()));
    // Bits below 9 are not offset; with clusters of 512 bytes every offset is aligned.
    assert_eq!(map((4 * CLUSTER) | 0x1fe), None);
    let past = |offset| Some(Qcow2Error::ClusterPastEnd { virtual_offset: 0, offset, file_len });
    assert_eq!(map(5 * CLUSTER), past(5 * CLUSTER));
    assert_eq!(map(0x00ff_ffff_ffff_fe00), past(0x00ff_ffff_ffff_fe00));
    let l1 = |entry: u64| qcow2_error(self::map(Qcow2Builder::v3().with(L1, entry.to_be_bytes()).build()));
    let past = Qcow2Error::L2TablePastEnd { l1_index: 0, offset: 1 << 40, file_len: 4 * CLUSTER };
    assert_eq!(l1(1 << 40 | 1 << 63), Some(past));
    let wide = Qcow2Builder::v3()
        .header(|header| {
            header.cluster_bits = 10.into();
            header.l1_table_offset = 2048.into();
            header.refcount_table_offset = 1024.into();
        })
        .with(2048, (3 * 512u64).to_be_bytes())
        .with(4096, [0; 1024]);
    let unaligned = Qcow2Error::L2TableOffset { l1_index: 0, found: 3 * 512 };
    assert_eq!(qcow2_error(self::map(wide.build())), Some(unaligned));
    let wide = wide.with(2048, 3072u64.to_be_bytes()).with(3072, 512u64.to_be_bytes());
    let unaligned = Qcow2Error::ClusterOffset { virtual_offset: 0, found: 512 };
    assert_eq!(qcow2_error(self::map(wide.build())), Some(unaligned));
}

#[test]
fn a_sound_run_comes_before_the_error_behind_it() {
    let image = Qcow2Builder::v3().l2(&[DATA, 1 << 50]).with(DATA, [7; 512]);
    let result = map(image.build());
    let past = Qcow2Error::ClusterPastEnd { virtual_offset: 512, offset: 1 << 50, file_len: 7 * 512 };
    assert_eq!(qcow2_error(result), Some(past));
}

#[test]
fn compressed_entries_split_as_the_specification_says() {
    // Clusters of 512 bytes: one bit of sectors, 61 of offset.
    for (entry, offset, len) in [
        (1 << 62 | 1 << 61 | 0x1234, 0x1234, 1024 - 0x34),
        (1 << 62 | 0x1200, 0x1200, 512),
        (1 << 62 | 0x13ff, 0x13ff, 1),
    ] {
        let extents = map(Qcow2Builder::v3().l2(&[entry]).build()).unwrap();
        let codec = Codec::Deflate;
        let kind = Kind::Encoded { disk: DiskId(0), offset, len, padding: 0, codec, cluster_size: 512, skip: 0 };
        assert_eq!(extents[0], Extent { start: 0, len: 512, kind });
    }
}

/// Images of 16 KiB clusters: subclusters of 512 bytes.
fn extended(entry: u64, bitmap: u64) -> Vec<u8> {
    let mut image = Qcow2Builder::v3().header(|header| {
        header.incompatible_features = 16.into();
        header.cluster_bits = 14.into();
        header.l1_size = 1.into();
        header.refcount_table_offset = 16384.into();
        header.l1_table_offset = 32768.into();
    });
    image.put(32768, (49152u64 | 1 << 63).to_be_bytes());
    image.put(49152, entry.to_be_bytes());
    image.put(49160, bitmap.to_be_bytes());
    image.put(65536, [7; 16384]);
    image.build()
}

/// C2.
#[test]
fn subclusters_are_allocated_zero_or_holes() {
    let extents = map(extended(65536, 0b1011 | 0b0100 << 32)).unwrap();
    let data = |start, len, offset| Extent { start, len, kind: Kind::Data { disk: DiskId(0), offset } };
    assert_eq!(extents[0], data(0, 1024, 65536));
    assert_eq!(extents[1], Extent { start: 1024, len: 512, kind: Kind::Zero });
    assert_eq!(extents[2], data(1536, 512, 65536 + 1536));
    assert_eq!(extents[3], Extent { start: 2048, len: (1 << 20) - 2048, kind: Kind::Hole });
    let extents = map(extended(0, 1 << 63)).unwrap();
    assert_eq!(extents[1], Extent { start: 31 * 512, len: 512, kind: Kind::Zero });
    for (entry, bitmap) in [(0, 1), (65536, 1 | 1 << 32)] {
        let refused = Qcow2Error::Subclusters { virtual_offset: 0, bitmap };
        assert_eq!(qcow2_error(map(extended(entry, bitmap))), Some(refused));
    }
    // Bit 0 of the entry is no zero flag here.
    assert_eq!(map(extended(65536 | 1, 0xffff_ffff)).unwrap()[0], data(0, 16384, 65536));
}

/// What `qemu-img map` shows of a file, in our words: start, length, kind, offset.
fn theirs(dir: &Path, file: &str) -> Vec<(u64, u64, &'static str, Option<u64>)> {
    let text = qemu_img(dir, &format!("map --output=json {file}")).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    let mut all: Vec<(u64, u64, &str, Option<u64>)> = Vec::new();
    for entry in json.as_array().unwrap() {
        let number = |key: &str| entry[key].as_u64();
        let flag = |key: &str| entry[key].as_bool().unwrap_or(false);
        let (start, len) = (number("start").unwrap(), number("length").unwrap());
        let next = if flag("compressed") {
            (start, len, "compressed", None)
        } else if flag("data") && !flag("zero") {
            (start, len, "data", number("offset"))
        } else {
            (start, len, "zero", None)
        };
        push(&mut all, next);
    }
    all
}

/// Adds an entry, merged with the one before where it goes on.
fn push(all: &mut Vec<(u64, u64, &'static str, Option<u64>)>, next: (u64, u64, &'static str, Option<u64>)) {
    if let Some(last) = all.last_mut() {
        let goes_on = last.3.map(|offset| offset + last.1) == next.3;
        if last.2 == next.2 && goes_on {
            last.1 += next.1;
            return;
        }
    }
    all.push(next);
}

#[test]
fn the_map_is_qemu_imgs() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let writes = "write -P 1 0 100k; write -P 2 1M 65536; write -z 1M 8k; write -P 3 1500k 1234k; discard 2M 64k; \
                  write -P 4 5119k 1k; write -z 4M 64k; write -c -P 5 3M 64k; write -c -P 6 3200k 64k";
    for (index, options) in [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=4k",
        "compat=0.10",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,cluster_size=64k",
        "compression_type=zstd",
    ]
    .iter()
    .enumerate()
    {
        let file = format!("{index}.qcow2");
        qemu_img(dir, &format!("create -q -f qcow2 -o {options} {file} 5M")).unwrap();
        for command in writes.split(';') {
            // Not every cluster size takes every compressed write.
            let _ = qemu_io(dir, &file, command);
        }
        let mut ours = Vec::new();
        for extent in map(std::fs::read(dir.join(&file)).unwrap()).unwrap() {
            let (kind, offset) = match extent.kind {
                Kind::Data { offset, .. } => ("data", Some(offset)),
                Kind::Encoded { .. } => ("compressed", None),
                Kind::Zero | Kind::Hole | Kind::Reserved { .. } => ("zero", None),
            };
            push(&mut ours, (extent.start, extent.len, kind, offset));
        }
        assert_eq!(ours, theirs(dir, &file), "{options}");
    }
}
