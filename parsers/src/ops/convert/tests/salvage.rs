//! What can't be read becomes zeros, and is told.

use super::options::options;
use super::{convert_of, job, read, run_in};
use crate::testing::{Fault, Machine, qemu_img, qemu_io, scratch};
use instar_abi::error::{Error, Qcow2Error, ReadError};
use instar_abi::format::Format;
use instar_abi::reply::Frame;
use instar_abi::request::{LayerId, Request, TargetFormat};
use std::ops::Range;

fn lost(machine: &Machine) -> Vec<Range<u64>> {
    let mut lost = Vec::new();
    for frame in &machine.frames {
        match frame {
            Frame::Unreadable(ranges) => lost.extend(ranges.iter().map(|r| r.offset..r.offset + r.len)),
            Frame::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    lost
}

fn salvaging(mut job: Request, lanes: u8) -> Request {
    convert_of(&mut job).salvage = true;
    job.lanes = lanes;
    job
}

#[test]
fn exactly_the_sectors_that_fail_are_lost() {
    let bytes: Vec<u8> = (0..5_000_192u32).map(|index| (index / 777) as u8 | 1).collect();
    let places: [(u64, u64); 5] =
        [(0, 512), (5_000_000, 5_000_192), (65_000, 66_000), (1 << 20, 3 << 20), (4_999_999, 5_000_000)];
    for (start, end) in places {
        let sectors = (start / 512 * 512)..end.next_multiple_of(512);
        let mut expected = bytes.clone();
        let len = expected.len();
        expected[sectors.start as usize..(sectors.end as usize).min(len)].fill(0);
        for (lanes, reverse) in [(1, false), (2, true), (4, false)] {
            let (job, disks) = job(vec![bytes.clone()], TargetFormat::Raw);
            let mut job = salvaging(job, lanes);
            job.layers[0].format = Some(Format::Raw);
            let mut machine = Machine::with_fault(&job, &disks, Fault::Bytes { disk: 0, start, end }, reverse);
            let mut ours = run_in(&mut machine, &job, &disks).unwrap();
            ours.truncate(len);
            assert!(ours == expected, "{start}");
            assert_eq!(lost(&machine), std::slice::from_ref(&sectors));
            // At most two reads a sector, beside what a sound disk costs.
            let most = 2 * (sectors.end - sectors.start) / 512 + 200;
            assert!(machine.requests() < most, "{} requests for {sectors:?}", machine.requests());
            // And without salvage it is an error.
            convert_of(&mut job).salvage = false;
            let mut machine = Machine::with_fault(&job, &disks, Fault::Bytes { disk: 0, start, end }, reverse);
            let result = run_in(&mut machine, &job, &disks);
            assert!(matches!(result, Err(Error::Read(ReadError::Io { .. }))), "{start}");
        }
    }
}

/// Compressed clusters and tables: a cluster that does not decode, one whose sectors are bad, and a broken table.
#[test]
fn broken_clusters_and_tables_are_lost_and_nothing_beside() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    let content: Vec<u8> = (0..3u32 << 20).map(|index| (index / 3 % 251) as u8 | 1).collect();
    std::fs::write(dir.join("a.raw"), &content).unwrap();
    qemu_img(dir, "convert -f raw -O qcow2 -c -o cluster_size=4k a.raw a.qcow2").unwrap();
    let sound = read(dir, "a.qcow2");
    let word = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap());
    let table = |index: usize| (word(word(40) as usize + 8 * index) & 0x00ff_ffff_ffff_fe00) as usize;
    let stream = |cluster: usize| (word(table(0) + 8 * cluster) & ((1 << 58) - 1)) as usize;
    let zeroed = |range: Range<usize>| {
        let mut expected = content.clone();
        expected[range].fill(0);
        expected
    };
    // A stream that is none; a table whose entry in the L1 table leads nowhere.
    let mut bent = sound.clone();
    bent[stream(10)..stream(10) + 8].fill(0xff);
    let mut lost_table = sound.clone();
    let l1 = word(40) as usize;
    lost_table[l1 + 8..l1 + 16].copy_from_slice(&(1u64 << 40).to_be_bytes());
    // A bad sector within a stream of cluster 300: every cluster with a part there is lost.
    let bad = stream(300) as u64 / 512 * 512;
    let touched = |cluster: &usize| {
        let more = word(table(0) + 8 * cluster) >> 58 & 15;
        let first = stream(*cluster) as u64 / 512 * 512;
        (first..first + (more + 1) * 512).contains(&bad)
    };
    let clusters: Vec<usize> = (290..310).filter(touched).collect();
    let by_sector = clusters[0] * 4096..(clusters[clusters.len() - 1] + 1) * 4096;
    let at = table(0) as u64;
    let cases = [
        (bent, Fault::None, 40_960..45_056),
        (lost_table, Fault::None, 2 << 20..3 << 20),
        (sound.clone(), Fault::Bytes { disk: 0, start: bad, end: bad + 512 }, by_sector),
        // Its table can't be read: all that it maps.
        (sound.clone(), Fault::Bytes { disk: 0, start: at, end: at + 4096 }, 0..2 << 20),
    ];
    for (case, (image, fault, range)) in cases.into_iter().enumerate() {
        let expected = zeroed(range.clone());
        for lanes in [1, 2, 4] {
            for target in [TargetFormat::Raw, TargetFormat::Qcow2(options(|_| {}))] {
                let is_raw = target == TargetFormat::Raw;
                let (job, disks) = job(vec![image.clone()], target);
                let job = salvaging(job, lanes);
                let mut machine = Machine::with_fault(&job, &disks, fault, false);
                let ours = run_in(&mut machine, &job, &disks).unwrap_or_else(|error| panic!("{case}: {error:?}"));
                let range = range.start as u64..range.end as u64;
                assert_eq!(lost(&machine), std::slice::from_ref(&range), "{case}");
                if is_raw {
                    assert!(ours == expected, "{case}");
                } else {
                    super::check_clean(dir, &ours, &expected);
                }
            }
        }
    }
}

#[test]
fn what_concerns_more_than_content_is_not_salvaged() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    qemu_img(dir, "create -q -f qcow2 a.qcow2 4M").unwrap();
    qemu_io(dir, "a.qcow2", "write -P 1 0 4M").unwrap();
    let (job, disks) = job(vec![read(dir, "a.qcow2")], TargetFormat::Raw);
    let mut job = salvaging(job, 1);
    let mut machine = Machine::with_fault(&job, &disks, Fault::Bytes { disk: 0, start: 0, end: 512 }, false);
    assert!(matches!(run_in(&mut machine, &job, &disks), Err(Error::Read(_))), "the header");
    job.budget.steps = 3;
    let result = run_in(&mut Machine::new(&job, &disks), &job, &disks);
    assert!(matches!(result, Err(Error::OutOfBudget(_))), "{:?}", result.is_ok());
    // Past the end of a truncated file is lost, cluster by cluster.
    let mut short = read(dir, "a.qcow2");
    short.truncate(1 << 20);
    let (job, disks) = self::job(vec![short], TargetFormat::Raw);
    let job = salvaging(job, 2);
    let mut machine = Machine::new(&job, &disks);
    run_in(&mut machine, &job, &disks).unwrap();
    assert_eq!(lost(&machine).len(), 1);
    let (job, disks) = self::job(vec![read(dir, "a.qcow2")[..1 << 20].to_vec()], TargetFormat::Raw);
    let result = super::run(&job, &disks);
    assert!(matches!(result, Err(Error::Qcow2 { error: Qcow2Error::ClusterPastEnd { .. }, .. })));
}

/// What is past the end of a file reads as zeros, also behind the first half of a stream: whether that decodes, the
/// codec says.
#[test]
fn a_stream_that_is_cut_by_the_end_of_the_file_is_decoded_as_by_qemu_img() {
    let Some(dir) = scratch() else { return };
    let dir = dir.path();
    // Zeros at the end of a stored block are content like any other.
    let mut content: Vec<u8> = (0..16_384u32).map(|index| (index.wrapping_mul(index) >> 9) as u8).collect();
    content[15_000..].fill(0);
    std::fs::write(dir.join("a.raw"), &content).unwrap();
    let (mut decoded, mut refused) = (0, 0);
    for compression in ["zlib", "zstd"] {
        let options = format!("cluster_size=4k,compression_type={compression}");
        qemu_img(dir, &format!("convert -f raw -O qcow2 -c -o {options} a.raw a.qcow2")).unwrap();
        let sound = read(dir, "a.qcow2");
        let word = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap());
        let table = (word(word(40) as usize) & 0x00ff_ffff_ffff_fe00) as usize;
        let stream = (word(table + 8 * 3) & ((1 << 58) - 1)) as usize;
        assert!(stream < sound.len() && stream > table, "the last stream is at the end of the file");
        for cut in (stream + 1..sound.len()).step_by(7) {
            std::fs::write(dir.join("cut.qcow2"), &sound[..cut]).unwrap();
            let theirs = qemu_img(dir, "convert -f qcow2 -O raw cut.qcow2 expected.raw");
            let (job, disks) = job(vec![sound[..cut].to_vec()], TargetFormat::Raw);
            let ours = super::run(&job, &disks);
            assert_eq!(
                ours.is_ok(),
                theirs.is_ok(),
                "{compression} cut at {cut}: {:?} {theirs:?}",
                ours.as_ref().err()
            );
            if let Ok(ours) = ours {
                assert!(ours == read(dir, "expected.raw"), "{compression} cut at {cut}");
            }
            *(if theirs.is_ok() { &mut decoded } else { &mut refused }) += 1;
        }
    }
    assert!(decoded > 0 && refused > 0, "{decoded} decoded, {refused} refused");
}

/// What is lost counts in the source that it is of, as in qemu-img's warnings.
#[test]
fn with_several_sources_places_count_in_each() {
    let bytes: Vec<u8> = (0..3u32 << 20).map(|index| (index / 777) as u8 | 1).collect();
    let check = |sources: &[LayerId], (start, end): (u64, u64), times: usize| {
        let (job, disks) = job(vec![bytes.clone(), bytes.clone()], TargetFormat::Raw);
        let mut job = salvaging(job, 2);
        job.layers.iter_mut().for_each(|layer| layer.format = Some(Format::Raw));
        convert_of(&mut job).sources = sources.to_vec();
        let mut machine = Machine::with_fault(&job, &disks, Fault::Bytes { disk: 1, start, end }, false);
        run_in(&mut machine, &job, &disks).unwrap();
        assert_eq!(lost(&machine), vec![start..end; times]);
    };
    let (one, other) = (LayerId(0), LayerId(1));
    check(&[one, other], (1 << 20, (1 << 20) + 512), 1);
    check(&[other, one, other], (512, 1024), 2);
    // The end of one and the start of the next are two places.
    check(&[other, other], (0, 3 << 20), 2);
}
