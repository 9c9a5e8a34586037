//! `convert` in real VMs, judged by qemu-img: content by `compare`, structure by `check`, facts by `info`.

use crate::common::{binaries, has, make, run, scratch, shell};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn instar(needs: &[&str]) -> Option<PathBuf> {
    let binaries = binaries()?;
    needs.iter().all(|program| has(program)).then(|| binaries.join("instar"))
}

/// Converts, and lets qemu-img judge the result.
fn convert_and_judge(directory: &Path, instar: &Path, from: &str, source: &str, to: &str) {
    let target = format!("{source}.{from}-{to}");
    let output = run(directory, instar, &["convert", "-f", from, "-O", to, source, &target]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{source} to {to}: {errors}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "silent on success: {errors}");
    judge(directory, from, source, to, &target);
}

fn judge(directory: &Path, from: &str, source: &str, to: &str, target: &str) {
    make(directory, &format!("qemu-img compare -f {from} -F {to} {source} {target} >/dev/null"));
    let reference = format!("{target}.ref");
    make(directory, &format!("qemu-img convert -f {from} -O {to} {source} {reference}"));
    if to == "qcow2" {
        make(directory, &format!("qemu-img check -f qcow2 {target} >/dev/null"));
        let facts = |image: &str| {
            let text = run(directory, Path::new("qemu-img"), &["info", "-f", "qcow2", image]).stdout;
            let text = String::from_utf8(text).expect("UTF-8").replace(image, "IMAGE");
            let own = |line: &&str| !line.starts_with("disk size") && !line.starts_with("    ");
            let specific = |line: &&str| line.starts_with("    ") && !line.contains("size") && !line.contains("length");
            let lines = text.lines().filter(|line| own(line) || specific(line));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(facts(target), facts(&reference));
    }
    let len = |image: &str| std::fs::metadata(directory.join(image)).expect("it is there").len();
    let (ours, theirs) = (len(target), len(&reference));
    match to {
        "raw" => assert_eq!(ours, theirs, "{target}"),
        _ => assert!(ours <= theirs + theirs / 50, "{target}: {ours} bytes, qemu-img's has {theirs}"),
    }
    for name in [target, &reference] {
        std::fs::remove_file(directory.join(name)).expect("removable");
    }
}

#[test]
fn raw_images_of_odd_sizes() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    for size in [0u64, 1, 511, 512, 513, 4096, 65535, 65536, 65537, 1_000_000, 3 << 20, (8 << 20) + 7] {
        let name = format!("r{size}");
        make(directory.path(), &format!("seq 1 2000000 | head -c {size} >{name}"));
        for to in ["qcow2", "raw"] {
            convert_and_judge(directory.path(), &instar, "raw", &name, to);
        }
    }
}

#[test]
fn sparse_and_zero_content() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "truncate -s 1T huge; \
         for at in 0 1M 5G 300G 1099511562240; do qemu-io -f raw -c \"write -P 7 $at 64k\" huge >/dev/null; done; \
         truncate -s 64M holes; qemu-io -f raw -c 'write -P 1 3k 5k' -c 'write -P 2 40M 1M' -c 'write -P 0 50M 1M' holes \
         >/dev/null; \
         head -c 8M /dev/zero >zeros; \
         for i in $(seq 1 2000); do printf x; head -c 4095 /dev/zero; done >striped",
    );
    for name in ["huge", "holes", "zeros", "striped"] {
        for to in ["qcow2", "raw"] {
            if (name, to) != ("huge", "raw") {
                convert_and_judge(directory.path(), &instar, "raw", name, to);
            }
        }
    }
    // Holes stay holes.
    let script = format!("{} convert -f raw -O raw holes copy; stat -c %b holes copy", instar.display());
    let output = shell(directory.path(), &script);
    let blocks: Vec<u64> =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| line.parse().expect("a number")).collect();
    assert!(blocks[1] <= blocks[0], "{blocks:?}");
}

#[test]
fn a_real_file_system_of_2_gib() {
    let Some(instar) = instar(&["qemu-img", "mkfs.ext4", "e2fsck"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "mkdir tree; cp -r /usr/share/perl5 /usr/lib/x86_64-linux-gnu/perl-base tree/ 2>/dev/null || true; \
         head -c 30M /dev/urandom >tree/random; seq 1 3000000 >tree/text; \
         truncate -s 2G disk; mkfs.ext4 -q -d tree disk",
    );
    convert_and_judge(directory.path(), &instar, "raw", "disk", "qcow2");
    let round = format!(
        "{0} convert -f raw -O qcow2 disk there; {0} convert -O raw there back; e2fsck -fn back >/dev/null; cmp disk back",
        instar.display()
    );
    make(directory.path(), &round);
}

#[test]
fn every_readable_feature_of_qcow2() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 900000 >text; head -c 3M /dev/urandom >>text; truncate -s 16M text; \
         for c in 512 4k 64k 2M; do \
           qemu-img convert -f raw -O qcow2 -o cluster_size=$c text plain-$c; \
           qemu-img convert -c -f raw -O qcow2 -o cluster_size=$c text zlib-$c; \
           qemu-img convert -c -f raw -O qcow2 -o cluster_size=$c,compression_type=zstd text zstd-$c; \
           qemu-img convert -f raw -O qcow2 -o cluster_size=$c,compat=0.10 text v2-$c; \
           qemu-img convert -f raw -O qcow2 -o cluster_size=$c,refcount_bits=1 text narrow-$c; \
         done; \
         for c in 16k 64k 2M; do \
           qemu-img convert -f raw -O qcow2 -o extended_l2=on,cluster_size=$c text ext-$c; \
           qemu-io -c 'write -P 9 2k 3k' -c 'write -z 1M 2k' -c 'write -P 8 15M 512' ext-$c >/dev/null; \
         done; \
         cp plain-64k snapped; qemu-img snapshot -c s snapped; qemu-io -c 'write -P 5 0 1M' snapped >/dev/null; \
         cp plain-64k zeroed; qemu-io -c 'write -z 0 1M' -c 'discard 2M 1M' -c 'write -z -u 4M 1M' zeroed >/dev/null; \
         qemu-img create -q -f qcow2 -o preallocation=metadata prealloc 16M",
    );
    let mut names: Vec<String> = ["snapped", "zeroed", "prealloc"].map(str::to_owned).to_vec();
    for cluster in ["512", "4k", "64k", "2M"] {
        names.extend(["plain", "zlib", "zstd", "v2", "narrow"].map(|kind| format!("{kind}-{cluster}")));
    }
    names.extend(["16k", "64k", "2M"].map(|cluster| format!("ext-{cluster}")));
    for name in names {
        for to in ["raw", "qcow2"] {
            convert_and_judge(directory.path(), &instar, "qcow2", &name, to);
        }
    }
}

#[test]
fn chains_and_data_files_are_flattened() {
    let Some(instar) = instar(&["qemu-img", "qemu-io"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 700000 >base; truncate -s 5000000 base; \
         qemu-img create -q -f qcow2 -b base -F raw -o cluster_size=4k one 8M; \
         qemu-io -c 'write -P 3 1M 100k' -c 'write -z 2M 64k' one >/dev/null; \
         qemu-img create -q -f qcow2 -b one -F qcow2 two 6M; qemu-io -c 'write -P 4 3M 1M' two >/dev/null; \
         qemu-img create -q -f qcow2 -b two -F qcow2 -o extended_l2=on three 16M; \
         qemu-io -c 'write -P 6 5k 2k' -c 'write -P 7 10M 1M' three >/dev/null; \
         qemu-img create -q -f qcow2 -o data_file=data.raw external 4M; qemu-io -c 'write -P 8 1M 1M' external >/dev/null; \
         qemu-img create -q -f qcow2 -o data_file=data2.raw,data_file_raw=on external-raw 4M; \
         qemu-io -c 'write -P 9 0 3M' external-raw >/dev/null",
    );
    for name in ["one", "two", "three", "external", "external-raw"] {
        for to in ["raw", "qcow2"] {
            convert_and_judge(directory.path(), &instar, "qcow2", name, to);
        }
    }
}

#[test]
fn the_same_bytes_with_any_number_of_lanes() {
    let Some(binaries) = binaries() else { return };
    let directory = scratch();
    make(directory.path(), "seq 1 4000000 >text; head -c 20M /dev/urandom >>text; truncate -s 100M text");
    let instar = binaries.join("instar");
    for lanes in ["1", "2", "4"] {
        let target = format!("out{lanes}");
        let output =
            run(directory.path(), &instar, &["convert", "-m", lanes, "-f", "raw", "-O", "qcow2", "text", &target]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    make(directory.path(), "cmp out1 out2; cmp out1 out4");
}

#[test]
fn progress_is_qemu_imgs() {
    let Some(binaries) = binaries() else { return };
    let directory = scratch();
    make(directory.path(), "head -c 64M /dev/urandom >noise");
    let ours = run(
        directory.path(),
        &binaries.join("qemu-img"),
        &["convert", "-p", "-f", "raw", "-O", "qcow2", "noise", "out"],
    );
    let text = String::from_utf8(ours.stdout).expect("ASCII");
    assert!(text.starts_with("    (0.00/100%)\r") && text.ends_with("    (100.00/100%)\r\n"), "{text:?}");
    let mut last = -1.0;
    for record in text.trim_end().split('\r').filter(|record| !record.is_empty()) {
        let percent = record.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix("/100%)")).expect(record);
        let percent: f64 = percent.parse().expect("a number");
        assert!(percent >= last);
        last = percent;
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name_and_makes_nothing() {
    let Some(binaries) = binaries() else { return };
    let directory = scratch();
    make(directory.path(), "head -c 1M /dev/urandom >noise");
    for (arguments, name) in [
        (&["--bitmaps"][..], "bitmaps"),
        (&["-o", "size=1G"], "size"),
        (&["-o", "encrypt.format=luks"], "encrypt.format"),
    ] {
        let mut call = vec!["convert", "-f", "raw", "-O", "qcow2"];
        call.extend(arguments);
        call.extend(["noise", "out"]);
        let output = run(directory.path(), &binaries.join("instar"), &call);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name), "{arguments:?}");
        assert!(!directory.path().join("out").exists(), "{arguments:?}");
    }
    for format in ["vmdk", "vdi", "vhdx", "vpc", "luks", "qed", "nonsense"] {
        let output =
            run(directory.path(), &binaries.join("instar"), &["convert", "-f", "raw", "-O", format, "noise", "out"]);
        assert_eq!(output.status.code(), Some(1), "{format}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(format));
        assert!(!directory.path().join("out").exists(), "{format}");
    }
}

#[test]
fn a_failed_run_leaves_no_output_file() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "qemu-img create -q -f qcow2 -u -b gone -F raw orphan 1M; \
         seq 1 900000 >text; qemu-img convert -c -f raw -O qcow2 text broken; \
         head -c 200k /dev/urandom | dd of=broken bs=1k seek=350 conv=notrunc 2>/dev/null; \
         head -c 100 /dev/urandom >noise",
    );
    for source in ["orphan", "broken", "noise", "gone"] {
        let output = run(directory.path(), &instar, &["convert", "-O", "raw", source, "out"]);
        assert_eq!(output.status.code(), Some(1), "{source}");
        assert!(!output.stderr.is_empty(), "{source}");
        assert!(!directory.path().join("out").exists(), "{source}");
    }
}

#[test]
fn a_full_file_system_is_an_error_and_leaves_nothing() {
    let Some(instar) = instar(&[]) else { return };
    let directory = scratch();
    make(directory.path(), "head -c 8M /dev/urandom >noise");
    // A limit on file size stands in for a full file system: writes fail with EFBIG.
    let script = format!("ulimit -f 4096; {} convert -f raw -O qcow2 noise out", instar.display());
    let output = shell(directory.path(), &script);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!directory.path().join("out").exists());
}

#[test]
fn a_killed_run_leaves_no_output_file() {
    let Some(instar) = instar(&[]) else { return };
    let directory = scratch();
    make(directory.path(), "truncate -s 6G big; head -c 512M /dev/urandom | dd of=big conv=notrunc 2>/dev/null");
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut child = Command::new(&instar)
            .args(["convert", "-f", "raw", "-O", "qcow2", "big", "out"])
            .current_dir(directory.path())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let started = Instant::now();
        // The target is begun before the child that runs the guest, and has no name before its end.
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let has_child = || std::fs::read_to_string(&children).is_ok_and(|text| !text.is_empty());
        while !has_child() && started.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        make(directory.path(), &format!("kill -{signal} {}", child.id()));
        let status = child.wait().expect("it ends");
        if status.success() {
            println!("skipped: needs a machine on which half a GiB takes longer than a signal");
            return;
        }
        assert_eq!(status.code(), Some(code), "{signal}");
        let left = std::fs::read_dir(directory.path()).expect("readable").count();
        assert_eq!(left, 1, "{signal}: only the source is there");
    }
}

#[test]
fn the_source_stays_as_it_was() {
    let Some(instar) = instar(&["qemu-img"]) else { return };
    let directory = scratch();
    make(
        directory.path(),
        "seq 1 500000 >text; qemu-img convert -c -f raw -O qcow2 text a.img; cp -p --sparse=always a.img b.img; chmod 444 a.img",
    );
    make(directory.path(), &format!("{} convert -O raw a.img out; cmp a.img b.img", instar.display()));
    let same = format!("{} convert -f raw -O raw text text", instar.display());
    assert_eq!(shell(directory.path(), &format!("set +e; {same}")).status.code(), Some(1), "onto itself");
    make(directory.path(), "seq 1 500000 | cmp - text");
}
